package bundle

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// defaultShmSize is what docker gives /dev/shm without --shm-size.
const defaultShmSize = 64 << 20

// mounts are docker's default ones, then the container's files and the user's.
func (b *builder) mounts() error {
	s := &b.in.Spec
	if s.ShmSize < 0 {
		return invalid("invalid --shm-size %d: it is negative", s.ShmSize)
	}
	own, err := b.ownMounts()
	if err != nil {
		return err
	}
	replaced := func(target string) bool {
		return slices.ContainsFunc(own, func(m specs.Mount) bool {
			// What is mounted on /dev replaces everything in it, too.
			return m.Destination == target || m.Destination == "/dev" && strings.HasPrefix(target, "/dev/")
		})
	}
	for _, m := range b.defaultMounts() {
		if !replaced(m.Destination) {
			b.spec.Mounts = append(b.spec.Mounts, m)
		}
	}
	for _, f := range []struct{ target, source string }{
		{"/etc/hosts", b.in.Paths.Hosts},
		{"/etc/hostname", b.in.Paths.Hostname},
		{"/etc/resolv.conf", b.in.Paths.ResolvConf},
	} {
		if f.source == "" || replaced(f.target) {
			continue
		}
		m := specs.Mount{Destination: f.target, Type: "bind", Source: f.source, Options: []string{"rbind", "rprivate"}}
		if s.ReadOnly {
			m.Options = append(m.Options, "ro")
		}
		own = append(own, m)
	}
	if b.spec.Process.Args[0] == initTarget {
		own = append(own, specs.Mount{
			Destination: initTarget, Type: "bind", Source: b.in.Paths.Init, Options: []string{"bind", "rprivate", "ro"},
		})
	}
	// Outer ones first, whatever the order in which they were asked for.
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	b.spec.Mounts = append(b.spec.Mounts, own...)
	return nil
}

// defaultMounts are the kernel's own file systems.
func (b *builder) defaultMounts() []specs.Mount {
	s := &b.in.Spec
	access := "ro"
	if s.Privileged {
		access = "rw"
	}
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if mappings := b.spec.Linux.GIDMappings; mappings == nil || mappings[0].Size > 5 {
		pts = append(pts, "gid=5") // tty, in every distribution
	}
	shm := specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
		Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(defaultShmSize, 10)}}
	if s.ShmSize > 0 {
		shm.Options[4] = "size=" + strconv.FormatInt(s.ShmSize, 10)
	}
	if s.IPCMode == modeHost {
		shm = specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "rprivate"}}
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: pts},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		shm,
	}
	if s.IPCMode == "none" {
		mounts = mounts[:len(mounts)-1]
	}
	return mounts
}

// ownMounts are -v, --tmpfs and --mount.
func (b *builder) ownMounts() ([]specs.Mount, error) {
	var own []specs.Mount
	seen := map[string]bool{}
	for _, m := range b.in.Spec.Mounts {
		target := path.Clean(m.Target)
		switch {
		case !path.IsAbs(m.Target):
			return nil, invalid("mount target %q is not an absolute path", m.Target)
		case target == "/":
			return nil, invalid("mount target %q is the container's root", m.Target)
		case strings.ContainsRune(m.Target, 0):
			return nil, invalid("mount target %q holds a zero byte", m.Target)
		case seen[target]:
			return nil, invalid("two mounts on %s", target)
		}
		seen[target] = true
		var mount specs.Mount
		var err error
		switch m.Type {
		case "bind":
			mount, err = b.bind(m)
		case "tmpfs":
			mount, err = tmpfs(m)
		default:
			err = invalid("mount on %s: unknown type %q", target, m.Type)
		}
		if err != nil {
			return nil, err
		}
		mount.Destination = target
		own = append(own, mount)
	}
	return own, nil
}

// bind is recursive, read-only all the way down if at all, and does not pass
// mounts on, unless the options say so.
func (b *builder) bind(m api.Mount) (specs.Mount, error) {
	if !path.IsAbs(m.Source) || strings.ContainsRune(m.Source, 0) {
		return specs.Mount{}, invalid("mount on %s: source %q is not an absolute path", m.Target, m.Source)
	}
	recursion, access, propagation := "rbind", "", "rprivate"
	for _, opt := range m.Options {
		switch opt {
		case "bind", "rbind":
			recursion = opt
		case "ro", "rro":
			access = "rro"
		case "rw":
			access = ""
		case "private", "rprivate", "slave", "rslave", "shared", "rshared":
			propagation = opt
		default:
			return specs.Mount{}, invalid("mount on %s: unknown option %q", m.Target, opt)
		}
	}
	options := []string{recursion, propagation}
	if access != "" {
		options = append(options, access)
	}
	switch propagation {
	case "shared", "rshared":
		// The shim's mount namespace, in which the container is made, is the
		// host's slave.
		b.warn("mounts that the container makes below %s do not appear on the host: %s has the effect of slave", m.Target, propagation)
		fallthrough
	case "slave", "rslave":
		// Under a private root nothing would come in.
		b.spec.Linux.RootfsPropagation = "rslave"
	}
	return specs.Mount{Type: "bind", Source: path.Clean(m.Source), Options: options}, nil
}

// tmpfsOpposites are the flags of a tmpfs mount, each beside its opposite: the
// later one wins. docker sets the first three.
var tmpfsOpposites = [][2]string{
	{"noexec", "exec"}, {"nosuid", "suid"}, {"nodev", "dev"},
	{"ro", "rw"}, {"sync", "async"}, {"noatime", "atime"}, {"nodiratime", "diratime"},
	{"relatime", "norelatime"}, {"strictatime", "nostrictatime"}, {"noswap", ""}, {"dirsync", ""},
}

// tmpfsValues are the options with a value (tmpfs(5)).
var tmpfsValues = []string{"size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "mpol", "huge"}

func tmpfs(m api.Mount) (specs.Mount, error) {
	options := []string{"noexec", "nosuid", "nodev", "rprivate"}
	for _, opt := range m.Options {
		name, value, hasValue := strings.Cut(opt, "=")
		var drop []string // what opt overrides
		if hasValue && slices.Contains(tmpfsValues, name) && value != "" {
			if name == "size" && !strings.HasSuffix(value, "%") {
				size, err := units.RAMInBytes(value)
				if err != nil || size <= 0 {
					return specs.Mount{}, invalid("tmpfs on %s: invalid size %q", m.Target, value)
				}
				opt = "size=" + strconv.FormatInt(size, 10)
			}
			i := slices.IndexFunc(options, func(o string) bool { return strings.HasPrefix(o, name+"=") })
			if i >= 0 {
				drop = options[i : i+1]
			}
		} else {
			i := slices.IndexFunc(tmpfsOpposites, func(pair [2]string) bool { return opt == pair[0] || opt == pair[1] })
			if i < 0 || opt == "" {
				return specs.Mount{}, invalid("tmpfs on %s: unknown option %q", m.Target, opt)
			}
			drop = tmpfsOpposites[i][:]
		}
		dropped := slices.Clone(drop)
		options = slices.DeleteFunc(options, func(o string) bool { return slices.Contains(dropped, o) })
		options = append(options, opt)
	}
	return specs.Mount{Type: "tmpfs", Source: "tmpfs", Options: options}, nil
}
