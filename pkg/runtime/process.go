package runtime

import (
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
	"github.com/sandboxlabs/sandbox/pkg/linux/seccomp"
)

// session appends a new session, with the terminal as its controlling one and
// as standard streams.
func (b *builder) session(p *specs.Process, slave *script.Var) {
	b.call(explain.Event{Op: "setsid", Why: "signals typed elsewhere don't reach the container"}, unix.SYS_SETSID)
	if slave == nil {
		return
	}
	b.quiet("set the controlling terminal", "", unix.SYS_IOCTL, slave.Get(), script.Int(unix.TIOCSCTTY), script.Int(0))
	for fd := range 3 {
		b.quiet("dup", "/dev/pts/0", unix.SYS_DUP3, slave.Get(), script.Int(fd), script.Int(0))
	}
}

// ownStdio appends the giving of the standard streams to the user, who may
// want to open them again by /dev/stdout. Not of /dev/null, which is everybody's.
func (b *builder) ownStdio(p *specs.Process, io IO) {
	if p.User.UID == 0 {
		return
	}
	for fd, f := range []*os.File{io.Stdin, io.Stdout, io.Stderr} {
		var st unix.Stat_t
		if f == nil || unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFCHR {
			continue
		}
		b.optional(script.Op{
			Nr: unix.SYS_FCHOWN, Args: []script.Arg{script.Int(fd), script.Int(p.User.UID), script.Int(^uint32(0))},
			Event: explain.Event{Op: "chown"}, Plumbing: true,
		})
	}
}

// uts appends host and domain name.
func (b *builder) uts() {
	if h := b.spec.Hostname; h != "" {
		b.call(explain.Event{Op: "sethostname", Target: h, Source: "hostname", Why: "visible in this UTS namespace only"},
			unix.SYS_SETHOSTNAME, b.String(h), script.Int(len(h)))
	}
	if d := b.spec.Domainname; d != "" {
		b.call(explain.Event{Op: "setdomainname", Target: d, Source: "domainname"},
			unix.SYS_SETDOMAINNAME, b.String(d), script.Int(len(d)))
	}
}

// rlimitResource maps POSIX's names; see getrlimit(2).
func rlimitResource(name string) (int, error) {
	switch name {
	case "RLIMIT_CPU":
		return unix.RLIMIT_CPU, nil
	case "RLIMIT_FSIZE":
		return unix.RLIMIT_FSIZE, nil
	case "RLIMIT_DATA":
		return unix.RLIMIT_DATA, nil
	case "RLIMIT_STACK":
		return unix.RLIMIT_STACK, nil
	case "RLIMIT_CORE":
		return unix.RLIMIT_CORE, nil
	case "RLIMIT_RSS":
		return unix.RLIMIT_RSS, nil
	case "RLIMIT_NPROC":
		return unix.RLIMIT_NPROC, nil
	case "RLIMIT_NOFILE":
		return unix.RLIMIT_NOFILE, nil
	case "RLIMIT_MEMLOCK":
		return unix.RLIMIT_MEMLOCK, nil
	case "RLIMIT_AS":
		return unix.RLIMIT_AS, nil
	case "RLIMIT_LOCKS":
		return unix.RLIMIT_LOCKS, nil
	case "RLIMIT_SIGPENDING":
		return unix.RLIMIT_SIGPENDING, nil
	case "RLIMIT_MSGQUEUE":
		return unix.RLIMIT_MSGQUEUE, nil
	case "RLIMIT_NICE":
		return unix.RLIMIT_NICE, nil
	case "RLIMIT_RTPRIO":
		return unix.RLIMIT_RTPRIO, nil
	case "RLIMIT_RTTIME":
		return unix.RLIMIT_RTTIME, nil
	}
	return 0, fmt.Errorf("process.rlimits: unknown type %q", name)
}

