package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestLifecycle(tt *testing.T) {
	t := newTestbed(tt)
	ctx := context.Background()
	t.spec.Process.Args = []string{"sleep", "1000"}
	id, p, err := t.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	status := func(want specs.ContainerState) {
		tt.Helper()
		s, err := t.r.State(id)
		if err != nil {
			tt.Fatal(err)
		}
		if s.Status != want || want != specs.StateStopped && s.Pid != p.PID || s.Bundle != t.bundle {
			tt.Fatalf("state %+v, want %s", s, want)
		}
	}
	status(specs.StateCreated)
	if _, err := t.r.Create(ctx, id, CreateOptions{Bundle: t.bundle}); !errdefs.IsAlreadyExists(err) {
		tt.Errorf("second create: %v", err)
	}
	if err := t.r.Delete(ctx, id, false); !errdefs.IsFailedPrecondition(err) {
		tt.Errorf("delete of a created container: %v", err)
	}
	if err := t.r.Start(ctx, id); err != nil {
		tt.Fatal(err)
	}
	status(specs.StateRunning)
	if err := t.r.Start(ctx, id); !errdefs.IsFailedPrecondition(err) {
		tt.Errorf("second start: %v", err)
	}
	if err := t.r.Pause(ctx, id); err != nil {
		tt.Fatal(err)
	}
	status(StatusPaused)
	if err := t.r.Resume(ctx, id); err != nil {
		tt.Fatal(err)
	}
	status(specs.StateRunning)
	if pids, err := t.r.Processes(id); err != nil || !slices.Equal(pids, []int{p.PID}) {
		tt.Errorf("processes %v %v", pids, err)
	}
	if err := t.r.Kill(id, unix.SIGKILL, false); err != nil {
		tt.Fatal(err)
	}
	if code, err := p.Wait(); err != nil || code != 137 {
		tt.Fatalf("exit code %d, %v", code, err)
	}
	status(specs.StateStopped)
	if err := t.r.Kill(id, unix.SIGTERM, false); !errdefs.IsFailedPrecondition(err) {
		tt.Errorf("kill of a stopped container: %v", err)
	}
	if err := t.r.Delete(ctx, id, false); err != nil {
		tt.Fatal(err)
	}
	if _, err := t.r.State(id); !errdefs.IsNotFound(err) {
		tt.Errorf("state of a deleted container: %v", err)
	}
	if err := t.r.Delete(ctx, id, true); err != nil {
		tt.Errorf("forced delete of a missing container: %v", err)
	}
}

// Create with Start gives a running container, or none.
func TestCreateAndStart(tt *testing.T) {
	t := newTestbed(tt)
	ctx := context.Background()
	for _, c := range []struct {
		args  []string
		hooks *specs.Hooks
		want  string
	}{
		{args: []string{"sleep", "1000"}},
		{args: []string{"sleep", "1000"}, hooks: &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/true"}}}},
		{args: []string{"/dev/null"}, want: `exec "/dev/null": permission denied`},
		{args: []string{"nonesuch"}, want: "not found in $PATH"},
	} {
		t.spec.Process.Args, t.spec.Hooks = c.args, c.hooks
		t.writeSpec()
		id := t.id()
		p, err := t.r.Create(ctx, id, CreateOptions{Bundle: t.bundle, Start: true})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				tt.Errorf("%q: %v", c.args, err)
			}
			if _, err := t.r.State(id); !errdefs.IsNotFound(err) {
				tt.Errorf("%q: %v", c.args, err)
			}
			continue
		}
		if err != nil {
			tt.Fatal(err)
		}
		want := specs.StateRunning
		if c.hooks != nil {
			want = specs.StateCreated
		}
		if s, err := t.r.State(id); err != nil || s.Status != want || p.Started != (c.hooks == nil) {
			tt.Errorf("%+v %v, started %v", s, err, p.Started)
		}
		_ = killAndReap(p.PID)
		if err := t.r.Delete(ctx, id, false); err != nil {
			tt.Error(err)
		}
	}
}

func TestIDs(tt *testing.T) {
	r := &Runtime{Root: tt.TempDir()}
	for _, id := range []string{"", ".", "..", "a/b", "../x", "a b", "é", strings.Repeat("x", 256)} {
		if _, err := r.State(id); !errdefs.IsInvalidArgument(err) {
			tt.Errorf("ID %q: %v", id, err)
		}
	}
	for _, id := range []string{"a", "A-1_b.c+d", strings.Repeat("x", 255)} {
		if _, err := r.State(id); !errdefs.IsNotFound(err) {
			tt.Errorf("ID %q: %v", id, err)
		}
	}
}

