package raw

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// launch creates and starts a container without a network.
func launch(t testing.TB, e *Engine, spec api.ContainerSpec) api.Container {
	t.Helper()
	spec.Image = testImage
	if spec.Network.Mode == "" {
		spec.Network.Mode = "none"
	}
	c, err := e.Create(within(t, time.Minute), spec, nil)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := e.Start(within(t, time.Minute), c.ID, nil); err != nil {
		t.Fatalf("start: %v", err)
	}
	return c
}

func shell(script string) []string { return []string{"sh", "-c", script} }

// abandon leaves an engine as kill -9 of the daemon would: nothing is told or
// written. (That nothing needs to be at the end shows that Close does nothing
// but stop goroutines, which a test must.)
func abandon(t testing.TB, e *Engine) {
	t.Helper()
	if err := errors.Join(e.Close(), e.Network.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestContainersOutliveTheDaemon: 20 containers run, the daemon dies; half of
// them end while there is none, half under the next one. All exit codes are
// kept, and logs, and sessions work again.
func TestContainersOutliveTheDaemon(t *testing.T) {
	h := newHost(t)
	e := h.open(t)
	const n = 20
	ids := make([]string, n)
	for i := range ids {
		// Even ones end by themselves, odd ones when they are told.
		script := fmt.Sprintf("echo hello %d; sleep 1; exit %d", i, i)
		if i%2 == 1 {
			script = fmt.Sprintf("echo hello %d; trap 'exit %d' TERM; while :; do sleep 0.05; done", i, i)
		}
		ids[i] = launch(t, e, api.ContainerSpec{Name: fmt.Sprintf("sbt-%d", i), Command: shell(script)}).ID
	}
	pids := map[string]int{}
	for _, id := range ids {
		c, err := e.Inspect(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		pids[id] = c.PID
	}
	abandon(t, e)
	time.Sleep(1500 * time.Millisecond)

	e = h.open(t)
	defer purge(t, e)
	list, err := e.List(t.Context())
	if err != nil || len(list) != n {
		t.Fatalf("%d containers are listed, want %d (%v)", len(list), n, err)
	}
	for i, id := range ids {
		c, err := e.Inspect(t.Context(), fmt.Sprintf("sbt-%d", i))
		if err != nil || c.ID != id {
			t.Fatalf("container %d: %+v, %v", i, c, err)
		}
		want := api.StatusExited
		if i%2 == 1 {
			want = api.StatusRunning
			if c.PID != pids[id] || c.Started.IsZero() {
				t.Errorf("container %d: PID %d, was %d; started %s", i, c.PID, pids[id], c.Started)
			}
		}
		if c.Status != want {
			t.Errorf("container %d is %s, want %s", i, c.Status, want)
		}
		if i%2 == 1 {
			if err := e.Stop(within(t, time.Minute), id, time.Minute); err != nil {
				t.Errorf("stop container %d: %v", i, err)
			}
		}
		exit, err := e.Wait(within(t, time.Minute), id)
		if err != nil || exit.Code != i {
			t.Errorf("container %d: %+v, %v", i, exit, err)
		}
		r, err := e.Logs(t.Context(), id, engine.LogOptions{Tail: -1})
		if err != nil {
			t.Fatal(err)
		}
		if l, err := r.Next(); err != nil || l.Data != fmt.Sprintf("hello %d\n", i) {
			t.Errorf("log of container %d: %+v, %v", i, l, err)
		}
		_ = r.Close()
	}
	if _, err := e.Create(t.Context(), api.ContainerSpec{Image: testImage, Name: "sbt-7"}, nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a name of before the restart is free: %v", err)
	}
}

func TestSweepTakesUpEveryState(t *testing.T) {
	h := newHost(t)
	e := h.open(t)
	create := func(spec api.ContainerSpec) string {
		t.Helper()
		spec.Image, spec.Network.Mode = testImage, "none"
		c, err := e.Create(within(t, time.Minute), spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.ID
	}
	created := create(api.ContainerSpec{Command: shell("exit 11")})
	deserted := create(api.ContainerSpec{AutoRemove: true})
	paused := launch(t, e, api.ContainerSpec{Command: shell("exec sleep 1000"), Init: true}).ID
	if err := e.Pause(t.Context(), paused); err != nil {
		t.Fatal(err)
	}
	ended := launch(t, e, api.ContainerSpec{Command: shell("exit 12"), AutoRemove: true}).ID
	interactive := launch(t, e, api.ContainerSpec{Command: shell("while read x; do echo got $x; done; exit 13"), OpenStdin: true}).ID
	session, err := e.Attach(t.Context(), interactive)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Wait(within(t, time.Minute), ended); err != nil {
		t.Fatal(err)
	}
	abandon(t, e)
	_ = session.Close() // as the kernel does when a process ends

	// A creation that was cut off right after its intent.
	cut := h.dirs.Container(strings.Repeat("c0", 32))
	rec := record{Container: api.Container{ID: strings.Repeat("c0", 32), Name: "cut", Status: api.StatusCreating}}
	for _, dir := range []string{cut.Dir, cut.Bundle()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := state.WriteJSON(cut.Intent(), rec); err != nil {
		t.Fatal(err)
	}
	// What a power failure can leave of an intent.
	empty := h.dirs.Container(strings.Repeat("e0", 32))
	if err := state.WriteFile(empty.Intent(), nil, 0o600); err != nil {
		t.Fatal(err)
	}

	e = h.open(t)
	defer purge(t, e)
	for _, gone := range []string{deserted, ended, rec.ID, strings.Repeat("e0", 32)} {
		if _, err := e.Inspect(t.Context(), gone); !errdefs.IsNotFound(err) {
			t.Errorf("%.12s: %v, want not found", gone, err)
		}
		for _, dir := range []string{h.dirs.Container(gone).Dir, h.dirs.Container(gone).Run} {
			if _, err := os.Lstat(dir); !os.IsNotExist(err) {
				t.Errorf("%s is still there (%v)", dir, err)
			}
		}
	}
	if err := e.Start(t.Context(), created, nil); err != nil {
		t.Errorf("start of a container that an earlier daemon made: %v", err)
	}
	if exit, err := e.Wait(within(t, time.Minute), created); err != nil || exit.Code != 11 {
		t.Errorf("its exit: %+v, %v", exit, err)
	}
	if c, err := e.Inspect(t.Context(), paused); err != nil || c.Status != api.StatusPaused {
		t.Errorf("paused container is %s (%v)", c.Status, err)
	}
	if err := e.Unpause(t.Context(), paused); err != nil {
		t.Errorf("unpause: %v", err)
	}
	again, err := e.Attach(t.Context(), interactive)
	if err != nil {
		t.Fatalf("attach again: %v", err)
	}
	defer again.Close()
	if _, err := again.Write([]byte("x\n")); err != nil {
		t.Fatal(err)
	}
	if err := again.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if code, err := again.Wait(within(t, time.Minute)); err != nil || code != 13 {
		t.Errorf("a client that dies with the daemon has not ended stdin: %d, %v", code, err)
	}
}

// TestShimKilled: without its shim a container cannot be told of, so it is
// ended too; whether or not a daemon watches.
func TestShimKilled(t *testing.T) {
	h := newHost(t)
	e := h.open(t)
	for _, watched := range []bool{true, false} {
		c := launch(t, e, api.ContainerSpec{Command: []string{"sleep", "1000"}, Init: true})
		c, err := e.Inspect(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if !watched {
			abandon(t, e)
		}
		killShims(func(run string) bool { return run == h.dirs.Container(c.ID).Run })
		if !watched {
			e = h.open(t)
		}
		exit, err := e.Wait(within(t, time.Minute), c.ID)
		if err != nil || exit.Code != 137 || !strings.Contains(exit.Message, "shim was killed") {
			t.Errorf("watched %t: %+v, %v", watched, exit, err)
		}
		eventually(t, "its processes are gone", func() bool { return !alive(c.PID) })
		eventually(t, "its cgroup is gone", func() bool { _, err := os.Stat(c.Cgroup); return os.IsNotExist(err) })
		if err := e.Remove(within(t, time.Minute), c.ID, false); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	purge(t, e)
}

// TestSweepSparesOthers: what belongs to another engine is not rubbish.
func TestSweepSparesOthers(t *testing.T) {
	e, _ := newEngine(t)
	c := launch(t, e, api.ContainerSpec{Command: []string{"sleep", "1000"}, Init: true})
	other := newHost(t)
	purge(t, other.open(t))
	if got, err := e.Inspect(t.Context(), c.ID); err != nil || got.Status != api.StatusRunning {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSweepRemovesWhatHasNoIntent(t *testing.T) {
	h := newHost(t)
	e := h.open(t)
	c := launch(t, e, api.ContainerSpec{Command: []string{"sleep", "1000"}, Init: true})
	abandon(t, e)
	files := h.dirs.Container(c.ID)
	if err := os.RemoveAll(files.Dir); err != nil {
		t.Fatal(err)
	}
	root, err := cgroup.Mount()
	if err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(root, h.parent, "stray")
	if err := os.Mkdir(stray, 0o755); err != nil {
		t.Fatal(err)
	}
	e = h.open(t)
	defer purge(t, e)
	for _, path := range []string{files.Run, stray, c.Cgroup, filepath.Join(h.dirs.RuntimeRoot(), c.ID)} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	if alive(c.PID) {
		t.Errorf("process %d is still there", c.PID)
	}
}

// alive reports whether a process runs. A zombie does not: an orphan is one
// until the machine's process 1 has collected it, which may take its time.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