// rlimits appends process.rlimits: late, as they hold for the first process's own
// doings, too, which needs more descriptors than a program may be given. Without CAP_SYS_RESOURCE a hard limit cannot be
// raised: a warning says so.
func (b *builder) rlimits(p *specs.Process, host capSet) error {
	for _, r := range p.Rlimits {
		res, err := rlimitResource(r.Type)
		if err != nil {
			return err
		}
		op := script.Op{
			Nr:    unix.SYS_PRLIMIT64,
			Args:  []script.Arg{script.Int(0), script.Int(res), b.Words(r.Soft, r.Hard), script.Int(0)},
			Event: explain.Event{Op: "prlimit", Target: r.Type, Source: "process.rlimits", Why: "a limit for this process and its children, older than cgroups"},
		}
		if b.Timed() {
			op.Event.Value = fmt.Sprintf("soft %d hard %d", r.Soft, r.Hard)
		}
		if host.has(capSysResource) {
			b.Do(op)
			continue
		}
		op.Warn = fmt.Sprintf("%s (soft %d, hard %d) is not applied: this host has no CAP_SYS_RESOURCE, so the limit it has itself can't be raised", r.Type, r.Soft, r.Hard)
		b.optional(op)
	}
	return nil
}

// securityLabel appends the AppArmor profile and SELinux label, which take effect at
// execve(2).
func (b *builder) securityLabel(p *specs.Process) {
	if a := p.ApparmorProfile; a != "" {
		if on, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled"); !strings.HasPrefix(string(on), "Y") {
			b.warn(fmt.Sprintf("AppArmor profile %q is not applied: AppArmor is not enabled on this host", a))
		} else {
			b.writeFile(b.procfs, "self/attr/apparmor/exec", "exec "+a,
				explain.Event{Target: "/proc/self/attr/apparmor/exec", Source: "process.apparmorProfile"})
		}
	}
	if l := p.SelinuxLabel; l != "" {
		if _, err := os.Stat("/sys/fs/selinux"); err != nil {
			b.warn(fmt.Sprintf("SELinux label %q is not applied: SELinux is not enabled on this host", l))
		} else {
			b.writeFile(b.procfs, "self/attr/exec", l, explain.Event{Target: "/proc/self/attr/exec", Source: "process.selinuxLabel"})
		}
	}
}

// workDir appends the change to process.cwd, after making it if need be. The
// path is resolved without magic links: a descriptor of the host that leaked
// in as /proc/self/fd/N is no way out (CVE-2024-21626).
func (b *builder) workDir(p *specs.Process) {
	root := b.root
	b.root = cwd // "/" is the container's by now, and the current folder
	fd := b.mountpoint(p.Cwd, true)
	b.quiet("chdir", p.Cwd, unix.SYS_FCHDIR, fd.Get())
	b.closeFD(fd.Get())
	b.root = root
}

const (
	// _LINUX_CAPABILITY_VERSION_3
	capVersion = 0x20080522
)