// Whatever goes wrong in create, nothing of the container is left.
func TestCreateFailures(tt *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
		want   string
	}{
		{"no program", func(s *specs.Spec) { s.Process.Args = []string{"nonesuch"} }, `exec "nonesuch": executable file not found in $PATH`},
		{"no such path", func(s *specs.Spec) { s.Process.Args = []string{"/none/such"} }, `exec "/none/such": no such file or directory`},
		{"not executable", func(s *specs.Spec) { s.Process.Args = []string{"/etc"}; s.Process.Args[0] = "/proc/version" }, `exec "/proc/version": permission denied`},
		{"bad mount", func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "nonesuchfs"}) }, "fsopen nonesuchfs (mounts): no such device"},
		{"bad mount option", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"nonesuch=1"}})
		}, "fsconfig tmpfs (mounts): invalid argument"},
		{"bind of nothing", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/none/such", Options: []string{"bind"}})
		}, "mounts[7] (/x): source: stat /none/such: no such file or directory"},
		{"mount in /proc", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/self/attr", Type: "tmpfs"})
		}, "mounts inside /proc are refused"},
		{"mount over /", func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/", Type: "tmpfs"}) }, "over the root file system"},
		{"no rootfs", func(s *specs.Spec) { s.Root.Path = "nonesuch" }, "no such file or directory"},
		{"bad version", func(s *specs.Spec) { s.Version = "2.0.0" }, `ociVersion "2.0.0"`},
		{"unsupported", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }, "linux.intelRdt is not supported"},
		{"host sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"vm.swappiness": "1"} }, `linux.sysctl "vm.swappiness" is not namespaced`},
		{"bad rlimit", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} }, "process.rlimits: unknown type"},
		{"relative cwd", func(s *specs.Spec) { s.Process.Cwd = "tmp" }, `process.cwd "tmp" is not an absolute path`},
		{"namespace of another type", func(s *specs.Spec) {
			s.Linux.Namespaces[0].Path = "/proc/self/ns/net"
		}, "is a net namespace, not a pid one"},
		{"terminal without a socket", func(s *specs.Spec) { s.Process.Terminal = true }, "no console socket"},
		{"escaping cgroup", func(s *specs.Spec) { s.Linux.CgroupsPath = "/../../sbt" }, ""},
	} {
		tt.Run(c.name, func(tt *testing.T) {
			t := newTestbed(tt)
			t.spec.Process.Args = []string{"true"}
			c.change(t.spec)
			id, _, err := t.create(IO{})
			if c.want == "" {
				return // it must not escape, whether it is refused or not
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				tt.Fatalf("error %v, want %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(t.r.Root, id)); !errors.Is(err, os.ErrNotExist) {
				tt.Errorf("state is left: %v", err)
			}
			for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
				if _, err := os.Stat(filepath.Join(root, id)); err == nil {
					tt.Errorf("cgroup %s/%s is left", root, id)
				}
			}
		})
	}
}

func TestNamespaces(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Linux.Namespaces = append(t.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	lines := t.sh("for n in pid net mnt uts ipc cgroup time user; do readlink /proc/self/ns/$n || echo none; done; hostname; echo $$; ls /sys/class/net; ip addr show lo | grep -c UP")
	for i, n := range []string{"pid", "net", "mnt", "uts", "ipc", "cgroup", "time"} {
		if ours, _ := os.Readlink("/proc/self/ns/" + n); ours == lines[i] || !strings.HasPrefix(lines[i], n+":") {
			if n == "time" && timeNamespaces() != "" {
				if len(t.warnings) == 0 {
					tt.Error("no warning that there is no time namespace")
				}
				continue
			}
			tt.Errorf("%s namespace %s is ours (%s)", n, lines[i], ours)
		}
	}
	if ours, _ := os.Readlink("/proc/self/ns/user"); ours != lines[7] {
		tt.Errorf("user namespace %s, ours is %s", lines[7], ours)
	}
	if want := []string{"sbt", "1", "lo", "1"}; !slices.Equal(lines[8:], want) {
		tt.Errorf("got %q, want %q", lines[8:], want)
	}
}

func TestTimeOffsets(tt *testing.T) {
	if lacking := timeNamespaces(); lacking != "" {
		tt.Skip(lacking)
	}
	t := newTestbed(tt)
	t.spec.Linux.Namespaces = append(t.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	t.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000}}
	up, _, _ := strings.Cut(t.sh("cat /proc/uptime")[0], ".")
	if n, err := strconv.Atoi(up); err != nil || n < 1000000 {
		tt.Fatalf("uptime %q", up)
	}
}

