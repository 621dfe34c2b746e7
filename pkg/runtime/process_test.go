package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestIdentity(tt *testing.T) {
	t := newTestbed(tt)
	umask := uint32(0o027)
	t.spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 8}, Umask: &umask}
	t.spec.Process.Capabilities.Inheritable = []string{"CAP_KILL"}
	t.spec.Process.Capabilities.Ambient = []string{"CAP_KILL"}
	t.spec.Process.Cwd = "/made/for/it"
	lines := t.sh("id -u; id -g; id -G; umask; pwd; grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status")
	want := []string{"1000", "1001", "1001 7 8", "0027", "/made/for/it",
		"CapEff:\t0000000000000020", "CapBnd:\t00000000000004eb", "CapAmb:\t0000000000000020", "NoNewPrivs:\t1"}
	if !slices.Equal(lines, want) {
		tt.Fatalf("got %q\nwant %q", lines, want)
	}
}

// A capability that the host lacks is a warning that names it.
func TestMissingCapability(tt *testing.T) {
	t := newTestbed(tt)
	caps := t.spec.Process.Capabilities
	caps.Bounding = append(caps.Bounding, "CAP_SYS_RESOURCE", "CAP_NONESUCH")
	t.sh("true")
	host, _ := hostCapabilities()
	all := strings.Join(t.warnings, "\n")
	if !strings.Contains(all, "CAP_NONESUCH is unknown") {
		tt.Errorf("warnings %q", t.warnings)
	}
	if lacks := !host.has(capSysResource); lacks != strings.Contains(all, "CAP_SYS_RESOURCE") {
		tt.Errorf("host lacks it: %v; warnings %q", lacks, t.warnings)
	}
}

func TestRlimits(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}}
	if got := t.sh("ulimit -n; ulimit -Hn; ulimit -c"); !slices.Equal(got, []string{"100", "200", "0"}) {
		tt.Fatalf("%q", got)
	}
	t.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 5, Hard: 5}, {Type: "RLIMIT_FSIZE", Soft: 0, Hard: 0}}
	if out, code := t.run("true"); code != 0 {
		tt.Fatalf("fewer descriptors than the setting up takes: %d %q", code, out)
	}
	t.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 40, Hard: 1 << 40}}
	_, _, err := t.try("true")
	host, _ := hostCapabilities()
	if !host.has(capSysResource) {
		if all := strings.Join(t.warnings, "\n"); err != nil || !strings.Contains(all, "RLIMIT_NOFILE") {
			tt.Fatalf("%v, warnings %q", err, t.warnings)
		}
	} else if !errors.Is(err, unix.EPERM) { // above fs.nr_open
		tt.Fatal(err)
	}
}

func TestOOMScoreAdj(tt *testing.T) {
	t := newTestbed(tt)
	v := 500
	t.spec.Process.OOMScoreAdj = &v
	if got := t.sh("cat /proc/self/oom_score_adj"); got[0] != "500" {
		tt.Fatalf("%q", got)
	}
}

func TestSeccomp(tt *testing.T) {
	for _, nnp := range []bool{true, false} {
		t := newTestbed(tt)
		t.spec.Process.NoNewPrivileges = nnp
		t.spec.Process.User.UID = 1000
		errno := uint(unix.EXDEV)
		t.spec.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Architectures: []specs.Arch{specs.ArchX86_64},
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &errno}},
		}
		lines := t.sh("mkdir /tmp/x 2>&1 || grep -E '^(Seccomp:|CapEff)' /proc/self/status")
		if !strings.Contains(lines[0], "cross-device") || lines[1] != "CapEff:\t0000000000000000" || lines[2] != "Seccomp:\t2" {
			tt.Fatalf("no_new_privs %v: %q", nnp, lines)
		}
	}
}

func TestSeccompListener(tt *testing.T) {
	t := newTestbed(tt)
	path := filepath.Join(t.bundle, "agent.sock")
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tt.Fatal(err)
	}
	defer unix.Close(l)
	if err := unix.Bind(l, &unix.SockaddrUnix{Name: path}); err != nil {
		tt.Fatal(err)
	}
	if err := unix.Listen(l, 1); err != nil {
		tt.Fatal(err)
	}
	t.spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: path, ListenerMetadata: "hello",
		Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"sethostname"}, Action: specs.ActNotify}},
	}
	id, p, err := t.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	conn, _, err := unix.Accept(l)
	if err != nil {
		tt.Fatal(err)
	}
	defer unix.Close(conn)
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(conn, buf, oob, 0)
	if err != nil || oobn == 0 {
		tt.Fatalf("%d %v", oobn, err)
	}
	var state specs.ContainerProcessState
	if err := json.Unmarshal(buf[:n], &state); err != nil || state.Pid != p.PID || state.State.ID != id || state.Metadata != "hello" {
		tt.Fatalf("%+v %v", state, err)
	}
}

