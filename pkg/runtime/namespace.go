package runtime

import (
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// namespaceFlag returns clone(2)'s flag for a namespace type of runtime-spec.
func namespaceFlag(typ specs.LinuxNamespaceType) (uintptr, error) {
	switch typ {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID, nil
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET, nil
	case specs.MountNamespace:
		return unix.CLONE_NEWNS, nil
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC, nil
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS, nil
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER, nil
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP, nil
	case specs.TimeNamespace:
		return unix.CLONE_NEWTIME, nil
	}
	return 0, fmt.Errorf("linux.namespaces: unknown type %q", typ)
}

// nsFile is a namespace's name under /proc/PID/ns.
func nsFile(flag uintptr) string {
	switch flag {
	case unix.CLONE_NEWPID:
		return "pid"
	case unix.CLONE_NEWNET:
		return "net"
	case unix.CLONE_NEWNS:
		return "mnt"
	case unix.CLONE_NEWIPC:
		return "ipc"
	case unix.CLONE_NEWUTS:
		return "uts"
	case unix.CLONE_NEWUSER:
		return "user"
	case unix.CLONE_NEWCGROUP:
		return "cgroup"
	default:
		return "time"
	}
}

// cloneFlags returns the name of each flag, as clone(2) spells them.
func cloneFlags(flags uintptr) string {
	var s string
	for _, f := range []struct {
		flag uintptr
		name string
	}{
		{unix.CLONE_NEWUSER, "CLONE_NEWUSER"}, {unix.CLONE_NEWPID, "CLONE_NEWPID"},
		{unix.CLONE_NEWNS, "CLONE_NEWNS"}, {unix.CLONE_NEWNET, "CLONE_NEWNET"},
		{unix.CLONE_NEWUTS, "CLONE_NEWUTS"}, {unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
		{unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"}, {unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
	} {
		if flags&f.flag != 0 {
			if s != "" {
				s += "|"
			}
			s += f.name
		}
	}
	return s
}

// nsPlan says how the container comes by each of its namespaces.
//
// New ones are made by the clone, except two: a cgroup namespace made there would be rooted
// in the parent's cgroup, and a time namespace's offsets can be set only
// before a process lives in it; those the first process unshares itself.
//
// One that is joined is entered by the parent's thread before the clone, so
// that root's rights over it still hold when the container gets a user namespace;
// except the user and mount namespaces, which a thread of a multithreaded
// process can't enter (setns(2)): the first process does. So does a further
// process with the cgroup namespace; see [planJoin].
//
// Where a user namespace is joined, the first process unshares all new ones itself, in
// there: made by the clone, they would belong to the host's. A new PID namespace
// then begins with a child of it, see [builder.fork].
type nsPlan struct {
	clone     uintptr // flags of the clone
	unshare   uintptr // the first process's own
	before    []joined
	after     []joined
	joinsUser bool
}

// forks reports whether the container's first process is a child of the one that is
// cloned.
func (p *nsPlan) forks() bool { return p.unshare&unix.CLONE_NEWPID != 0 }

type joined struct {
	flag uintptr
	file *os.File
	path string
}

func planNamespaces(spec *specs.Spec, warn func(...string)) (p nsPlan, err error) {
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for _, ns := range spec.Linux.Namespaces {
		flag, err := namespaceFlag(ns.Type)
		if err != nil {
			return p, err
		}
		if flag == unix.CLONE_NEWTIME {
			if lacking := timeNamespaces(); lacking != "" {
				warn("the container has the host's clocks, without offsets: " + lacking)
				continue
			}
		}
		if ns.Path == "" {
			if flag == unix.CLONE_NEWCGROUP || flag == unix.CLONE_NEWTIME {
				p.unshare |= flag
			} else {
				p.clone |= flag
			}
			continue
		}
		f, err := openNamespace(ns.Path, ns.Type, flag)
		if err != nil {
			return p, err
		}
		j := joined{flag, f, ns.Path}
		switch flag {
		case unix.CLONE_NEWUSER: // first: it decides on the rights over the others
			p.after = append([]joined{j}, p.after...)
			p.joinsUser = true
		case unix.CLONE_NEWNS, unix.CLONE_NEWTIME:
			p.after = append(p.after, j)
		default:
			p.before = append(p.before, j)
		}
	}
	if p.joinsUser {
		p.unshare, p.clone = p.unshare|p.clone, 0
	}
	return p, nil
}

// openNamespace opens path and checks that it is a namespace of the wanted type.
func openNamespace(path string, typ specs.LinuxNamespaceType, flag uintptr) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("linux.namespaces: %s: %w", typ, err)
	}
	got, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("linux.namespaces: %s: %s is not a namespace", typ, path)
	}
	if uintptr(got) != flag {
		_ = f.Close()
		return nil, fmt.Errorf("linux.namespaces: %s is a %s namespace, not a %s one", path, nsFile(uintptr(got)), typ)
	}
	return f, nil
}

func (p *nsPlan) close() {
	for _, j := range append(p.before, p.after...) {
		_ = j.file.Close()
	}
}

// enter moves the calling thread, which must be locked and must end with its
// goroutine, into the namespaces that are joined before the clone.
func (p *nsPlan) enter(trace *explain.Tracer) error {
	for _, j := range p.before {
		ev := explain.Event{
			Op: "setns", Target: j.path, Value: cloneFlags(j.flag), Source: "linux.namespaces",
			Why: "the container shares this namespace instead of getting its own",
		}
		if err := trace.Do(ev, func() error { return unix.Setns(int(j.file.Fd()), int(j.flag)) }); err != nil {
			return fmt.Errorf("setns %s: %w", j.path, err)
		}
	}
	return nil
}

// own reports whether the container has a namespace of the given kind that is
// not the runtime's.
func (p *nsPlan) own(flag uintptr) bool {
	if (p.clone|p.unshare)&flag != 0 {
		return true
	}
	for _, j := range p.before {
		if j.flag == flag {
			return true
		}
	}
	for _, j := range p.after {
		if j.flag == flag {
			return true
		}
	}
	return false
}

// timeNamespaces says why the host can't give the container a time namespace, if so.
func timeNamespaces() string {
	if _, err := os.Lstat("/proc/self/ns/time"); err != nil {
		return "this kernel has no time namespaces (CONFIG_TIME_NS)"
	}
	var u unix.Utsname
	var major, minor int
	if err := unix.Uname(&u); err == nil {
		_, _ = fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	}
	if major < 6 || major == 6 && minor < 3 {
		return "execve enters a new time namespace only since Linux 6.3"
	}
	return ""
}
