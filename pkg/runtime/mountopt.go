package runtime

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOptions are the options of one mount of config.json, sorted by the
// system call that applies them.
type mountOptions struct {
	bind, recursive, remount bool

	// mount_setattr(2): of this mount, and of the whole tree below it
	set, clear       uint64
	setRec, clearRec uint64

	propagation    uint64 // of this mount, MS_SHARED …
	propagationRec uint64 // of the tree

	superblock []string // fsconfig(2) flags: sync, dirsync, …
	readonly   bool     // "ro" given
	data       []string // everything else, for the file system itself
	idmap      string   // "", idmap, ridmap
	copyUp     bool     // tmpcopyup
}

// parseMountOptions sorts options; see mount(8) and config.md, "Linux mount
// options". What is not generic is the file system's.
func parseMountOptions(options []string) (o mountOptions, err error) {
	for _, opt := range options {
		if set, clear, ok := mountAttr(opt); ok {
			o.set = o.set&^clear | set
			o.clear = o.clear&^set | clear
			o.readonly = o.set&unix.MOUNT_ATTR_RDONLY != 0
			continue
		}
		if rest, ok := strings.CutPrefix(opt, "r"); ok {
			if set, clear, ok := mountAttr(rest); ok {
				o.setRec = o.setRec&^clear | set
				o.clearRec = o.clearRec&^set | clear
				continue
			}
		}
		switch opt {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.recursive = true, true
		case "remount":
			o.remount = true
		case "defaults", "silent", "loud", "async", "nomand", "norelatime", "nostrictatime", "noiversion", "nolazytime":
		case "sync", "dirsync", "mand", "lazytime", "iversion":
			o.superblock = append(o.superblock, opt)
		case "shared":
			o.propagation = unix.MS_SHARED
		case "rshared":
			o.propagationRec = unix.MS_SHARED
		case "slave":
			o.propagation = unix.MS_SLAVE
		case "rslave":
			o.propagationRec = unix.MS_SLAVE
		case "private":
			o.propagation = unix.MS_PRIVATE
		case "rprivate":
			o.propagationRec = unix.MS_PRIVATE
		case "unbindable":
			o.propagation = unix.MS_UNBINDABLE
		case "runbindable":
			o.propagationRec = unix.MS_UNBINDABLE
		case "idmap", "ridmap":
			o.idmap = opt
		case "tmpcopyup":
			o.copyUp = true
		default:
			if strings.IndexByte(opt, 0) >= 0 {
				return o, fmt.Errorf("mount option %q holds a NUL byte", opt)
			}
			// "a=1,b=2" in one string is what some generators write
			o.data = append(o.data, strings.Split(opt, ",")...)
		}
	}
	return o, nil
}

// mountAttr maps an option to mount_setattr(2)'s attributes to set and to
// clear. The access time options are one field: to set one is to clear it first.
func mountAttr(opt string) (set, clear uint64, ok bool) {
	const atime = unix.MOUNT_ATTR__ATIME
	switch opt {
	case "ro":
		return unix.MOUNT_ATTR_RDONLY, 0, true
	case "rw":
		return 0, unix.MOUNT_ATTR_RDONLY, true
	case "nosuid":
		return unix.MOUNT_ATTR_NOSUID, 0, true
	case "suid":
		return 0, unix.MOUNT_ATTR_NOSUID, true
	case "nodev":
		return unix.MOUNT_ATTR_NODEV, 0, true
	case "dev":
		return 0, unix.MOUNT_ATTR_NODEV, true
	case "noexec":
		return unix.MOUNT_ATTR_NOEXEC, 0, true
	case "exec":
		return 0, unix.MOUNT_ATTR_NOEXEC, true
	case "nodiratime":
		return unix.MOUNT_ATTR_NODIRATIME, 0, true
	case "diratime":
		return 0, unix.MOUNT_ATTR_NODIRATIME, true
	case "nosymfollow":
		return unix.MOUNT_ATTR_NOSYMFOLLOW, 0, true
	case "symfollow":
		return 0, unix.MOUNT_ATTR_NOSYMFOLLOW, true
	case "relatime":
		return unix.MOUNT_ATTR_RELATIME, atime, true
	case "noatime":
		return unix.MOUNT_ATTR_NOATIME, atime, true
	case "strictatime":
		return unix.MOUNT_ATTR_STRICTATIME, atime, true
	case "atime":
		return unix.MOUNT_ATTR_RELATIME, atime, true
	}
	return 0, 0, false
}

// attrString spells attributes for explain.
func attrString(set, clear uint64) string {
	var words []string
	for _, a := range []struct {
		bit     uint64
		on, off string
	}{
		{unix.MOUNT_ATTR_RDONLY, "ro", "rw"}, {unix.MOUNT_ATTR_NOSUID, "nosuid", "suid"},
		{unix.MOUNT_ATTR_NODEV, "nodev", "dev"}, {unix.MOUNT_ATTR_NOEXEC, "noexec", "exec"},
		{unix.MOUNT_ATTR_NODIRATIME, "nodiratime", "diratime"},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow", "symfollow"}, {unix.MOUNT_ATTR_IDMAP, "idmap", ""},
	} {
		switch {
		case set&a.bit != 0:
			words = append(words, a.on)
		case clear&a.bit != 0:
			words = append(words, a.off)
		}
	}
	switch set & unix.MOUNT_ATTR__ATIME {
	case unix.MOUNT_ATTR_NOATIME:
		words = append(words, "noatime")
	case unix.MOUNT_ATTR_STRICTATIME:
		words = append(words, "strictatime")
	default:
		if clear&unix.MOUNT_ATTR__ATIME != 0 {
			words = append(words, "relatime")
		}
	}
	return strings.Join(words, ",")
}

// propagationFlag maps linux.rootfsPropagation to mount flags; recursive by its r.
func propagationFlag(s string) (flag uint64, recursive bool, err error) {
	o, _ := parseMountOptions([]string{s})
	switch {
	case s == "":
		return 0, false, nil
	case o.propagation != 0:
		return o.propagation, false, nil
	case o.propagationRec != 0:
		return o.propagationRec, true, nil
	}
	return 0, false, fmt.Errorf("linux.rootfsPropagation %q is not one of shared, slave, private, unbindable and their r… forms", s)
}

func propagationString(flag uint64, recursive bool) string {
	name := map[uint64]string{
		unix.MS_SHARED: "shared", unix.MS_SLAVE: "slave", unix.MS_PRIVATE: "private", unix.MS_UNBINDABLE: "unbindable",
	}[flag]
	if recursive {
		return "r" + name
	}
	return name
}