func TestPreservedDescriptors(tt *testing.T) {
	t := newTestbed(tt)
	extra, err := memoryFile("extra", []byte("passed\n"))
	if err != nil {
		tt.Fatal(err)
	}
	defer extra.Close()
	out, err := memoryFile("out", nil)
	if err != nil {
		tt.Fatal(err)
	}
	defer out.Close()
	t.spec.Process.Args = []string{"sh", "-c", "cat <&3; ls /proc/self/fd | wc -l"}
	id, p, err := t.create(IO{Stdout: out, Stderr: out, Extra: []*os.File{extra}})
	if err != nil {
		tt.Fatal(err)
	}
	if err := t.r.Start(context.Background(), id); err != nil {
		tt.Fatal(err)
	}
	if _, err := p.Wait(); err != nil {
		tt.Fatal(err)
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", out.Fd()))
	// 0 to 3, and the one that ls has open
	if string(b) != "passed\n5\n" {
		tt.Fatalf("%q", b)
	}
}

// console makes a socket pair for a console and returns both ends.
func console(tt *testing.T) (ours, theirs *os.File) {
	ours, theirs, err := socketpair()
	if err != nil {
		tt.Fatal(err)
	}
	tt.Cleanup(func() { _ = ours.Close(); _ = theirs.Close() })
	return ours, theirs
}

func master(tt *testing.T, socket *os.File) *os.File {
	buf, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), buf, oob, 0)
	if err != nil {
		tt.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		tt.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		tt.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "master")
}

func TestTerminal(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Process.Terminal = true
	t.spec.Process.ConsoleSize = &specs.Box{Height: 25, Width: 99}
	t.spec.Process.User.UID = 1000
	t.spec.Process.Args = []string{"sh", "-c", "tty; stty size; stat -c %u /dev/pts/0; echo to console > /dev/console"}
	ours, theirs := console(tt)
	id, p, err := t.create(IO{Console: theirs})
	if err != nil {
		tt.Fatal(err)
	}
	m := master(tt, ours)
	defer m.Close()
	if err := t.r.Start(context.Background(), id); err != nil {
		tt.Fatal(err)
	}
	out, _ := io.ReadAll(m) // EIO when the last slave is closed
	if _, err := p.Wait(); err != nil {
		tt.Fatal(err)
	}
	if want := "/dev/pts/0\r\n25 99\r\n1000\r\nto console\r\n"; string(out) != want {
		tt.Fatalf("%q, want %q", out, want)
	}
}

func TestExec(tt *testing.T) {
	t := newTestbed(tt)
	ctx := context.Background()
	t.spec.Process.Args = []string{"sleep", "1000"}
	id, p, err := t.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	if err := t.r.Start(ctx, id); err != nil {
		tt.Fatal(err)
	}
	exec := func(change func(*specs.Process), args ...string) (string, int, error) {
		proc := *t.spec.Process
		proc.Args = args
		if change != nil {
			change(&proc)
		}
		out, err := memoryFile("out", nil)
		if err != nil {
			tt.Fatal(err)
		}
		defer out.Close()
		e, err := t.r.Exec(ctx, id, &proc, ExecOptions{IO: IO{Stdout: out, Stderr: out}})
		if err != nil {
			return "", 0, err
		}
		code, err := e.Wait()
		if err != nil {
			tt.Fatal(err)
		}
		b, _ := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", out.Fd()))
		return string(b), code, nil
	}
	out, code, err := exec(nil, "sh", "-c", "hostname; for n in pid net mnt uts ipc cgroup; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup | tail -1; exit 3")
	if err != nil || code != 3 {
		tt.Fatalf("%q %d %v", out, code, err)
	}
	lines := strings.Split(out, "\n")
	if lines[0] != "sbt" || !strings.HasSuffix(lines[7], "::/") {
		tt.Errorf("%q", lines)
	}
	for i, n := range []string{"pid", "net", "mnt", "uts", "ipc", "cgroup"} {
		if want, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.PID, n)); lines[i+1] != want {
			tt.Errorf("%s namespace %s, want %s", n, lines[i+1], want)
		}
	}
	out, _, err = exec(func(p *specs.Process) { p.User = specs.User{UID: 5, GID: 6}; p.Cwd = "/tmp" }, "sh", "-c", "id -u; id -g; pwd; grep CapEff /proc/self/status")
	if err != nil || out != "5\n6\n/tmp\nCapEff:\t0000000000000000\n" {
		tt.Errorf("%q %v", out, err)
	}
	if _, _, err = exec(nil, "nonesuch"); err == nil || !strings.Contains(err.Error(), `exec "nonesuch": executable file not found in $PATH`) {
		tt.Errorf("%v", err)
	}

	proc := *t.spec.Process
	proc.Args, proc.Terminal = []string{"tty"}, true
	ours, theirs := console(tt)
	e, err := t.r.Exec(ctx, id, &proc, ExecOptions{IO: IO{Console: theirs}})
	if err != nil {
		tt.Fatal(err)
	}
	m := master(tt, ours)
	defer m.Close()
	b, _ := io.ReadAll(m)
	if _, err := e.Wait(); err != nil || string(b) != "/dev/pts/0\r\n" {
		tt.Errorf("%q %v", b, err)
	}
}