// identity appends the change to the process's user and capabilities, in the
// order that the kernel's rules dictate (capabilities(7)): the bounding set is
// dropped while CAP_SETPCAP is there; the permitted set is kept over the
// change of user; a seccomp filter without no_new_privs needs CAP_SYS_ADMIN,
// so it comes before the final capset.
func (b *builder) identity(p *specs.Process, host capSet, last int, filter *seccomp.Filter) {
	if p.User.Umask != nil {
		b.quiet("umask", fmt.Sprintf("%#o", *p.User.Umask), unix.SYS_UMASK, script.Int(*p.User.Umask))
	} else {
		b.quiet("umask", "022", unix.SYS_UMASK, script.Int(0o022))
	}
	caps := p.Capabilities
	var sets struct{ bounding, effective, permitted, inheritable, ambient capSet }
	if caps != nil {
		warned := map[string]bool{}
		once := func(w string) {
			if !warned[w] {
				warned[w] = true
				b.warn(w)
			}
		}
		sets.bounding = parseCapabilities(caps.Bounding, host, once)
		sets.effective = parseCapabilities(caps.Effective, host, once)
		sets.permitted = parseCapabilities(caps.Permitted, host, once)
		sets.inheritable = parseCapabilities(caps.Inheritable, host, once)
		sets.ambient = parseCapabilities(caps.Ambient, host, once)
		for n := range last + 1 {
			if !sets.bounding.has(n) {
				ev := explain.Event{Op: "prctl", Target: "PR_CAPBSET_DROP", Source: "process.capabilities.bounding"}
				if n < len(capabilityNames) {
					ev.Value = capabilityNames[n]
				}
				ev.Why = "no process of the container can get it back, not even by a setuid program"
				b.call(ev, unix.SYS_PRCTL, script.Int(unix.PR_CAPBSET_DROP), script.Int(n), script.Int(0), script.Int(0), script.Int(0))
			}
		}
		b.quiet("prctl", "PR_SET_KEEPCAPS", unix.SYS_PRCTL, script.Int(unix.PR_SET_KEEPCAPS), script.Int(1), script.Int(0), script.Int(0), script.Int(0))
	}
	b.user(p)
	if p.NoNewPrivileges {
		b.call(explain.Event{Op: "prctl", Target: "PR_SET_NO_NEW_PRIVS", Value: "1", Source: "process.noNewPrivileges", Why: "execve gives no more rights from here on: setuid bits are ignored"},
			unix.SYS_PRCTL, script.Int(unix.PR_SET_NO_NEW_PRIVS), script.Int(1), script.Int(0), script.Int(0), script.Int(0))
	}
	if filter != nil && !p.NoNewPrivileges {
		if caps != nil && p.User.UID != 0 {
			b.capset(host, host, 0, true) // the change of user has cleared the effective set
		}
		b.seccomp(filter)
	}
	if caps != nil {
		b.quiet("prctl", "PR_SET_KEEPCAPS", unix.SYS_PRCTL, script.Int(unix.PR_SET_KEEPCAPS), script.Int(0), script.Int(0), script.Int(0), script.Int(0))
		b.capset(sets.effective, sets.permitted, sets.inheritable, false)
		for n := range last + 1 {
			if sets.ambient.has(n) {
				b.optional(script.Op{
					Nr:    unix.SYS_PRCTL,
					Args:  []script.Arg{script.Int(unix.PR_CAP_AMBIENT), script.Int(unix.PR_CAP_AMBIENT_RAISE), script.Int(n), script.Int(0), script.Int(0)},
					Event: explain.Event{Op: "prctl", Target: "PR_CAP_AMBIENT_RAISE", Value: capabilityNames[n], Source: "process.capabilities.ambient"},
					Warn:  "ambient capability " + capabilityNames[n] + " was not raised: it must be permitted and inheritable too",
				})
			}
		}
	}
	if filter != nil && p.NoNewPrivileges {
		b.seccomp(filter)
	}
}

func (b *builder) user(p *specs.Process) {
	const source = "process.user"
	gids := make([]byte, 0, 4*len(p.User.AdditionalGids))
	for _, g := range p.User.AdditionalGids {
		gids = append(gids, byte(g), byte(g>>8), byte(g>>16), byte(g>>24))
	}
	ev := explain.Event{Op: "setgroups", Source: source}
	if b.Timed() {
		ev.Value = fmt.Sprint(p.User.AdditionalGids)
	}
	b.call(ev, unix.SYS_SETGROUPS, script.Int(len(p.User.AdditionalGids)), b.Bytes(gids))
	id := func(op string, nr uintptr, v uint32, why string) {
		ev := explain.Event{Op: op, Source: source, Why: why}
		if b.Timed() {
			ev.Value = fmt.Sprint(v)
		}
		b.call(ev, nr, script.Int(v), script.Int(v), script.Int(v))
	}
	id("setresgid", unix.SYS_SETRESGID, p.User.GID, "")
	id("setresuid", unix.SYS_SETRESUID, p.User.UID, "the user that the program runs as")
}

// capset appends capset(2).
func (b *builder) capset(effective, permitted, inheritable capSet, plumbing bool) {
	header := b.Words(capVersion)
	lo := func(e, p capSet) uint64 { return uint64(uint32(e)) | uint64(uint32(p))<<32 } //nolint:gosec // halves
	// struct __user_cap_data_struct {effective, permitted, inheritable} twice
	data := b.Words(
		lo(effective, permitted),
		lo(inheritable, effective>>32),
		lo(permitted>>32, inheritable>>32),
	)
	ev := explain.Event{Op: "capset", Source: "process.capabilities", Why: "what root may do here, of all that root may do"}
	if b.Timed() {
		ev.Value = fmt.Sprintf("effective %#x permitted %#x inheritable %#x", effective, permitted, inheritable)
	}
	i := b.call(ev, unix.SYS_CAPSET, header, data)
	b.Op(i).Plumbing = plumbing
}

