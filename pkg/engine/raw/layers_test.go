package raw

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
)

// bottom returns the layers of the test image, and a folder for new ones.
func bottom(t *testing.T, e *Engine) (lower []string, dir string) {
	t.Helper()
	img, err := e.Images.Resolve(testImage)
	if err != nil {
		t.Fatal(err)
	}
	if lower, err = e.Images.Unpack(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	return lower, e.Dirs.Build()
}

// content lists everything below dir.
func content(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if p != dir {
			names = append(names, strings.TrimPrefix(p, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func nothingLeft(t *testing.T, e *Engine) {
	t.Helper()
	if list, err := e.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
	if left, err := os.ReadDir(filepath.Join(e.Dirs.Run, "views")); err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestRunLayer(t *testing.T) {
	e, _ := newEngine(t)
	lower, dir := bottom(t, e)
	source := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(source, []byte("mounted"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out, errout strings.Builder
	upper := filepath.Join(dir, "one", "fs")
	exit, err := e.RunLayer(within(t, time.Minute), engine.LayerRun{
		LowerDirs: lower, UpperDir: upper,
		Spec: api.ContainerSpec{
			Command: shell("cat /dev/.ca /opt/deep/file; echo problem >&2; mkdir -p /data/empty; echo hi > /data/f; rm /bin/sh; exit 3"),
			Mounts: []api.Mount{
				{Type: "bind", Source: source, Target: "/opt/deep/file", Options: []string{"ro"}},
				{Type: "bind", Source: source, Target: "/dev/.ca", Options: []string{"ro"}},
				{Type: "tmpfs", Target: "/cache"},
			},
		},
		Output: func(stream string, data []byte) {
			if stream == "stdout" {
				out.Write(data)
			} else {
				errout.Write(data)
			}
		},
	}, nil)
	if err != nil || exit.Code != 3 {
		t.Fatalf("%+v, %v", exit, err)
	}
	if out.String() != "mountedmounted" || errout.String() != "problem\n" {
		t.Errorf("out %q, err %q", out.String(), errout.String())
	}
	got := content(t, upper)
	if want := []string{"bin", "bin/sh", "data", "data/empty", "data/f"}; !slices.Equal(got, want) {
		t.Errorf("the layer has %q, want %q", got, want)
	}
	nothingLeft(t, e)

	// The next layer sees the one before.
	out.Reset()
	_, err = e.RunLayer(within(t, time.Minute), engine.LayerRun{
		LowerDirs: append([]string{upper}, lower...), UpperDir: filepath.Join(dir, "two", "fs"),
		Spec:   api.ContainerSpec{Command: []string{"/bin/busybox", "cat", "/data/f"}, Network: api.Network{Mode: "none"}},
		Output: func(_ string, data []byte) { out.Write(data) },
	}, nil)
	if err != nil || out.String() != "hi\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if got := content(t, filepath.Join(dir, "two", "fs")); len(got) != 0 {
		t.Errorf("reading wrote %q", got)
	}
}

func TestRunLayerInterrupted(t *testing.T) {
	e, h := newEngine(t)
	lower, dir := bottom(t, e)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := e.RunLayer(ctx, engine.LayerRun{
		LowerDirs: lower, UpperDir: filepath.Join(dir, "fs"),
		Spec:   api.ContainerSpec{Command: shell("echo begun; sleep 1000")},
		Output: func(string, []byte) { cancel() },
	}, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "fs")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a layer is there: %v", err)
	}
	nothingLeft(t, e)
	for _, name := range subfolders("/proc") {
		if pid, err := strconv.Atoi(name); err == nil && ours(pid, h) {
			t.Errorf("process %d is left", pid)
		}
	}
}

func TestMountLayers(t *testing.T) {
	e, _ := newEngine(t)
	lower, dir := bottom(t, e)
	upper := filepath.Join(dir, "fs")
	v, err := e.MountLayers(t.Context(), lower, upper, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Path(), "new"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if err := errors.Join(v.Close(), v.Close()); err != nil {
		t.Error(err)
	}
	if got := content(t, upper); !slices.Equal(got, []string{"new"}) {
		t.Errorf("the layer has %q", got)
	}
	for _, lower := range [][]string{nil, {upper}, append([]string{upper}, lower...)} {
		v, err := e.MountLayers(t.Context(), lower, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = os.Lstat(filepath.Join(v.Path(), "new"))
		if (err == nil) != (len(lower) > 0) {
			t.Errorf("%d layers: %v", len(lower), err)
		}
		if err := os.WriteFile(filepath.Join(v.Path(), "x"), nil, 0o644); err == nil {
			t.Error("a view without upper can be written to")
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
	nothingLeft(t, e)
}

// TestRunLayerTraces: what was made to mount on is not in the layer, unless
// the process has used it.
func TestRunLayerTraces(t *testing.T) {
	e, _ := newEngine(t)
	lower, dir := bottom(t, e)
	first := t.TempDir()
	if err := errors.Join(
		os.Symlink("real", filepath.Join(first, "link")), os.MkdirAll(filepath.Join(first, "real", "in"), 0o755),
		os.Mkdir(filepath.Join(first, "closed"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	lower = append([]string{first}, lower...)
	tmpfs := func(targets ...string) (m []api.Mount) {
		for _, target := range targets {
			m = append(m, api.Mount{Type: "tmpfs", Target: target})
		}
		return m
	}
	for i, tt := range []struct {
		script string
		mounts []api.Mount
		want   []string
	}{
		{"true", tmpfs("/link/in/x", "/link/y", "/closed/a/b", "/go/pkg/mod"), nil},
		{"touch /go/used", tmpfs("/go/pkg/mod"), []string{"go", "go/used"}},
		{"chmod 711 /closed", tmpfs("/closed/a"), []string{"closed"}},
		{"touch /etc/new; rm /bin/sh", nil, []string{"bin", "bin/sh", "etc", "etc/new"}},
		// The parents of a mount can be moved; no link in their place is followed.
		{"mv /go /gone && ln -s /real /go", tmpfs("/go/pkg/mod"), []string{"go", "gone", "gone/pkg", "gone/pkg/mod"}},
	} {
		upper := filepath.Join(dir, strconv.Itoa(i))
		exit, err := e.RunLayer(within(t, time.Minute), engine.LayerRun{
			LowerDirs: lower, UpperDir: upper,
			Spec: api.ContainerSpec{Command: shell(tt.script), Mounts: tt.mounts, Network: api.Network{Mode: "none"}},
		}, nil)
		if err != nil || exit.Code != 0 {
			t.Errorf("%s: %+v, %v", tt.script, exit, err)
		}
		if got := content(t, upper); !slices.Equal(got, tt.want) {
			t.Errorf("%s: the layer has %q, want %q", tt.script, got, tt.want)
		}
		if _, err := os.Lstat(workOf(upper)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("work folder: %v", err)
		}
	}
}

// TestRunLayerFromScratch: a program that is mounted can run where nothing is.
func TestRunLayerFromScratch(t *testing.T) {
	e, h := newEngine(t)
	upper := filepath.Join(e.Dirs.Build(), "fs")
	exit, err := e.RunLayer(within(t, time.Minute), engine.LayerRun{
		UpperDir: upper,
		Spec: api.ContainerSpec{
			Command: []string{"/dev/program", "init", "/dev/program", "no-such-command"}, Network: api.Network{Mode: "none"},
			Mounts: []api.Mount{{Type: "bind", Source: h.dirs.RuntimeBinary(), Target: "/dev/program", Options: []string{"ro"}}},
			Env:    []string{insideVar + "=1"},
		},
	}, nil)
	if err != nil || exit.Code == 126 || exit.Code == 127 {
		t.Errorf("%+v, %v", exit, err)
	}
	if got := content(t, upper); len(got) != 0 {
		t.Errorf("the layer has %q", got)
	}
}

// TestSweepBuild: what a killed daemon was building is gone with the next one,
// whatever of it was killed before.
func TestSweepBuild(t *testing.T) {
	h := newHost(t)
	e := h.open(t)
	t.Cleanup(func() { purge(t, e) })
	lower, dir := bottom(t, e)
	run := func(upper string) (*container, error) {
		c, _, err := e.createLayer(within(t, time.Minute), engine.LayerRun{
			LowerDirs: lower, UpperDir: upper, Spec: api.ContainerSpec{Command: shell("sleep 1000")},
		}, nil)
		return c, err
	}
	// The first one makes the bridge.
	if _, err := e.RunLayer(within(t, time.Minute), engine.LayerRun{
		LowerDirs: lower, UpperDir: filepath.Join(dir, "first"), Spec: api.ContainerSpec{Command: []string{"true"}},
	}, nil); err != nil {
		t.Fatal(err)
	}
	settle(t, e)
	before := takeInventory(t, h)
	for i := range 6 {
		upper := filepath.Join(dir, strconv.Itoa(i))
		c, err := run(upper)
		if err == nil && i%2 == 0 {
			err = e.Start(within(t, time.Minute), c.id(), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.MountLayers(t.Context(), lower, "", nil); err != nil {
			t.Fatal(err)
		}
		if i > 2 {
			killSomething(h, i)
		}
		abandon(t, e)
		e = h.open(t)
		for _, left := range []string{upper, workOf(upper)} {
			if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", left, err)
			}
		}
	}
	nothingLeft(t, e)
	settle(t, e)
	after := takeInventory(t, h)
	for kind := range after {
		if d := difference(after[kind], before[kind]); len(d) > 0 {
			t.Errorf("%s that were not there before: %q", kind, d)
		}
	}
}

// BenchmarkRunLayer is a RUN of a build that does nothing.
func BenchmarkRunLayer(b *testing.B) {
	for _, mode := range []string{"bridge", "none"} {
		b.Run(mode, func(b *testing.B) {
			e, _ := newEngine(b)
			img, err := e.Images.Resolve(testImage)
			if err != nil {
				b.Fatal(err)
			}
			lower, err := e.Images.Unpack(b.Context(), img)
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			for b.Loop() {
				n++
				_, err := e.RunLayer(b.Context(), engine.LayerRun{
					LowerDirs: lower, UpperDir: filepath.Join(e.Dirs.Build(), strconv.Itoa(n)),
					Spec: api.ContainerSpec{Command: []string{"true"}, Network: api.Network{Mode: mode}},
				}, nil)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