func TestExecInUserNamespace(tt *testing.T) {
	t := newTestbed(tt)
	ctx := context.Background()
	t.spec.Linux.Namespaces = append(t.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	t.spec.Linux.UIDMappings, t.spec.Linux.GIDMappings = ids, ids
	t.spec.Process.Args = []string{"sleep", "1000"}
	id, _, err := t.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	if err := t.r.Start(ctx, id); err != nil {
		tt.Fatal(err)
	}
	out, err := memoryFile("out", nil)
	if err != nil {
		tt.Fatal(err)
	}
	defer out.Close()
	proc := *t.spec.Process
	proc.Args = []string{"sh", "-c", "id -u; cat /proc/self/uid_map; hostname x && hostname"}
	proc.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_SYS_ADMIN"}, Effective: []string{"CAP_SYS_ADMIN"}, Permitted: []string{"CAP_SYS_ADMIN"}}
	e, err := t.r.Exec(ctx, id, &proc, ExecOptions{IO: IO{Stdout: out, Stderr: out}})
	if err != nil {
		tt.Fatal(err)
	}
	if _, err := e.Wait(); err != nil {
		tt.Fatal(err)
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", out.Fd()))
	if got := strings.Join(strings.Fields(string(b)), " "); got != "0 0 100000 65536 x" {
		tt.Fatalf("%q", got)
	}
}

func TestHooks(tt *testing.T) {
	t := newTestbed(tt)
	ctx := context.Background()
	log := filepath.Join(t.bundle, "log")
	if err := os.WriteFile(log, nil, 0o666); err != nil { //nolint:gosec // written from everywhere
		tt.Fatal(err)
	}
	hook := func(name string) []specs.Hook {
		// "status in the namespace of": the state's status, and whether it is the container's
		return []specs.Hook{{
			Path: "/bin/sh", Env: []string{"PATH=/usr/bin:/bin", "LOG=" + log},
			Args: []string{"sh", "-c", `read -r state; s=${state#*\"status\":\"}; echo "` + name + ` ${s%%\"*} $(hostname | grep -c sbt)" >> ` + log},
		}}
	}
	t.spec.Mounts = append(t.spec.Mounts, specs.Mount{Destination: log, Type: "bind", Source: log, Options: []string{"bind"}})
	t.spec.Hooks = &specs.Hooks{
		Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"), //nolint:staticcheck // deprecated, not gone
		StartContainer: hook("startContainer"), Poststart: hook("poststart"), Poststop: hook("poststop"),
	}
	t.spec.Process.Args = []string{"sleep", "1000"}
	id, p, err := t.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	if err := t.r.Start(ctx, id); err != nil {
		tt.Fatal(err)
	}
	_ = killAndReap(p.PID)
	if err := t.r.Delete(ctx, id, false); err != nil {
		tt.Fatal(err)
	}
	b, _ := os.ReadFile(log)
	want := "prestart created 0\ncreateRuntime created 0\ncreateContainer created 1\nstartContainer created 1\npoststart running 0\npoststop stopped 0\n"
	if string(b) != want {
		tt.Fatalf("got\n%swant\n%s", b, want)
	}
}

func TestFailingHooks(tt *testing.T) {
	fail := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo reason >&2; exit 3"}}}
	for _, kind := range []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart"} {
		t := newTestbed(tt)
		h := &specs.Hooks{}
		t.spec.Hooks = h
		switch kind {
		case "prestart":
			h.Prestart = fail //nolint:staticcheck // deprecated, not gone
		case "createRuntime":
			h.CreateRuntime = fail
		case "createContainer":
			h.CreateContainer = fail
		case "startContainer":
			h.StartContainer = fail
		case "poststart":
			h.Poststart = fail
		}
		_, _, err := t.try("sleep", "1000")
		if err == nil || !strings.Contains(err.Error(), "hooks."+kind+"[0] (/bin/sh): exit status 3: reason") {
			tt.Errorf("%s: %v", kind, err)
		}
		if list, _ := t.r.List(); len(list) != 0 {
			tt.Errorf("%s: %+v is left", kind, list)
		}
	}
	t := newTestbed(tt)
	one := 1
	t.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &one}}}
	if _, _, err := t.try("true"); !errors.Is(err, context.DeadlineExceeded) {
		tt.Errorf("timeout: %v", err)
	}
}
