package raw

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/embedded"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/engine/enginetest"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/network"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// TestMain lets this binary stand in for sandbox-runtime, of which the engine
// needs two hidden commands.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "shim":
			os.Exit(shim.Main(os.Args[2:]))
		case "init":
			os.Exit(shim.Init(os.Args[2:]))
		}
	}
	if os.Getenv(insideVar) == "" && os.Geteuid() == 0 {
		os.Exit(inNetNS())
	}
	if os.Geteuid() == 0 {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "ip link set lo up: %v: %s\n", err, out)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// The process's first thread cannot end as others do: keep it for the main
// goroutine, so that none of the tests' goroutines changes its namespace.
func init() { runtime.LockOSThread() }

const insideVar = "SANDBOX_TEST_NETNS" // set in the private namespace

// inNetNS runs all tests in a network namespace of their own, which plays the
// host: their bridge, rules and ports are not the real one's.
func inNetNS() int {
	static, err := staticRuntime()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if static != "" {
		defer os.RemoveAll(filepath.Dir(static))
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	if static != "" {
		cmd.Env = append(cmd.Env, "SANDBOX_RUNTIME="+static)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "private network namespace:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// staticRuntime builds sandbox-runtime if this binary can't stand in for it: one
// that cgo has linked dynamically finds no loader in a container. Otherwise it
// returns "".
func staticRuntime() (string, error) {
	self, err := elf.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer self.Close()
	interpreted := slices.ContainsFunc(self.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	if !interpreted || os.Getenv("SANDBOX_RUNTIME") != "" {
		return "", nil
	}
	dir, err := os.MkdirTemp("", "sbt-raw-runtime-")
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, "sandbox-runtime")
	build := exec.Command("go", "build", "-o", to, "../../../cmd/sandbox-runtime")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build sandbox-runtime: %w: %s", err, out), os.RemoveAll(dir))
	}
	return to, nil
}

// testImage is the built-in one.
const testImage = "toolbox"

// testHost is what an engine under test stands on. Everything that it makes in
// the kernel has a name of its own, so that it meets no other engine.
type testHost struct {
	dirs   state.Dirs
	parent string // cgroup
}

func newHost(t testing.TB) testHost { return newHostBelow(t, "") }

// newHostBelow is newHost with its files below dir, "" being the usual place.
func newHostBelow(t testing.TB, dir string) testHost {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp(dir, "sbt-raw-")
	if err != nil {
		t.Fatal(err)
	}
	h := testHost{dirs: state.Dirs{Root: filepath.Join(dir, "lib"), Run: filepath.Join(dir, "run")}, parent: "/" + filepath.Base(dir)}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("test folder: %v", err)
		}
	})
	copySelf(t, h.dirs.RuntimeBinary())
	return h
}

// copySelf puts this binary where the engine looks for sandbox-runtime, or the
// real one if SANDBOX_RUNTIME names it.
func copySelf(t testing.TB, to string) {
	t.Helper()
	from, err := os.Executable()
	if real := os.Getenv("SANDBOX_RUNTIME"); real != "" {
		from = real
	} else if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// images opens the host's store, with the toolbox in it.
func (h testHost) images(t testing.TB) *image.Store {
	t.Helper()
	store, err := image.Open(h.dirs)
	if err != nil {
		t.Fatal(err)
	}
	f, err := embedded.Open(embedded.Toolbox)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	if _, err := store.EnsureBuiltin(context.Background(), f); err != nil {
		t.Fatal(err)
	}
	return store
}

// open returns an engine as a daemon that has just started has it.
func (h testHost) open(t testing.TB) *Engine {
	t.Helper()
	log := zap.NewNop()
	if testing.Verbose() {
		log = zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	}
	net, err := network.New(network.Config{Dirs: h.dirs, Log: log, Bridge: "sbtraw0"})
	if err != nil {
		t.Fatal(err)
	}
	e := New(Config{Dirs: h.dirs, Images: h.images(t), Network: net, Log: log, CgroupParent: h.parent})
	if err := e.Sweep(t.Context()); err != nil {
		t.Fatalf("sweep: %v", err)
	}
	return e
}

// newEngine returns an engine that leaves nothing behind.
func newEngine(t testing.TB) (*Engine, testHost) {
	t.Helper()
	h := newHost(t)
	e := h.open(t)
	t.Cleanup(func() { purge(t, e) })
	return e, h
}

func purge(t testing.TB, e *Engine) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(e.Purge(ctx), e.Close(), e.Network.Down(ctx, nil), e.Network.Close()); err != nil {
		t.Errorf("purge: %v", err)
	}
}

func TestEngine(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) (engine.Engine, enginetest.Options) {
		e, _ := newEngine(t)
		return e, enginetest.Options{Image: testImage, Without: lacking(t)}
	})
}

// lacking names what this host's cgroups cannot do.
func lacking(t *testing.T) map[string]string {
	t.Helper()
	without := map[string]string{}
	root, err := cgroup.Mount()
	if err != nil {
		t.Fatal(err)
	}
	has, err := cgroup.Available(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"memory", "pids"} {
		if !strings.Contains(" "+has.String()+" ", " "+name+" ") {
			without[name] = "cgroup v2 at " + root + " has no such controller"
		}
	}
	return without
}
