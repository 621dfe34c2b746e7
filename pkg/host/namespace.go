package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaces of namespaces(7), and what a container has each one for.
var namespaces = []struct {
	name, file, gives string
	flag              uintptr
	fatal             bool
}{
	{"mount", "mnt", "its own root file system", unix.CLONE_NEWNS, true},
	{"pid", "pid", "its own process 1", unix.CLONE_NEWPID, true},
	{"network", "net", "its own links, addresses and ports", unix.CLONE_NEWNET, true},
	{"uts", "uts", "its own host name", unix.CLONE_NEWUTS, true},
	{"ipc", "ipc", "its own shared memory", unix.CLONE_NEWIPC, true},
	{"cgroup", "cgroup", "a view of its own cgroup only", unix.CLONE_NEWCGROUP, false},
	{"user", "user", "a root that is nobody outside (--userns)", unix.CLONE_NEWUSER, false},
	{"time", "time", "its own boot time clock", unix.CLONE_NEWTIME, false},
}

func namespaceChecks() []check {
	var out []check
	for _, ns := range namespaces {
		out = append(out, check{
			name: ns.name + " namespace", why: "it gives a container " + ns.gives,
			look: func(_ context.Context, h *Host) finding {
				bad := warnf
				if ns.fatal {
					bad = failf
				}
				if !exists(h.Proc, "self/ns", ns.file) {
					return bad("this kernel has none")
				}
				if !h.Real {
					return okf("the kernel has it")
				}
				if ns.flag == unix.CLONE_NEWTIME {
					// Not a flag of clone(2): its bit is one of the exit signal's.
					if err := inNamespaces(unix.CLONE_NEWTIME, func() error { return nil }); err != nil && os.Geteuid() == 0 {
						return bad("%v", err)
					}
					return okf("made one")
				}
				if err := tryClone(ns.flag); err != nil {
					return bad("refused: %v", err)
				}
				return okf("made one")
			},
			fix: "use a kernel that has it; inside a container, give that one more rights (--privileged)",
		})
	}
	return append(out, check{
		name: "user namespaces", why: "--userns, and tools that run containers without root, need them; the limits are there since they widen what unprivileged users can ask of the kernel",
		look: lookUserNS, fix: "sysctl -w user.max_user_namespaces=15000 (kept by a file in /etc/sysctl.d)",
	})
}

// tryClone clones a process into a new namespace. The program it is to execute
// does not exist, on purpose: that the execution fails with ENOENT shows that
// the clone before it went well, and the process is gone at once. A user
// without root gets a user namespace in addition, the only way to the others.
func tryClone(flag uintptr) error {
	attr := &syscall.SysProcAttr{Cloneflags: flag}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
	}
	if attr.Cloneflags&unix.CLONE_NEWUSER != 0 {
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	const nowhere = "/proc/self/nonexistent"
	pid, err := syscall.ForkExec(nowhere, []string{nowhere}, &syscall.ProcAttr{Sys: attr})
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err == nil {
		_, err = syscall.Wait4(pid, nil, 0, nil)
	}
	return err
}

func lookUserNS(_ context.Context, h *Host) finding {
	most := read(h.Proc, "sys/user/max_user_namespaces")
	if most == "0" {
		return warnf("user.max_user_namespaces is 0: none may be made")
	}
	if read(h.Proc, "sys/kernel/unprivileged_userns_clone") == "0" {
		return finding{
			status: Warn, found: "only root may make them (kernel.unprivileged_userns_clone is 0)",
			why: "sandbox runs as root and is not concerned; rootless tools are",
			fix: "sysctl -w kernel.unprivileged_userns_clone=1, if rootless tools are wanted",
		}
	}
	if read(h.Proc, "sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
		return finding{
			status: Warn, found: "AppArmor takes the rights away from those that users make (kernel.apparmor_restrict_unprivileged_userns is 1)",
			why: "sandbox runs as root and is not concerned; rootless tools, and exercises with `unshare --user` without sudo, are",
			fix: "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 for such exercises, or use sudo",
		}
	}
	return okf("allowed, at most %s", most)
}

func rightsChecks() []check {
	return []check{{
		name: "capabilities", why: "what is not in the bounding set, even root cannot do, and no container can be given",
		look: lookCapabilities, fix: "this machine is a container or a restricted VM: start it with these capabilities",
	}}
}

// capabilityEffects are those whose absence something notices, with what.
var capabilityEffects = []struct {
	bit          int
	name, effect string
	fatal        bool
}{
	{21, "CAP_SYS_ADMIN", "no namespaces, no mounts", true},
	{12, "CAP_NET_ADMIN", "no links, no addresses, no NAT", true},
	{0, "CAP_CHOWN", "files of images cannot get their owners", true},
	{1, "CAP_DAC_OVERRIDE", "files of other users cannot be written", true},
	{5, "CAP_KILL", "processes of other users cannot be signalled", true},
	{6, "CAP_SETGID", "no --user", true},
	{7, "CAP_SETUID", "no --user", true},
	{8, "CAP_SETPCAP", "no capability can be dropped for good", true},
	{18, "CAP_SYS_CHROOT", "exec cannot enter a container's root", true},
	{27, "CAP_MKNOD", "no /dev/null in containers", true},
	{3, "CAP_FOWNER", "modes of other users' files cannot be set", false},
	{10, "CAP_NET_BIND_SERVICE", "no published port below 1024", false},
	{13, "CAP_NET_RAW", "no ping in containers", false},
	{19, "CAP_SYS_PTRACE", "no strace of containers", false},
	{23, "CAP_SYS_NICE", "cpuset and scheduling of other processes cannot be set", false},
	{24, "CAP_SYS_RESOURCE", "hard limits (--ulimit) cannot be raised, oom_score_adj cannot be lowered, runc refuses privileged containers", false},
	{31, "CAP_SETFCAP", "file capabilities of images are lost; user namespaces cannot map root", false},
	{39, "CAP_BPF", "device rules (eBPF) then need CAP_SYS_ADMIN", false},
}

func lookCapabilities(_ context.Context, h *Host) finding {
	var bounding uint64
	for line := range strings.Lines(read(h.Proc, "self/status") + "\n") {
		if value, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			if _, err := fmt.Sscanf(strings.TrimSpace(value), "%x", &bounding); err != nil {
				return warnf("CapBnd %q cannot be read", strings.TrimSpace(value))
			}
		}
	}
	if bounding == 0 {
		return failf("none")
	}
	var names, effects []string
	fatal := false
	for _, c := range capabilityEffects {
		if bounding&(1<<c.bit) == 0 {
			names = append(names, c.name)
			effects = append(effects, c.name+": "+c.effect)
			fatal = fatal || c.fatal
		}
	}
	if len(names) == 0 {
		return okf("all that matter")
	}
	f := finding{status: Warn, found: "missing " + join(names), why: strings.Join(effects, "; ")}
	if fatal {
		f.status = Fail
	}
	return f
}
