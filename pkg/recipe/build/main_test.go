package build_test

import (
	"bytes"
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
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/embedded"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/network"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// TestMain lets this binary stand in for sandbox-runtime, of which the engine
// needs two hidden commands, and for a process that builds and is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "shim":
			os.Exit(shim.Main(os.Args[2:]))
		case "init":
			os.Exit(shim.Init(os.Args[2:]))
		case "victim":
			os.Exit(victim(os.Args[2:]))
		}
	}
	if os.Getenv(insideVar) == "" && os.Geteuid() == 0 {
		os.Exit(inNetNS())
	}
	os.Exit(m.Run())
}

// The process's first thread cannot end as others do: keep it for the main
// goroutine, so that none of the tests' goroutines changes its namespace.
func init() { runtime.LockOSThread() }

const insideVar = "SANDBOX_TEST_NETNS" // set in the private namespace

// inNetNS runs all tests in a network namespace of their own, which plays the
// host: their bridge and rules are not the real one's.
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
// that cgo has linked dynamically finds no loader in a container.
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
	dir, err := os.MkdirTemp("", "sbt-build-runtime-")
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, "sandbox-runtime")
	cmd := exec.Command("go", "build", "-o", to, "../../../cmd/sandbox-runtime")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build sandbox-runtime: %w: %s", err, out), os.RemoveAll(dir))
	}
	return to, nil
}

// host is what a builder under test stands on.
type host struct {
	dirs   state.Dirs
	parent string // cgroup
}

func newHost(t testing.TB) host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "sbt-build-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("test folder: %v", err)
		}
	})
	h := hostIn(dir)
	copySelf(t, h.dirs.RuntimeBinary())
	return h
}

func hostIn(dir string) host {
	return host{dirs: state.Dirs{Root: filepath.Join(dir, "lib"), Run: filepath.Join(dir, "run")}, parent: "/" + filepath.Base(dir)}
}

// dir is what hostIn takes.
func (h host) dir() string { return filepath.Dir(h.dirs.Root) }

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

// open returns a builder as a daemon that has just started has it, with the
// toolbox in its store.
func (h host) open(ctx context.Context) (*build.Builder, *raw.Engine, error) {
	store, err := image.Open(h.dirs)
	if err != nil {
		return nil, nil, err
	}
	f, err := embedded.Open(embedded.Toolbox)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if _, err := store.EnsureBuiltin(ctx, f); err != nil {
		return nil, nil, err
	}
	net, err := network.New(network.Config{Dirs: h.dirs, Log: zap.NewNop(), Bridge: "sbtbld0"})
	if err != nil {
		return nil, nil, err
	}
	e := raw.New(raw.Config{Dirs: h.dirs, Images: store, Network: net, Log: zap.NewNop(), CgroupParent: h.parent})
	if err := e.Sweep(ctx); err != nil {
		return nil, nil, err
	}
	return &build.Builder{Store: store, Engine: e, Dirs: h.dirs}, e, nil
}

// builder is a Builder that leaves nothing behind.
type builder struct {
	*build.Builder
	t      testing.TB
	engine *raw.Engine
	host   host
}

func newBuilder(t testing.TB) *builder {
	t.Helper()
	return newHost(t).builder(t)
}

func (h host) builder(t testing.TB) *builder {
	t.Helper()
	b, e, err := h.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Close()
		b.Store.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(e.Purge(ctx), e.Close(), e.Network.Down(ctx, nil), e.Network.Close()); err != nil {
			t.Errorf("purge: %v", err)
		}
	})
	return &builder{Builder: b, t: t, engine: e, host: h}
}

var epoch = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

// record collects what a build emits.
type recorded struct {
	mu     sync.Mutex
	events []api.BuildEvent
}

func (r *recorded) emit(ev api.BuildEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, ev)
}

// ran lists the instructions that were executed.
func (r *recorded) ran() (list []string) {
	for _, ev := range r.events {
		if ev.Status == "running" {
			list = append(list, ev.Instruction)
		}
	}
	return list
}

func (r *recorded) output() string {
	var out bytes.Buffer
	for _, ev := range r.events {
		out.WriteString(strings.ToValidUTF8(ev.Output, "\uFFFD")) // as JSON would have it
	}
	return out.String()
}

// build builds a Dockerfile with a context of these files.
func (b *builder) build(dockerfile string, files map[string]string, change ...func(*build.Options)) (image.Image, *recorded, error) {
	b.t.Helper()
	r := &recorded{}
	o := build.Options{Dockerfile: []byte(dockerfile), Names: []string{"test:1"}, Epoch: epoch, Source: image.SourceRecipe, Emit: r.emit}
	if files != nil {
		o.ContextDir = b.t.TempDir()
		writeTree(b.t, o.ContextDir, files)
	}
	for _, c := range change {
		c(&o)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer cancel()
	img, err := b.Build(ctx, o)
	return img, r, err
}

func (b *builder) must(dockerfile string, files map[string]string, change ...func(*build.Options)) (image.Image, *recorded) {
	b.t.Helper()
	img, r, err := b.build(dockerfile, files, change...)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, r.output())
	}
	return img, r
}

func writeTree(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// read returns a file of an image, or what is wrong with it.
func (b *builder) read(img image.Image, name string) string {
	b.t.Helper()
	var content string
	b.view(img, func(root string) {
		data, err := os.ReadFile(filepath.Join(root, name))
		if content = string(data); err != nil {
			content = err.Error()
		}
	})
	return content
}

// view shows an image's files.
func (b *builder) view(img image.Image, do func(root string)) {
	b.t.Helper()
	dirs, err := b.Store.Unpack(b.t.Context(), img)
	if err != nil {
		b.t.Fatal(err)
	}
	v, err := b.engine.MountLayers(b.t.Context(), dirs, "", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	defer v.Close()
	do(v.Path())
}
