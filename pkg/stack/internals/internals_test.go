package internals

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"golang.org/x/sys/unix"
)

// newStage returns a stage with roots of its own, and its graph.
func newStage(t *testing.T) (*Stage, *processEngine) {
	t.Helper()
	root := t.TempDir()
	e := &processEngine{flags: allNamespaces}
	note := func(s string) func(context.Context, stack.Progress) (string, error) {
		return func(context.Context, stack.Progress) (string, error) { return s, nil }
	}
	up := func(what string) func(context.Context) (api.StatusItem, error) {
		return func(context.Context) (api.StatusItem, error) {
			return api.StatusItem{What: what, State: stack.StateUp}, nil
		}
	}
	return New(Config{
		Dirs:   state.Dirs{Root: filepath.Join(root, "lib"), Run: filepath.Join(root, "run")},
		Engine: e,
		Preflight: func(context.Context) ([]api.Finding, error) {
			return []api.Finding{{Check: "kernel", Status: "ok"}, {Check: "cgroup", Status: "warn"}}, nil
		},
		Runtime: func() (fs.File, error) {
			return fstest.MapFS{"r": {Data: []byte("\x7fELF runtime")}}.Open("r")
		},
		Network: Part{Ensure: note("sandbox0"), Remove: func(context.Context) error { return nil }, Status: up("network")},
		Image:   Part{Ensure: note("imported"), Status: up("toolbox")},
		Toolbox: "toolbox",
		Purge:   func(context.Context) error { return nil },
	}), e
}

// change runs the stage up or down and returns its tasks by name.
func change(t *testing.T, s *Stage, plan func(*stack.Graph) (*stack.Plan, error)) (map[string]api.Task, error) {
	t.Helper()
	g, err := stack.New(s)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan(g)
	if err != nil {
		t.Fatal(err)
	}
	tasks := map[string]api.Task{}
	err = p.Run(t.Context(), func(task api.Task) { tasks[task.Name] = task })
	return tasks, err
}

func up(g *stack.Graph) (*stack.Plan, error)    { return g.Up(api.UpOptions{}) }
func down(g *stack.Graph) (*stack.Plan, error)  { return g.Down(api.DownOptions{}) }
func purge(g *stack.Graph) (*stack.Plan, error) { return g.Down(api.DownOptions{Purge: true}) }

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make namespaces")
	}
}

func TestUp(t *testing.T) {
	needRoot(t)
	s, e := newStage(t)
	tasks, err := change(t, s, up)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"preflight":     "2 checks, 1 with a warning",
		"state folders": "made under",
		"runtime":       s.Dirs.RuntimeBinary(),
		"network":       "sandbox0",
		"toolbox image": "imported",
		"self-test":     "a container ran in its own namespaces",
	} {
		if task := tasks[name]; task.Status != api.Done || !strings.Contains(task.Note, want) {
			t.Errorf("%+v, want %q", task, want)
		}
	}
	if len(e.containers) != 0 {
		t.Errorf("the self-test leaves %+v", e.containers)
	}
	b, err := os.ReadFile(s.Dirs.RuntimeBinary())
	if fi, _ := os.Stat(s.Dirs.RuntimeBinary()); err != nil || string(b) != "\x7fELF runtime" || fi.Mode() != 0o555 {
		t.Errorf("runtime: %q, %v, %v", b, fi.Mode(), err)
	}
	items, err := s.Status(t.Context())
	if err != nil || len(items) != 4 {
		t.Fatalf("%+v, %v", items, err)
	}
	for _, it := range items {
		if it.State != stack.StateUp {
			t.Errorf("%+v", it)
		}
	}

	// Again: nothing to do, but what was damaged is repaired.
	if err := os.Chmod(s.Dirs.Run, 0o700); err != nil {
		t.Fatal(err)
	}
	if tasks, err = change(t, s, up); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"state folders", "runtime"} {
		if tasks[name].Note != "already there" {
			t.Errorf("%+v", tasks[name])
		}
	}
	if fi, err := os.Stat(s.Dirs.Run); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if err = os.WriteFile(s.Dirs.RuntimeBinary()+".x", []byte("bad"), 0o755); err == nil {
		err = os.Rename(s.Dirs.RuntimeBinary()+".x", s.Dirs.RuntimeBinary())
	}
	if err != nil {
		t.Fatal(err)
	}
	if tasks, err = change(t, s, up); err != nil || tasks["runtime"].Note == "already there" {
		t.Errorf("%+v, %v", tasks["runtime"], err)
	}
}

func TestNotReady(t *testing.T) {
	s, _ := newStage(t)
	s.Preflight = func(context.Context) ([]api.Finding, error) {
		return []api.Finding{{Check: "overlayfs", Status: "fail", Found: "none", Why: "layers", Fix: "modprobe overlay"}}, nil
	}
	tasks, err := change(t, s, up)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "the host is not ready: overlayfs: none (layers)") {
		t.Errorf("%v", err)
	}
	if h, ok := errors.AsType[*notReadyError](err); !ok || h.Hint() != "modprobe overlay" {
		t.Errorf("hint of %v", err)
	}
	if tasks["runtime"].Status != api.Skipped {
		t.Errorf("%+v", tasks)
	}
}

