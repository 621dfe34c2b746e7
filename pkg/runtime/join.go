package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// planJoin plans for a process to live in all those namespaces of pid that are not the
// caller's.
func planJoin(pid int) (p nsPlan, err error) {
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for _, flag := range [...]uintptr{
		unix.CLONE_NEWUSER, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWNET,
		unix.CLONE_NEWPID, unix.CLONE_NEWCGROUP, unix.CLONE_NEWNS, unix.CLONE_NEWTIME,
	} {
		path := "/proc/" + strconv.Itoa(pid) + "/ns/" + nsFile(flag)
		theirs, err := os.Readlink(path)
		if errors.Is(err, fs.ErrNotExist) && flag == unix.CLONE_NEWTIME {
			continue // a kernel without time namespaces
		}
		if err != nil {
			return p, err
		}
		if ours, err := os.Readlink("/proc/thread-self/ns/" + nsFile(flag)); err == nil && ours == theirs {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			return p, err
		}
		j := joined{flag, f, path}
		switch flag {
		// The cgroup namespace, too: where cgroup2 is mounted with nsdelegate, as
		// systemd does, nothing gets into a cgroup from a namespace that its own
		// cgroup is outside of (ENOENT; cgroups(7) on delegation).
		case unix.CLONE_NEWUSER, unix.CLONE_NEWCGROUP, unix.CLONE_NEWNS, unix.CLONE_NEWTIME:
			p.after = append(p.after, j)
		default:
			p.before = append(p.before, j)
		}
	}
	return p, nil
}

// joinNamespaces appends what of the plan is the process's own part: the namespaces that
// it joins itself, and those that it unshares.
func (b *builder) joinNamespaces(ns *nsPlan) {
	const source = "linux.namespaces"
	for _, j := range ns.after {
		b.call(explain.Event{Op: "setns", Target: j.path, Value: cloneFlags(j.flag), Source: source, Why: "the namespace of that path, instead of a new one"},
			unix.SYS_SETNS, script.Int(b.file(j.file)), script.Int(j.flag))
	}
	if len(ns.after) > 0 && ns.after[0].flag == unix.CLONE_NEWUSER {
		// Born as a user that the namespace does not know, or knows as
		// somebody; become its root.
		why := "become root of the user namespace, which is nobody special outside"
		b.call(explain.Event{Op: "setresgid", Value: "0", Source: "linux.gidMappings", Why: why}, unix.SYS_SETRESGID, script.Int(0), script.Int(0), script.Int(0))
		b.call(explain.Event{Op: "setresuid", Value: "0", Source: "linux.uidMappings", Why: why}, unix.SYS_SETRESUID, script.Int(0), script.Int(0), script.Int(0))
	}
	if flags := ns.unshare &^ (unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME); flags != 0 {
		b.call(explain.Event{Op: "unshare", Value: cloneFlags(flags), Source: source, Why: "made in here, they belong to the user namespace that was joined"},
			unix.SYS_UNSHARE, script.Int(flags))
	}
	if ns.unshare&unix.CLONE_NEWCGROUP != 0 {
		b.call(explain.Event{Op: "unshare", Value: "CLONE_NEWCGROUP", Source: source, Why: "the cgroup that it is in now becomes the root of its view"},
			unix.SYS_UNSHARE, script.Int(unix.CLONE_NEWCGROUP))
	}
	if ns.unshare&unix.CLONE_NEWTIME != 0 {
		b.call(explain.Event{Op: "unshare", Value: "CLONE_NEWTIME", Source: source, Why: "execve then enters the new time namespace"},
			unix.SYS_UNSHARE, script.Int(unix.CLONE_NEWTIME))
		if v := timeOffsets(b.spec.Linux.TimeOffsets); v != "" {
			dir := b.open(cwd, "/proc", unix.O_PATH|unix.O_DIRECTORY)
			b.writeFile(dir.Get(), "self/timens_offsets", v, explain.Event{Target: "/proc/self/timens_offsets", Source: "linux.timeOffsets", Why: "these clocks run ahead of the host's by that much"})
			b.closeFD(dir.Get())
		}
	}
}

// fork appends the making of a child, which goes on with the script, as a sibling of its
// maker: unshare(2) puts only children into a new PID namespace. The maker tells the
// runtime the child's PID and ends; the child waits until that is understood.
func (b *builder) fork() {
	message := b.Words(syncPID, 0)
	pid := b.VarIn(message, 8)
	maker, child := b.NewLabel(), b.NewLabel()
	b.Do(script.Op{
		Nr: unix.SYS_CLONE, Args: []script.Arg{script.Int(unix.CLONE_PARENT | int(unix.SIGCHLD))}, Out: pid,
		Event: explain.Event{Op: "clone", Value: "CLONE_PARENT", Why: "only a child gets into the new PID namespace"},
	})
	b.Do(script.Op{ // whose PID is 0? No signal goes to that.
		Nr: unix.SYS_TKILL, Args: []script.Arg{pid.Get(), script.Int(0)}, OK: maker, Err: child,
		Event: explain.Event{Op: "which one am I"}, Plumbing: true,
	})
	b.Place(maker)
	b.quiet("tell the runtime", "the first process's PID", unix.SYS_WRITE, script.Int(b.sync), message, script.Int(16))
	b.quiet("exit", "", unix.SYS_EXIT_GROUP, script.Int(0))
	b.Place(child)
	b.hear()
}

// timeOffsets is the text of /proc/PID/timens_offsets; see time_namespaces(7).
func timeOffsets(offsets map[string]specs.LinuxTimeOffset) string {
	var lines []string
	for _, clock := range []string{"monotonic", "boottime"} {
		if o, ok := offsets[clock]; ok {
			lines = append(lines, fmt.Sprintf("%s %d %d", clock, o.Secs, o.Nanosecs))
		}
	}
	return strings.Join(lines, "\n")
}

// loopback appends the upping of lo in a network namespace of the container's own.
func (b *builder) loopback(ns *nsPlan) {
	if (ns.clone|ns.unshare)&unix.CLONE_NEWNET == 0 {
		return
	}
	fd := b.NewVar(0)
	next := b.NewLabel()
	b.Do(script.Op{
		Nr: unix.SYS_SOCKET, Args: []script.Arg{script.Int(unix.AF_INET), script.Int(unix.SOCK_DGRAM | unix.SOCK_CLOEXEC), script.Int(0)},
		Out: fd, Err: next, Event: explain.Event{Op: "socket"}, Plumbing: true,
	})
	// struct ifreq: the name in 16 bytes, then the flags
	ifreq := make([]byte, 40)
	copy(ifreq, "lo")
	ifreq[16] = unix.IFF_UP | unix.IFF_RUNNING
	b.optional(script.Op{
		Nr: unix.SYS_IOCTL, Args: []script.Arg{fd.Get(), script.Int(unix.SIOCSIFFLAGS), b.Bytes(ifreq)},
		Event: explain.Event{Op: "ioctl", Target: "lo", Value: "SIOCSIFFLAGS IFF_UP", Why: "a new network namespace has only a loopback device, and it is down"},
		Warn:  "the loopback device could not be brought up",
	})
	b.closeFD(fd.Get())
	b.Place(next)
}
