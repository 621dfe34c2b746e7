package runtime

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// These tests are about what callers of runc rely on without the runtime-spec
// saying so.

func TestEnviron(tt *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/sh\nbad\nu:x:1000:1000::/home/u:/bin/sh\nempty:x:7:7:::\n"
	for _, c := range []struct {
		uid       uint32
		env, want []string
	}{
		{0, []string{"A=1", "HOME=/x"}, []string{"A=1", "HOME=/x"}},
		{0, nil, []string{"HOME=/root"}},
		{1000, []string{"HOME="}, []string{"HOME=/home/u"}},
		{1001, []string{"HOME=/x", "HOME="}, []string{"HOME=/"}},
		{7, nil, []string{"HOME=/"}},
		{0, []string{"A=1", "B=2", "A=3", "HOME=/x"}, []string{"B=2", "A=3", "HOME=/x"}},
	} {
		p := &specs.Process{User: specs.User{UID: c.uid}, Env: c.env}
		if got := environ(p, func() []byte { return []byte(passwd) }); !slices.Equal(got, c.want) {
			tt.Errorf("%q: %q, want %q", c.env, got, c.want)
		}
	}
}

// The image's /etc/passwd is read as the container would: a symlink in it does not
// lead to the host's, and a FIFO blocks nobody.
func TestHostilePasswd(tt *testing.T) {
	t := newTestbed(tt)
	file := filepath.Join(t.bundle, "rootfs/etc/passwd")
	outside := filepath.Join(t.bundle, "outside")
	if err := os.WriteFile(outside, []byte("root:x:0:0::/leaked:\n"), 0o644); err != nil { //nolint:gosec // a passwd
		tt.Fatal(err)
	}
	home := func(want string) {
		tt.Helper()
		if got := t.sh("echo $HOME"); !slices.Equal(got, []string{want}) {
			tt.Errorf("HOME %q, want %s", got, want)
		}
	}
	home("/")
	if err := os.Symlink("../../outside", file); err != nil {
		tt.Fatal(err)
	}
	home("/")
	_ = os.Remove(file)
	if err := unix.Mkfifo(file, 0o644); err != nil {
		tt.Fatal(err)
	}
	home("/")
	_ = os.Remove(file)
	if err := os.WriteFile(file, []byte("root:x:0:0::/its/own:\n"), 0o644); err != nil { //nolint:gosec // a passwd
		tt.Fatal(err)
	}
	home("/its/own")
	t.spec.Mounts = append(t.spec.Mounts, specs.Mount{Destination: "/etc/passwd", Type: "bind", Source: outside, Options: []string{"bind"}})
	home("/leaked")
}

// In a PID namespace that is not its own, a container's other processes do not end
// with its first one: to kill it is to kill them too.
func TestKillInSharedPIDNamespace(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Linux.Namespaces = slices.DeleteFunc(t.spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.PIDNamespace })
	t.spec.Process.Args = []string{"sh", "-c", "sleep 1000 & sleep 1001 & wait"}
	id, p, err := t.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	if err := t.r.Start(context.Background(), id); err != nil {
		tt.Fatal(err)
	}
	processes := func(want int) {
		tt.Helper()
		var pids []int
		for range 200 {
			if pids, err = t.r.Processes(id); err == nil && len(pids) == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		tt.Fatalf("processes %v %v, want %d", pids, err, want)
	}
	processes(3)
	if err := unix.Kill(p.PID, unix.SIGKILL); err != nil {
		tt.Fatal(err)
	}
	if _, err := p.Wait(); err != nil {
		tt.Fatal(err)
	}
	processes(2) // without their parent, in a container that is stopped
	if err := t.r.Kill(id, unix.SIGTERM, false); err == nil || !strings.Contains(err.Error(), "container not running") {
		tt.Errorf("kill TERM: %v", err)
	}
	if err := t.r.Kill(id, unix.SIGKILL, false); err != nil {
		tt.Fatal(err)
	}
	processes(0)
}