func TestUserNamespace(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Linux.Namespaces = append(t.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	t.spec.Linux.UIDMappings, t.spec.Linux.GIDMappings = ids, ids
	t.spec.Linux.Resources = nil
	if err := os.Chown(filepath.Join(t.bundle, "rootfs"), 100000, 100000); err != nil {
		tt.Fatal(err)
	}
	shared := tt.TempDir()
	if err := os.Chmod(filepath.Dir(shared), 0o700); err != nil { // the mapped root may not walk there
		tt.Fatal(err)
	}
	if err := os.Chmod(shared, 0o777); err != nil { //nolint:gosec // for the mapped root
		tt.Fatal(err)
	}
	t.spec.Mounts = append(t.spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: shared, Options: []string{"rbind"}})
	lines := t.sh("id -u; cat /proc/self/uid_map; touch /data/x; echo a > /dev/null && echo ok; mount -t tmpfs none /tmp 2>/dev/null && echo mounted; stat -c %u /dev/shm")
	if lines[0] != "0" || strings.Join(strings.Fields(lines[1]), " ") != "0 100000 65536" || lines[2] != "ok" || lines[3] != "0" {
		tt.Fatalf("%q", lines)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(shared, "x"), &st); err != nil || st.Uid != 100000 {
		tt.Fatalf("owner %d, %v", st.Uid, err)
	}
}

func TestJoinedNamespaces(tt *testing.T) {
	a := newTestbed(tt)
	a.spec.Process.Args = []string{"sleep", "1000"}
	id, p, err := a.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	if err := a.r.Start(context.Background(), id); err != nil {
		tt.Fatal(err)
	}
	b := newTestbed(tt)
	b.spec.Hostname = ""
	var want []string
	for i, ns := range b.spec.Linux.Namespaces {
		flag, _ := namespaceFlag(ns.Type)
		if flag == unix.CLONE_NEWNS || flag == unix.CLONE_NEWCGROUP {
			continue
		}
		path := fmt.Sprintf("/proc/%d/ns/%s", p.PID, nsFile(flag))
		b.spec.Linux.Namespaces[i].Path = path
		link, _ := os.Readlink(path)
		want = append(want, link)
	}
	got := b.sh("for n in pid net ipc uts; do readlink /proc/self/ns/$n; done; hostname")
	if !slices.Equal(got[:4], want) || got[4] != "sbt" {
		tt.Fatalf("got %q, want %q", got, want)
	}
}

func TestMounts(tt *testing.T) {
	t := newTestbed(tt)
	dir := tt.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content\n"), 0o644); err != nil { //nolint:gosec // to be read
		tt.Fatal(err)
	}
	bind := func(dst, src string, options ...string) specs.Mount {
		return specs.Mount{Destination: dst, Type: "bind", Source: src, Options: options}
	}
	t.spec.Mounts = append(t.spec.Mounts,
		bind("/a/b/c", dir, "rbind", "ro", "nosuid"),
		bind("/etc/file", filepath.Join(dir, "file"), "bind", "ro"),
		bind("/rro", dir, "rbind", "rro"),
		specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k", "mode=1777", "noexec"}},
		specs.Mount{Destination: "/frozen", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro"}},
		bind("/frozen/sub", dir, "rbind"),
	)
	lines := t.sh(`cat /a/b/c/file /etc/file /frozen/sub/file
		for f in /a/b/c/x /etc/file /rro/x /frozen/x /sys/x /proc/sys/kernel/hostname; do (echo x > $f) 2>/dev/null && echo "written $f"; done
		echo x > /scratch/x && stat -c %a /scratch
		head -c1 /proc/keys | wc -c; ls /sys/firmware | wc -l
		for d in null zero full random urandom tty; do [ -c /dev/$d ] || echo "no $d"; done
		readlink /dev/fd; readlink /dev/ptmx; mount | grep -c ' / '`)
	want := []string{"content", "content", "content", "1777", "0", "0", "/proc/self/fd", "pts/ptmx", "1"}
	if !slices.Equal(lines, want) {
		tt.Fatalf("got %q, want %q", lines, want)
	}
}

