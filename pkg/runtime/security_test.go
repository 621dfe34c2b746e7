package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// While the first process waits for start it holds nothing of the host, and only
// root of the host may look into it.
func TestWaitingProcessHoldsNothing(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Process.Args = []string{"true"}
	id, p, err := t.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	dir := fmt.Sprintf("/proc/%d/fd", p.PID)
	fds, err := os.ReadDir(dir)
	if err != nil {
		tt.Fatal(err)
	}
	state := filepath.Join(t.r.Root, id)
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if err != nil {
			tt.Fatal(err)
		}
		if target != "/dev/null" && !strings.HasPrefix(target, "socket:") &&
			target != filepath.Join(state, goFIFO) && target != filepath.Join(state, doneFIFO) {
			tt.Errorf("descriptor %s is %s", fd.Name(), target)
		}
	}
	// /proc/PID/fd belongs to the process's user only if that may look into it:
	// a user other than root shows the difference.
	t.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	_, p, err = t.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/environ", p.PID), &st); err != nil || st.Uid != 0 {
		tt.Errorf("/proc/PID/environ belongs to %d, %v", st.Uid, err)
	}
}

// A symlink in place of /proc or /sys could lead to where another container can
// move the mount away before it is masked.
func TestProcAndSysAreNoSymlinks(tt *testing.T) {
	for _, dir := range []string{"proc", "sys"} {
		t := newTestbed(tt)
		path := filepath.Join(t.bundle, "rootfs", dir)
		if err := os.Remove(path); err != nil {
			tt.Fatal(err)
		}
		if err := os.Symlink("/tmp/elsewhere", path); err != nil {
			tt.Fatal(err)
		}
		if _, _, err := t.try("true"); err == nil || !strings.Contains(err.Error(), "too many levels of symbolic links") {
			tt.Errorf("%s: %v", dir, err)
		}
	}
}

// Without pivot_root the old root stays in the mount namespace, but no procfs that
// would let a nested user namespace mount a fresh one, without masked paths.
func TestNoPivotHidesProc(tt *testing.T) {
	t := newTestbed(tt)
	caps := t.spec.Process.Capabilities
	for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
		*set = append(*set, "CAP_SYS_CHROOT")
	}
	t.spec.Process.Args = []string{"sh", "-c", "unshare -mrpf mount -t proc none /proc"}
	t.writeSpec()
	id := t.id()
	out, err := memoryFile("output", nil)
	if err != nil {
		tt.Fatal(err)
	}
	defer out.Close()
	p, err := t.r.Create(context.Background(), id, CreateOptions{Bundle: t.bundle, NoPivot: true, IO: IO{Stdout: out, Stderr: out}})
	if err != nil {
		tt.Fatal(err)
	}
	if err := t.r.Start(context.Background(), id); err != nil {
		tt.Fatal(err)
	}
	code, err := p.Wait()
	if err != nil {
		tt.Fatal(err)
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", out.Fd()))
	if code == 0 || !strings.Contains(string(b), "denied") && !strings.Contains(string(b), "not permitted") {
		tt.Errorf("exit code %d: %s", code, b)
	}
	if err := t.r.Delete(context.Background(), id, true); err != nil {
		tt.Error(err)
	}
}

func TestProcMounts(tt *testing.T) {
	got := procMounts(`21 28 0:20 / /sys rw,nosuid - sysfs sysfs rw
22 28 0:21 / /proc rw - proc proc rw
23 28 0:5 / /dev rw - devtmpfs udev rw
40 28 0:22 / /srv/a\040b/proc rw,relatime shared:1 - proc none rw
41 28 0:22 / /bundle/rootfs/proc rw - proc none rw
`, "/bundle/rootfs")
	if want := []string{"/sys", "/proc", "/srv/a b/proc"}; !slices.Equal(got, want) {
		tt.Errorf("%q", got)
	}
}

// The program of a startContainer hook is the image's: it has the rights of the
// user's program, and its environment.
func TestStartContainerHookIsConfined(tt *testing.T) {
	t := newTestbed(tt)
	out := filepath.Join(t.bundle, "rootfs/tmp/hook")
	t.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	t.spec.Process.Env = append(t.spec.Process.Env, "ONE=two")
	t.spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
	}
	if err := os.Chmod(filepath.Dir(out), 0o1777); err != nil { //nolint:gosec // a /tmp
		tt.Fatal(err)
	}
	const script = `exec >/tmp/hook 2>&1; id -u; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; mkdir /tmp/x; echo "ONE=$ONE"; sed -n 's/^0:://p' /proc/self/cgroup`
	t.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}}
	t.sh("true")
	b, err := os.ReadFile(out)
	if err != nil {
		tt.Fatal(err)
	}
	want := "1000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nmkdir: can't create directory '/tmp/x': Operation not permitted\nONE=two\n/\n"
	if string(b) != want {
		tt.Errorf("got\n%s\nwant\n%s", b, want)
	}
}