// lookPath appends the search for the program, as execvp(3) does it. It returns the
// variable that will hold its path's address, and the indexes of the attempts.
func (b *builder) lookPath(program string, env []string) (script.Var, []int) {
	found, done := b.NewVar(0), b.NewLabel()
	var attempts []int
	paths := candidates(program, env)
	for i, path := range paths {
		next := b.NewLabel()
		op := script.Op{
			Nr: unix.SYS_FACCESSAT, Args: []script.Arg{cwd, b.String(path), script.Int(unix.X_OK)}, Err: next,
			Event: explain.Event{Op: "exec", Target: path, Source: "process.args"}, Plumbing: true,
		}
		if i == len(paths)-1 {
			op.Err = 0
		}
		attempts = append(attempts, b.Do(op))
		b.Do(script.Op{Nr: script.NoCall, Args: []script.Arg{op.Args[1]}, Out: found, OK: done})
		b.Place(next)
	}
	b.Place(done)
	return found, attempts
}

// execve appends the last operation of every script that goes well.
func (b *builder) execve(p *specs.Process, path script.Var, why string) int {
	ev := explain.Event{Op: "execve", Target: p.Args[0], Source: "process.args", Why: why}
	if b.Timed() {
		ev.Value = strings.Join(p.Args, " ")
	}
	return b.call(ev, unix.SYS_EXECVE, path.Get(), b.Strings(p.Args), b.Strings(p.Env))
}

// candidates are the paths that name may mean, as execvp(3) would try them.
func candidates(name string, env []string) []string {
	if strings.ContainsRune(name, '/') {
		return []string{name}
	}
	path := "/bin:/usr/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	var paths []string
	for _, dir := range strings.Split(path, ":") {
		if dir == "" {
			dir = "."
		}
		paths = append(paths, strings.TrimSuffix(dir, "/")+"/"+name)
	}
	return paths
}

// seccomp appends the loading of the filter. Where it asks for a listener, its
// descriptor goes to the parent.
func (b *builder) seccomp(f *seccomp.Filter) {
	code := make([]byte, 0, 8*len(f.Program))
	for _, i := range f.Program {
		code = append(code, byte(i.Code), byte(i.Code>>8), i.Jt, i.Jf, byte(i.K), byte(i.K>>8), byte(i.K>>16), byte(i.K>>24))
	}
	// struct sock_fprog {unsigned short len; struct sock_filter *filter}
	prog := b.Words(uint64(len(f.Program)), b.Addr(b.Bytes(code)))
	listener := b.NewVar(0)
	ev := explain.Event{
		Op: "seccomp", Target: "SECCOMP_SET_MODE_FILTER", Source: "linux.seccomp",
		Why: "every system call from here on passes this filter first",
	}
	if b.Timed() {
		ev.Value = fmt.Sprintf("%d BPF instructions", len(f.Program))
	}
	b.Do(script.Op{
		Nr: unix.SYS_SECCOMP, Args: []script.Arg{script.Int(unix.SECCOMP_SET_MODE_FILTER), script.Int(f.Flags), prog}, Out: listener, Event: ev,
	})
	if f.Listener {
		b.sendFD(b.sync, listener, string(rune(syncFD)))
		b.closeFD(listener.Get())
	}
}

// closeFiles appends the closing of every descriptor that is not the program's. The
// first keep of them are still needed, and are marked close-on-exec. The others are
// the host's file tree and its /proc: who shares the PID namespace, and may
// ptrace(2) the process as soon as its capabilities are no more than his own, would
// find them in /proc/PID/fd while it waits for start.
func (b *builder) closeFiles(keep int) {
	first := 3 + b.extra
	if keep > 0 {
		b.quiet("close_range", "", unix.SYS_CLOSE_RANGE, script.Int(first), script.Int(first+keep-1), script.Int(unix.CLOSE_RANGE_CLOEXEC))
	}
	b.quiet("close_range", "", unix.SYS_CLOSE_RANGE, script.Int(first+keep), script.Int(^uint32(0)), script.Int(0))
}

// guard appends what every script begins with: a umask that lets modes be what they
// are asked to be, and that nobody without CAP_SYS_PTRACE may look into the
// process before it executes the user's program (CVE-2016-9962).
func (b *builder) guard() {
	b.quiet("umask", "0", unix.SYS_UMASK, script.Int(0))
	b.quiet("prctl", "PR_SET_DUMPABLE", unix.SYS_PRCTL, script.Int(unix.PR_SET_DUMPABLE), script.Int(0), script.Int(0), script.Int(0), script.Int(0))
}