func TestIDMappedMount(tt *testing.T) {
	t := newTestbed(tt)
	dir := tt.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		tt.Fatal(err)
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1234, Size: 1}}
	t.spec.Mounts = append(t.spec.Mounts, specs.Mount{
		Destination: "/data", Type: "bind", Source: dir, Options: []string{"rbind"}, UIDMappings: ids, GIDMappings: ids,
	})
	out, code, err := t.try("stat", "-c", "%u:%g", "/data/file")
	if errors.Is(err, unix.EINVAL) {
		tt.Skip("the file system of the temporary folder has no idmapped mounts on this kernel")
	}
	if err != nil || code != 0 || out != "1234:1234\n" {
		tt.Fatalf("%q %d %v", out, code, err)
	}
}

func TestReadonlyRoot(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Root.Readonly = true
	if out, code := t.run("touch", "/x"); code == 0 || !strings.Contains(out, "Read-only") {
		tt.Fatalf("%d %q", code, out)
	}
	if out, code := t.run("touch", "/dev/shm/x"); code != 0 {
		tt.Fatalf("%d %q", code, out)
	}
}

// A hostile image's symlinks are followed inside it only.
func TestHostileSymlinks(tt *testing.T) {
	t := newTestbed(tt)
	outside := tt.TempDir()
	rootfs := filepath.Join(t.bundle, "rootfs")
	up := strings.Repeat("../", 20)
	for link, target := range map[string]string{
		"etc/escape": up + outside, "data": outside, "tmp/loop": "loop", "dev2": "/proc/self/fd",
	} {
		if err := os.Symlink(target, filepath.Join(rootfs, link)); err != nil {
			tt.Fatal(err)
		}
	}
	t.spec.Mounts = append(t.spec.Mounts,
		specs.Mount{Destination: "/etc/escape/mnt", Type: "tmpfs", Source: "tmpfs"})
	_, _, err := t.try("true") // made inside, or refused
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		tt.Fatalf("%v made outside (%v)", entries, err)
	}
	t.spec.Mounts = t.spec.Mounts[:len(t.spec.Mounts)-1]
	t.spec.Mounts = append(t.spec.Mounts, specs.Mount{Destination: "/tmp/loop/x", Type: "tmpfs", Source: "tmpfs"})
	if _, _, err := t.try("true"); !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOTDIR) {
		tt.Errorf("symlink loop: %v", err)
	}
	t.spec.Mounts = t.spec.Mounts[:len(t.spec.Mounts)-1]
	t.spec.Process.Cwd = "/proc/self/fd/7"
	if _, _, err := t.try("true"); err == nil {
		tt.Error("the working directory was a descriptor of the runtime")
	}
	t.spec.Process.Cwd = "/"
	// /proc as a symlink: the mount lands inside, wherever that is
	if err := os.Remove(filepath.Join(rootfs, "proc")); err != nil {
		tt.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(rootfs, "proc")); err != nil {
		tt.Fatal(err)
	}
	_, _, _ = t.try("true")
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		tt.Fatalf("%v made outside", entries)
	}
}

// What a container could reach of its creator is sealed.
func TestSealedInit(tt *testing.T) {
	t := newTestbed(tt)
	_, p, err := t.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	exe := fmt.Sprintf("/proc/%d/exe", p.PID)
	if link, err := os.Readlink(exe); err != nil || !strings.HasPrefix(link, "/memfd:init") {
		tt.Fatalf("%s is %s, %v", exe, link, err)
	}
	if f, err := os.OpenFile(exe, os.O_WRONLY, 0); err == nil {
		defer f.Close()
		if _, err := f.Write([]byte("x")); !errors.Is(err, unix.EPERM) {
			tt.Fatalf("the image of the first process was written: %v", err)
		}
	}
}

func TestConcurrentCreateOfOneID(tt *testing.T) {
	t := newTestbed(tt)
	t.writeSpec()
	id := t.id()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var made []*Process
	for range 8 {
		wg.Go(func() {
			p, err := t.r.Create(context.Background(), id, CreateOptions{Bundle: t.bundle})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made = append(made, p)
			} else if !errdefs.IsAlreadyExists(err) {
				tt.Error(err)
			}
		})
	}
	wg.Wait()
	if len(made) != 1 {
		tt.Fatalf("%d containers were made", len(made))
	}
	_ = killAndReap(made[0].PID)
	if err := t.r.Delete(context.Background(), id, true); err != nil {
		tt.Fatal(err)
	}
}

func TestCancelledCreate(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}}}}
	t.writeSpec()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	id := t.id()
	if _, err := t.r.Create(ctx, id, CreateOptions{Bundle: t.bundle}); !errors.Is(err, context.DeadlineExceeded) {
		tt.Fatal(err)
	}
	if _, err := t.r.State(id); !errdefs.IsNotFound(err) {
		tt.Fatal(err)
	}
}