// TestSelfTest: what a broken engine would do is found, and nothing is left.
func TestSelfTest(t *testing.T) {
	needRoot(t)
	for name, tc := range map[string]struct {
		breakIt func(*processEngine)
		err     string
	}{
		"namespace": {func(e *processEngine) { e.flags &^= syscall.CLONE_NEWUTS }, "in the host's uts namespace"},
		"code": {func(e *processEngine) {
			e.mangle = func([]string) []string { return []string{"sh", "-c", "cat; exit 1"} }
		}, "exit code is 1 instead of 7"},
		"output": {func(e *processEngine) {
			e.mangle = func([]string) []string { return []string{"sh", "-c", "cat; echo more; exit 7"} }
		}, "the container's output is"},
		"start": {func(e *processEngine) {
			e.mangle = func([]string) []string { return []string{"/nonexistent"} }
		}, "start:"},
	} {
		t.Run(name, func(t *testing.T) {
			s, e := newStage(t)
			tc.breakIt(e)
			tasks, err := change(t, s, up)
			if err == nil || !strings.Contains(err.Error(), tc.err) || tasks["self-test"].Status != api.Failed {
				t.Errorf("%v, want %s", err, tc.err)
			}
			if len(e.containers) != 0 {
				t.Errorf("left: %+v", e.containers)
			}
		})
	}
}

func TestDown(t *testing.T) {
	needRoot(t)
	s, e := newStage(t)
	for range 3 {
		c, err := e.Create(t.Context(), api.ContainerSpec{Command: []string{"cat"}}, nil)
		if err == nil {
			err = e.Start(t.Context(), c.ID, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	removed := false
	s.Network.Remove = func(context.Context) error { removed = true; return nil }
	tasks, err := change(t, s, down)
	if err != nil || tasks["containers"].Note != "3 removed" || len(e.containers) != 0 || !removed {
		t.Errorf("%+v, %v, %+v, %v", tasks, err, e.containers, removed)
	}
}

// TestOwned: a purge knows every name that state gives to something durable.
func TestOwned(t *testing.T) {
	dirs := state.Dirs{Root: "/root", Run: "/run"}
	paths := owned(dirs)
	of := reflect.ValueOf(dirs)
	for i := range of.NumMethod() {
		name, method := of.Type().Method(i).Name, of.Method(i)
		if method.Type().Out(0).Kind() != reflect.String {
			continue
		}
		args := make([]reflect.Value, method.Type().NumIn())
		for i := range args {
			args[i] = reflect.ValueOf("x")
		}
		path := method.Call(args)[0].String()
		if strings.HasPrefix(path, dirs.Root) && !slices.ContainsFunc(paths, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") }) {
			t.Errorf("%s stays: %s", name, path)
		}
	}
}

func TestPurge(t *testing.T) {
	s, _ := newStage(t)
	fill := func() {
		t.Helper()
		for _, path := range append(owned(s.Dirs), s.Dirs.Socket()) {
			if err := os.MkdirAll(filepath.Join(path, "sub"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill()
	// What is behind a link is not ours.
	precious := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{filepath.Join(s.Dirs.Images(), "link"), s.Dirs.Layers()} {
		_ = os.RemoveAll(link)
		if err := os.Symlink(filepath.Dir(precious), link); err != nil {
			t.Fatal(err)
		}
	}
	tasks, err := change(t, s, purge)
	if err != nil || !strings.HasSuffix(tasks["state folders"].Note, "is gone") {
		t.Errorf("%+v, %v", tasks["state folders"], err)
	}
	if _, err := os.Stat(s.Dirs.Root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", s.Dirs.Root, err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("behind a link: %v", err)
	}
	if left, err := leftover(s.Dirs.Run); err != nil || len(left) != 1 || left[0] != "sandbox.sock" {
		t.Errorf("run: %v, %v", left, err)
	}

	fill()
	diary := filepath.Join(s.Dirs.Root, "diary")
	if err := os.WriteFile(diary, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tasks, err = change(t, s, purge)
	if err != nil || !strings.Contains(tasks["state folders"].Note, "diary") {
		t.Errorf("%+v, %v", tasks["state folders"], err)
	}
	if left, err := leftover(s.Dirs.Root); err != nil || len(left) != 1 {
		t.Errorf("root: %v, %v", left, err)
	}
}

func TestPurgeRefuses(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/usr", link); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"", "/", "/var", "/home", "lib/sandbox", "/var/lib/../..", "/var/lib/", "/usr/local", "/etc/sandbox", link} {
		s, _ := newStage(t)
		run := s.Dirs.Run
		if err := os.MkdirAll(filepath.Join(run, "runtime"), 0o700); err != nil {
			t.Fatal(err)
		}
		s.Dirs.Root = root
		if tasks, err := change(t, s, purge); err == nil || tasks["state folders"].Status != api.Failed {
			t.Errorf("%q: %v", root, err)
		}
		if _, err := os.Stat(filepath.Join(run, "runtime")); err != nil {
			t.Errorf("%q: the other root was purged before: %v", root, err)
		}
	}
}

func TestPurgeMount(t *testing.T) {
	needRoot(t)
	s, _ := newStage(t)
	target := filepath.Join(s.Dirs.Containers(), "x", "upper")
	if err := os.MkdirAll(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(t.TempDir(), target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(target, unix.MNT_DETACH)
	if _, err := change(t, s, purge); err == nil || !strings.Contains(err.Error(), "is mounted on "+target) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(target); err != nil {
		t.Error(err)
	}
}