// When the first process has moved below the container's cgroup, which now
// delegates controllers, further processes go to where it is.
func TestExecFollowsFirstProcess(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Mounts[6].Options = []string{"rw"}
	limit := int64(100)
	t.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
	t.spec.Process.Args = []string{"sh", "-c", "mkdir /sys/fs/cgroup/below && echo 1 >/sys/fs/cgroup/below/cgroup.procs && " +
		"echo +pids >/sys/fs/cgroup/cgroup.subtree_control; exec sleep 1000"}
	id, p, err := t.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	if err := t.r.Start(context.Background(), id); err != nil {
		tt.Fatal(err)
	}
	for range 500 {
		if b, _ := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/comm"); string(b) == "sleep\n" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	further := *t.spec.Process
	further.Args = []string{"sleep", "1000"}
	proc, err := t.r.Exec(context.Background(), id, &further, ExecOptions{})
	if err != nil {
		tt.Fatal(err)
	}
	defer func() { _ = killAndReap(proc.PID) }()
	cgroupOf := func(pid int) string {
		out, err := exec.Command("sed", "-n", "s/^0:://p", "/proc/"+strconv.Itoa(pid)+"/cgroup").Output()
		if err != nil {
			tt.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	// Without the controller in cgroup v2 the container's own takes it.
	first := cgroupOf(p.PID)
	if got := cgroupOf(proc.PID); got != first && (os.Getenv("SANDBOX_VM") != "" || got+"/below" != first) {
		tt.Errorf("first process in %s, further one in %s", first, got)
	}
}

// A tmpfs has the mode of the folder that it hides, unless it is told another.
func TestTmpfsMode(tt *testing.T) {
	t := newTestbed(tt)
	if err := os.Chmod(filepath.Join(t.bundle, "rootfs/tmp"), 0o750|os.ModeSticky); err != nil { //nolint:gosec // a test's
		tt.Fatal(err)
	}
	tmpfs := func(dir string, options ...string) {
		t.spec.Mounts = append(t.spec.Mounts, specs.Mount{Destination: dir, Type: "tmpfs", Source: "tmpfs", Options: options})
	}
	tmpfs("/tmp")
	tmpfs("/new")
	tmpfs("/root", "mode=0700", "ro")
	if got, want := t.sh("stat -c %a /tmp /new /root"), []string{"1750", "1777", "700"}; !slices.Equal(got, want) {
		tt.Errorf("modes %q, want %q", got, want)
	}
}

// A read-only /dev still gets its devices.
func TestReadonlyDev(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Mounts[1].Options = append(t.spec.Mounts[1].Options, "ro")
	if got := t.sh("test -c /dev/null && touch /dev/x 2>&1 || echo refused"); !strings.Contains(strings.Join(got, ""), "Read-only") {
		tt.Errorf("%q", got)
	}
}

// Many an image has /etc/resolv.conf as a symlink to what does not exist before it runs.
func TestMountOnDanglingSymlink(tt *testing.T) {
	t := newTestbed(tt)
	rootfs := filepath.Join(t.bundle, "rootfs")
	for link, target := range map[string]string{
		"etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf",
		"etc/up":          "../../../../../../../../outside/file",
		"data":            "/vol/data",
	} {
		if err := os.Symlink(target, filepath.Join(rootfs, link)); err != nil {
			tt.Fatal(err)
		}
	}
	source := filepath.Join(t.bundle, "source")
	if err := os.WriteFile(source, []byte("found\n"), 0o644); err != nil { //nolint:gosec // for all
		tt.Fatal(err)
	}
	for _, dest := range []string{"/etc/resolv.conf", "/etc/up", "/data/sub/file"} {
		t.spec.Mounts = append(t.spec.Mounts, specs.Mount{Destination: dest, Type: "bind", Source: source, Options: []string{"bind"}})
	}
	got := t.sh("cat /run/systemd/resolve/stub-resolv.conf /outside/file /vol/data/sub/file")
	if !slices.Equal(got, []string{"found", "found", "found"}) {
		tt.Errorf("%q", got)
	}
	if _, err := os.Lstat("/outside"); err == nil {
		tt.Error("something was made outside of the root file system")
	}
}

// A cgroup with processes is not taken: they would be killed with the container.
func TestCgroupInUse(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Linux.CgroupsPath = "/sbt-in-use-" + strconv.Itoa(os.Getpid())
	if _, _, err := t.create(IO{}); err != nil {
		tt.Fatal(err)
	}
	id, _, err := t.create(IO{})
	if err == nil || !strings.Contains(err.Error(), "there are processes in cgroup") {
		tt.Fatalf("second container in the cgroup: %v", err)
	}
	if _, err := t.r.State(id); err == nil {
		tt.Error("the second container exists")
	}
}

// A pod's containers share its user namespace, and have PID and mount namespaces of
// their own, which must belong to it.
func TestJoinedUserNamespace(tt *testing.T) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	pod := newTestbed(tt)
	pod.spec.Linux.Namespaces = append(pod.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	pod.spec.Linux.UIDMappings, pod.spec.Linux.GIDMappings = ids, ids
	pod.spec.Process.Args = []string{"sleep", "1000"}
	id, p, err := pod.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	if err := pod.r.Start(context.Background(), id); err != nil {
		tt.Fatal(err)
	}
	for _, shared := range [][]string{{"user", "net", "ipc", "uts"}, {"user", "net", "ipc", "uts", "pid"}, {"user"}} {
		t := newTestbed(tt)
		t.spec.Hostname = ""
		caps := t.spec.Process.Capabilities
		for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
			*set = append(*set, "CAP_SYS_ADMIN")
		}
		t.spec.Linux.Namespaces = append(t.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		for i, ns := range t.spec.Linux.Namespaces {
			flag, _ := namespaceFlag(ns.Type)
			if slices.Contains(shared, nsFile(flag)) {
				t.spec.Linux.Namespaces[i].Path = "/proc/" + strconv.Itoa(p.PID) + "/ns/" + nsFile(flag)
			}
		}
		want := "0 100000 65536 1 mounted"
		if slices.Contains(shared, "pid") {
			want = "0 100000 65536 shared mounted"
		}
		got := t.sh("cat /proc/self/uid_map; if [ $$ = 1 ]; then echo 1; else echo shared; fi; mount -t tmpfs none /tmp && echo mounted")
		if s := strings.Join(strings.Fields(strings.Join(got, " ")), " "); s != want {
			tt.Errorf("sharing %v: %q, want %q", shared, s, want)
		}
		t.spec.Process.Args = []string{"sleep", "1000"}
		id, p, err := t.create(IO{})
		if err != nil {
			tt.Fatal(err)
		}
		if err := t.r.Start(context.Background(), id); err != nil {
			tt.Fatal(err)
		}
		if pids, err := t.r.Processes(id); err != nil || !slices.Equal(pids, []int{p.PID}) {
			tt.Errorf("processes %v %v, first %d", pids, err, p.PID)
		}
		further := *t.spec.Process
		further.Args = []string{"true"}
		proc, err := t.r.Exec(context.Background(), id, &further, ExecOptions{})
		if err != nil {
			tt.Fatal(err)
		}
		if code, err := proc.Wait(); err != nil || code != 0 {
			tt.Error(code, err)
		}
	}
}

// Everything is told once, however often the runtime looks at what was done.
func TestToldOnce(tt *testing.T) {
	t := newTestbed(tt)
	told := map[string]int{}
	t.r.Trace = explain.New("runtime", os.Getpid(), func(ev explain.Event) { told[ev.Op+" "+ev.Target]++ })
	t.spec.Process.Capabilities.Ambient = []string{"CAP_CHOWN"}
	t.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}}}
	t.sh("true")
	for _, op := range []string{"sethostname sbt", "move_mount /proc", "pivot_root " + filepath.Join(t.bundle, "rootfs")} {
		if told[op] != 1 {
			tt.Errorf("%s was told %d times", op, told[op])
		}
	}
	if n := strings.Count(strings.Join(t.warnings, "\n"), "CAP_CHOWN was not raised"); n != 1 {
		tt.Errorf("%d warnings: %q", n, t.warnings)
	}
}
