package runtime

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/mount"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// All mounts of a container are made by descriptor (fsopen(2), open_tree(2),
// move_mount(2)), and every path inside the root file system is resolved by the
// kernel as if that were "/" (openat2(2), RESOLVE_IN_ROOT): a symlink in a
// hostile image leads nowhere outside, whatever it is swapped for meanwhile.

// setattr appends mount_setattr(2) on the mount that fd is.
func (b *builder) setattr(fd script.Arg, target string, set, clear, propagation uint64, recursive bool, source, why string) {
	flags := unix.AT_EMPTY_PATH
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	ev := explain.Event{Op: "mount_setattr", Target: target, Source: source, Why: why}
	if b.Timed() {
		ev.Value = attrString(set, clear)
		if propagation != 0 {
			ev.Value = propagationString(propagation, recursive)
		}
	}
	b.call(ev, unix.SYS_MOUNT_SETATTR, fd, b.String(""), script.Int(flags), b.Words(set, clear, propagation, 0), script.Int(32))
}

// attach appends move_mount(2) of the detached mount fd onto the place that
// target (an O_PATH descriptor) is.
func (b *builder) attach(fd, target script.Arg, name, source, why string) {
	b.call(explain.Event{Op: "move_mount", Target: name, Source: source, Why: why},
		unix.SYS_MOVE_MOUNT, fd, b.String(""), target, b.String(""),
		script.Int(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// openTree appends open_tree(2): a detached copy of the mount at path below
// dir. With an empty path dir itself is copied.
func (b *builder) openTree(dir script.Arg, from string, recursive bool, source, why string) script.Var {
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if from == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	fd := b.NewVar(0)
	b.Do(script.Op{
		Nr: unix.SYS_OPEN_TREE, Args: []script.Arg{dir, b.String(from), script.Int(flags)}, Out: fd,
		Event: explain.Event{Op: "open_tree", Target: from, Value: "OPEN_TREE_CLONE", Source: source, Why: why},
	})
	return fd
}

// fsmount appends fsopen(2), fsconfig(2) for each option, and fsmount(2): a new,
// detached mount of a file system.
func (b *builder) fsmount(fstype, device string, flags, data []string, attr uint64, source, why string) script.Var {
	fs, mnt := b.NewVar(0), b.NewVar(0)
	b.Do(script.Op{
		Nr: unix.SYS_FSOPEN, Args: []script.Arg{b.String(fstype), script.Int(unix.FSOPEN_CLOEXEC)}, Out: fs,
		Event: explain.Event{Op: "fsopen", Target: fstype, Source: source, Why: why},
	})
	config := func(cmd int, key, value string) {
		k, v := script.Int(0), script.Int(0)
		if key != "" {
			k = b.String(key)
		}
		if cmd == unix.FSCONFIG_SET_STRING {
			v = b.String(value)
			key += "=" + value
		}
		b.call(explain.Event{Op: "fsconfig", Target: fstype, Value: key, Source: source},
			unix.SYS_FSCONFIG, fs.Get(), script.Int(cmd), k, v, script.Int(0))
	}
	if device != "" {
		config(unix.FSCONFIG_SET_STRING, "source", device)
	}
	for _, f := range flags {
		config(unix.FSCONFIG_SET_FLAG, f, "")
	}
	for _, d := range data {
		if key, value, ok := strings.Cut(d, "="); ok {
			config(unix.FSCONFIG_SET_STRING, key, value)
		} else if d != "" {
			config(unix.FSCONFIG_SET_FLAG, d, "")
		}
	}
	b.call(explain.Event{Op: "fsconfig", Target: fstype, Value: "create", Source: source},
		unix.SYS_FSCONFIG, fs.Get(), script.Int(unix.FSCONFIG_CMD_CREATE), script.Int(0), script.Int(0), script.Int(0))
	ev := explain.Event{Op: "fsmount", Target: fstype, Source: source}
	if b.Timed() {
		ev.Value = attrString(attr, 0)
	}
	b.Do(script.Op{
		Nr: unix.SYS_FSMOUNT, Args: []script.Arg{fs.Get(), script.Int(unix.FSMOUNT_CLOEXEC), script.Int(attr)}, Out: mnt, Event: ev,
	})
	b.closeFD(fs.Get())
	return mnt
}

// mounts appends config.json's mounts, in order (config.md: "The runtime MUST
// mount entries in the listed order"). It returns what must wait until nothing more
// has to be made in them.
func (b *builder) mounts(ns *nsPlan, bundle, cgroup string) (late []func(), err error) {
	for i := range b.spec.Mounts {
		m := &b.spec.Mounts[i]
		o, err := parseMountOptions(m.Options)
		if err != nil {
			return nil, fmt.Errorf("mounts[%d] (%s): %w", i, m.Destination, err)
		}
		if err := b.mount(m, &o, ns, bundle, cgroup, &late); err != nil {
			return nil, fmt.Errorf("mounts[%d] (%s): %w", i, m.Destination, err)
		}
	}
	return late, nil
}

func (b *builder) mount(m *specs.Mount, o *mountOptions, ns *nsPlan, bundle, cgroup string, late *[]func()) error {
	source := "mounts"
	why := mountWhy(m)
	if err := checkDestination(m); err != nil {
		return err
	}
	if o.copyUp {
		b.warn(fmt.Sprintf("mounts (%s): tmpcopyup is not supported: the tmpfs begins empty", m.Destination))
	}
	if o.remount {
		fd := b.resolve(m.Destination, 0)
		b.setattr(fd.Get(), m.Destination, o.set, o.clear, 0, false, source, why)
		b.closeFD(fd.Get())
		return nil
	}

	var mnt script.Arg
	dir := true
	switch {
	case o.bind || m.Type == "bind":
		src := m.Source
		if !filepath.IsAbs(src) {
			src = filepath.Join(bundle, src)
		}
		fi, err := os.Stat(src)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		dir = fi.IsDir()
		if mnt, err = b.bindSource(m, src, o, why); err != nil {
			return err
		}
	case m.Type == "cgroup" || m.Type == "cgroup2":
		if ns.own(unix.CLONE_NEWCGROUP) {
			mnt = b.fsmount("cgroup2", m.Source, nil, nil, o.set, source, why).Get()
			break
		}
		// Without a cgroup namespace a fresh mount would show every
		// cgroup of the host; the container sees its own.
		if cgroup == "" {
			return fmt.Errorf("the container has no cgroup to show")
		}
		mnt = b.openTree(cwd, cgroup, false, source, why).Get()
		b.setattr(mnt, m.Destination, o.set, o.clear, 0, false, source, why)
	case m.Type == "sysfs" && b.userns && !ns.own(unix.CLONE_NEWNET):
		// sysfs shows a network namespace, and may be mounted by its owner only.
		mnt = b.openTree(cwd, "/sys", true, source, why).Get()
		b.setattr(mnt, m.Destination, o.set, o.clear, 0, true, source, why)
	default:
		attr := o.set
		// Mount points may have to be made inside it first.
		if o.readonly && (m.Type == "tmpfs" || path.Clean(m.Destination) == "/dev") {
			attr &^= unix.MOUNT_ATTR_RDONLY
			dest := m.Destination
			*late = append(*late, func() {
				fd := b.resolve(dest, 0)
				b.setattr(fd.Get(), dest, unix.MOUNT_ATTR_RDONLY, 0, 0, false, source, "nothing more has to be made in it")
				b.closeFD(fd.Get())
			})
		}
		mnt = b.fsmount(m.Type, m.Source, o.superblock, o.data, attr, source, why).Get()
		if m.Type == "tmpfs" && !slices.ContainsFunc(o.data, func(d string) bool { return strings.HasPrefix(d, "mode=") }) {
			b.likeBefore(mnt, m.Destination)
		}
	}

	resolve := uint64(0)
	if m.Type == "proc" || m.Type == "sysfs" {
		// A symlink could lead to a volume, where another container renames
		// the folder before the paths in it are masked (CVE-2019-19921).
		resolve = unix.RESOLVE_NO_SYMLINKS
	}
	dest := m.Destination
	if resolve == 0 {
		dest = danglingTarget(b.spec.Root.Path, dest)
	}
	target := b.mountpointBy(dest, dir, resolve)
	b.attach(mnt, target.Get(), m.Destination, source, why)
	if o.propagation != 0 {
		b.setattr(mnt, m.Destination, 0, 0, o.propagation, false, source, "")
	}
	if o.propagationRec != 0 {
		b.setattr(mnt, m.Destination, 0, 0, o.propagationRec, true, source, "")
	}
	b.closeFD(target.Get())
	b.closeFD(mnt)
	return nil
}

// likeBefore appends giving the root of the new mount mnt the mode of the folder that
// it is going to hide, if there is one: a tmpfs over /run is not everybody's.
func (b *builder) likeBefore(mnt script.Arg, target string) {
	const modeAt = 28                                       // stx_mask … stx_gid come before stx_mode
	statx := make([]byte, 256)                              // struct statx
	statx[modeAt], statx[modeAt+1] = 0o1777&0xff, 0o1777>>8 // tmpfs's own default
	memory := b.Bytes(statx)
	absent := b.NewLabel()
	fd := b.resolve(target, absent)
	b.quiet("statx", target, unix.SYS_STATX, fd.Get(), b.String(""), script.Int(unix.AT_EMPTY_PATH), script.Int(unix.STATX_MODE), memory)
	b.closeFD(fd.Get())
	b.Place(absent)
	// fchmodat takes 16 bits of the eight bytes, without the file's type.
	b.quiet("chmod", target, unix.SYS_FCHMODAT, mnt, b.String("."), b.VarIn(memory, modeAt).Get())
}

// bindSource appends a detached copy of src's mount with the wanted attributes.
// The parent makes the copy where the first process could not: in a user
// namespace it may have no right to walk there, and none to map IDs.
func (b *builder) bindSource(m *specs.Mount, src string, o *mountOptions, why string) (script.Arg, error) {
	const source = "mounts"
	var mnt script.Arg
	idmapped := o.idmap != "" || len(m.UIDMappings) > 0
	if b.userns || idmapped {
		f, err := cloneTree(src, o.recursive, source, b.trace)
		if err != nil {
			return mnt, err
		}
		b.owned = append(b.owned, f)
		mnt = script.Int(b.file(f))
		if idmapped {
			if err := b.idmap(f, m, o.idmap == "ridmap"); err != nil {
				return mnt, err
			}
		}
	} else {
		mnt = b.openTree(cwd, src, o.recursive, source, why).Get()
	}
	if o.set|o.clear != 0 {
		b.setattr(mnt, src, o.set, o.clear, 0, false, source, "")
	}
	if o.setRec|o.clearRec != 0 {
		b.setattr(mnt, src, o.setRec, o.clearRec, 0, true, source, "")
	}
	return mnt, nil
}

// idmap lets the detached mount show other owners: by the mount's own mappings
// or, without any, by the container's.
func (b *builder) idmap(tree *os.File, m *specs.Mount, recursive bool) error {
	uids, gids := m.UIDMappings, m.GIDMappings
	if len(uids) == 0 {
		uids, gids = b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings
	}
	if len(uids) == 0 || len(gids) == 0 {
		return fmt.Errorf("an idmapped mount needs uidMappings and gidMappings, its own or the container's")
	}
	userns, err := mount.UserNamespace(idMappings(uids), idMappings(gids))
	if err != nil {
		return err
	}
	defer userns.Close()
	ev := explain.Event{
		Op: "mount_setattr", Target: m.Source, Value: "idmap", Source: "mounts.uidMappings",
		Why: "the files' owners appear as others in this mount, and nowhere else",
	}
	err = b.trace.Do(ev, func() error { return mount.IDMap(int(tree.Fd()), userns, recursive) })
	if err != nil {
		return fmt.Errorf("idmap %s: %w", m.Source, err)
	}
	return nil
}

// cloneTree is open_tree(2) with OPEN_TREE_CLONE, made slave so that nothing
// mounted in the copy spreads to where it came from.
func cloneTree(path string, recursive bool, source string, trace *explain.Tracer) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	attrFlags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
		attrFlags |= unix.AT_RECURSIVE
	}
	var fd int
	ev := explain.Event{Op: "open_tree", Target: path, Value: "OPEN_TREE_CLONE", Source: source, Why: "a detached copy of the mount, for the first process to attach"}
	err := trace.Do(ev, func() (err error) {
		fd, err = unix.OpenTree(unix.AT_FDCWD, path, flags)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open_tree %s: %w", path, err)
	}
	ev = explain.Event{Op: "mount_setattr", Target: path, Value: propagationString(unix.MS_SLAVE, recursive), Source: source, Why: "what is mounted in the copy stays in it"}
	err = trace.Do(ev, func() error {
		return unix.MountSetattr(fd, "", attrFlags, &unix.MountAttr{Propagation: unix.MS_SLAVE})
	})
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("mount_setattr %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// checkDestination refuses mounts that would let a container fool those who
// trust its /proc and /sys (CVE-2019-16884): over /proc itself only a procfs
// may be mounted, and inside it only the files that lxcfs replaces.
func checkDestination(m *specs.Mount) error {
	dest := path.Clean("/" + m.Destination)
	rest, in := strings.CutPrefix(dest, "/proc")
	switch {
	case dest == "/":
		return fmt.Errorf("a mount over the root file system is not possible")
	case !in || rest != "" && rest[0] != '/':
		return nil
	case rest == "":
		if m.Type == "proc" || m.Type == "bind" || m.Type == "none" || m.Type == "" || m.Type == "tmpfs" {
			return nil
		}
		return fmt.Errorf("only a proc file system can be mounted on /proc, not %s", m.Type)
	}
	switch rest {
	case "/cpuinfo", "/diskstats", "/meminfo", "/stat", "/swaps", "/uptime", "/loadavg", "/slabinfo",
		"/sys/kernel/ns_last_pid", "/sys/crypto/fips_enabled", "/sys/kernel/random/boot_id":
		return nil
	}
	return fmt.Errorf("mounts inside /proc are refused: a container could hide from security modules there")
}

// mountWhy is the line for the learner.
func mountWhy(m *specs.Mount) string {
	switch m.Type {
	case "proc":
		return "ps and friends read /proc; a fresh one shows only this PID namespace"
	case "sysfs":
		return "shows this network namespace's devices under /sys/class/net"
	case "tmpfs":
		return "memory-backed: gone with the container"
	case "devpts":
		return "a private instance of pseudo-terminals"
	case "mqueue":
		return "POSIX message queues of this IPC namespace"
	case "cgroup", "cgroup2":
		return "the container can read its own limits and usage"
	}
	return "a part of the host's file tree appears in the container"
}
