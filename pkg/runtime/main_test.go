package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The root file system of these tests: a static busybox with a link for each
// of its programs.
func makeRootfs(tb testing.TB) string {
	tb.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		tb.Skip("no busybox on this host")
	}
	if out, _ := exec.Command("ldd", busybox).CombinedOutput(); strings.Contains(string(out), "libc.so") {
		tb.Skip("busybox on this host is not static")
	}
	root := filepath.Join(tb.TempDir(), "rootfs")
	for _, dir := range []string{"bin", "proc", "sys", "dev", "tmp", "etc", "root"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	// Everybody may walk there: a mapped root has no rights of its own.
	for dir := root; dir != os.TempDir() && len(dir) > 1; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755)
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), b, 0o755); err != nil { //nolint:gosec // a program
		tb.Fatal(err)
	}
	out, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range strings.Fields(string(out)) {
		if name != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
				tb.Fatal(err)
			}
		}
	}
	return root
}

var serial atomic.Int64

// testbed is a runtime with its own state folder, and a bundle.
type testbed struct {
	tb       testing.TB
	r        *Runtime
	bundle   string
	spec     *specs.Spec
	warnings []string
}

func newTestbed(tb testing.TB) *testbed {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root")
	}
	rootfs := makeRootfs(tb)
	t := &testbed{tb: tb, bundle: filepath.Dir(rootfs), spec: basicSpec()}
	t.r = &Runtime{Root: filepath.Join(tb.TempDir(), "state"), Warn: func(w string) { t.warnings = append(t.warnings, w) }}
	return t
}

// basicSpec is much like what engines write.
func basicSpec() *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE"}
	m := func(dst, typ, src string, options ...string) specs.Mount {
		return specs.Mount{Destination: dst, Type: typ, Source: src, Options: options}
	}
	return &specs.Spec{
		Version: SpecVersion,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Hostname: "sbt",
		Mounts: []specs.Mount{
			m("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
			m("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			m("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
			m("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			m("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
			m("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			m("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// id returns a container ID that no other test uses.
func (t *testbed) id() string { return fmt.Sprintf("sbt-%d-%d", os.Getpid(), serial.Add(1)) }

func (t *testbed) writeSpec() {
	t.tb.Helper()
	b, err := json.Marshal(t.spec)
	if err != nil {
		t.tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(t.bundle, "config.json"), b, 0o600); err != nil {
		t.tb.Fatal(err)
	}
}

// create creates a container from the spec and sees to its removal.
func (t *testbed) create(io IO) (string, *Process, error) {
	t.tb.Helper()
	t.writeSpec()
	id := t.id()
	p, err := t.r.Create(context.Background(), id, CreateOptions{Bundle: t.bundle, IO: io})
	if err == nil {
		t.tb.Cleanup(func() {
			_ = killAndReap(p.PID)
			if err := t.r.Delete(context.Background(), id, true); err != nil {
				t.tb.Error(err)
			}
		})
	}
	return id, p, err
}

// run runs args to their end and returns what they wrote and their exit code.
func (t *testbed) run(args ...string) (string, int) {
	t.tb.Helper()
	out, code, err := t.try(args...)
	if err != nil {
		t.tb.Fatal(err)
	}
	return out, code
}

func (t *testbed) try(args ...string) (string, int, error) {
	t.tb.Helper()
	t.spec.Process.Args = args
	out, err := memoryFile("output", nil)
	if err != nil {
		t.tb.Fatal(err)
	}
	defer out.Close()
	id, p, err := t.create(IO{Stdout: out, Stderr: out})
	if err != nil {
		return "", 0, err
	}
	if err := t.r.Start(context.Background(), id); err != nil {
		return "", 0, err
	}
	code, err := p.Wait()
	if err != nil {
		t.tb.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", out.Fd()))
	if err != nil {
		t.tb.Fatal(err)
	}
	return string(b), code, nil
}

// sh runs a shell script, which must succeed, and returns its output's lines.
func (t *testbed) sh(script string) []string {
	t.tb.Helper()
	out, code := t.run("sh", "-c", script)
	if code != 0 {
		t.tb.Fatalf("exit code %d:\n%s", code, out)
	}
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n")
}

func BenchmarkRun(b *testing.B) {
	t := newTestbed(b)
	t.writeSpec()
	ctx := context.Background()
	for b.Loop() {
		id := t.id()
		p, err := t.r.Create(ctx, id, CreateOptions{Bundle: t.bundle, Start: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			b.Fatal(err)
		}
		if err := t.r.Delete(ctx, id, false); err != nil {
			b.Fatal(err)
		}
	}
}
