package build_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

// TestFailures compares the errors of the Dockerfiles in testdata/fail, whose
// context has the file f, and sees that none leaves anything.
func TestFailures(t *testing.T) {
	b := newBuilder(t)
	archives, err := filepath.Glob("testdata/fail/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal(len(archives), err)
	}
	random := regexp.MustCompile(`build-[0-9a-f]{12}`)
	for _, archive := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".txtar"), func(t *testing.T) {
			b.t = t
			a, err := txtar.ParseFile(archive)
			if err != nil || len(a.Files) != 2 {
				t.Fatal(err, len(a.Files))
			}
			_, _, err = b.build(string(a.Files[0].Data), map[string]string{"f": "x"})
			if err == nil {
				t.Fatal("it was built")
			}
			got := random.ReplaceAllString(err.Error(), "build-ID") + "\n"
			if *update {
				a.Files[1].Data = []byte(got)
				if err := os.WriteFile(archive, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(a.Files[1].Data); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			if left := b.unfinished(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	b := newBuilder(t)
	for _, tt := range []struct {
		name   string
		change func(*build.Options)
		class  func(error) bool
		want   string
	}{
		{"no name", func(o *build.Options) { o.Names = nil }, errdefs.IsInvalidArgument, "no name"},
		{"bad name", func(o *build.Options) { o.Names = []string{"Not A Name"} }, errdefs.IsInvalidArgument, "Not A Name"},
		{"pinned name", func(o *build.Options) { o.Names = []string{"a@sha256:" + strings.Repeat("0", 64)} }, errdefs.IsInvalidArgument, "digest"},
		{"no such target", func(o *build.Options) { o.Target = "nope" }, errdefs.IsNotFound, `"nope" (it has: one, 1)`},
		{"relative context", func(o *build.Options) { o.ContextDir = "rel" }, errdefs.IsInvalidArgument, "rel"},
		{"no context", func(o *build.Options) { o.ContextDir = "" }, errdefs.IsInvalidArgument, "no build context"},
		{"missing context", func(o *build.Options) { o.ContextDir = "/does/not/exist" }, errdefs.IsNotFound, "/does/not/exist"},
		{"no such image", func(o *build.Options) { o.Contexts = map[string]string{"one": "image:no-such-image"} }, errdefs.IsNotFound, "no-such-image"},
		{"bad Dockerfile", func(o *build.Options) {
			o.Dockerfile = []byte("FROM scratch\nADD http://a.b/c /\nADD http://a.b/d /\n")
		}, errdefs.IsInvalidArgument, "Dockerfile:3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.t = t
			_, r, err := b.build("FROM toolbox AS one\nFROM one\nCOPY f /\n", map[string]string{"f": ""}, tt.change)
			if err == nil || !tt.class(err) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
			if len(r.ran()) > 0 {
				t.Errorf("ran %q", r.ran())
			}
		})
	}
	b.t = t
	// What a hint says of a missing image reaches the caller.
	_, _, err := b.build("FROM no-such-image\n", nil)
	if missing, ok := errors.AsType[*image.NotFoundError](err); !ok || missing.Hint() == "" {
		t.Errorf("%v", err)
	}
	at, ok := errors.AsType[*build.Error](err)
	if !ok || at.Line != 1 || at.Stage != "0" || at.Instruction != "FROM no-such-image" {
		t.Errorf("%+v", at)
	}
	// An image that the store lacks is asked for.
	b.Pull = func(_ context.Context, ref string) (image.Image, error) {
		if ref != "no-such-image" {
			return image.Image{}, fmt.Errorf("pull %s: %w", ref, errdefs.ErrUnavailable)
		}
		return b.Store.Resolve("toolbox")
	}
	b.must("FROM no-such-image\nRUN true\n", nil)
	if _, _, err := b.build("FROM other\n", nil); !errdefs.IsUnavailable(err) {
		t.Errorf("%v", err)
	}
}

// TestBombs: what grows without end in a Dockerfile is refused before it is
// built, and soon.
func TestBombs(t *testing.T) {
	b := newBuilder(t)
	double := "ENV A=aaaaaaaaaaaaaaaa\n" + strings.Repeat("ENV A=$A$A\n", 40)
	for name, dockerfile := range map[string]string{
		"doubling":         double,
		"doubling in one":  "ENV A=" + strings.Repeat("a", 100000) + "\nENV B=" + strings.Repeat("$A", 20000) + "\n",
		"doubling ARG":     strings.ReplaceAll(double, "ENV", "ARG"),
		"doubling heredoc": "ENV A=" + strings.Repeat("a", 100000) + "\nCOPY <<X /f\n" + strings.Repeat("$A", 20000) + "\nX\n",
		"doubling port":    "ENV A=" + strings.Repeat("1", 10) + "\n" + strings.Repeat("ENV A=$A$A\n", 30) + "EXPOSE $A\n",
		"many variables": "ENV" + func() (s string) {
			for i := range 5000 {
				s += fmt.Sprintf(" A%d=1", i)
			}
			return s
		}() + "\n",
		"many instructions": strings.Repeat("ENV A=b\n", 3000),
		"many ports":        "EXPOSE " + strings.Repeat("0-65535 ", 5000) + "\n",
		"long history":      "ARG A=" + strings.Repeat("a", 100000) + "\n" + strings.Repeat("RUN x\n", 100),
		"a long file":       "# " + strings.Repeat("a", 2<<20),
	} {
		begun := time.Now()
		_, r, err := b.build("FROM toolbox\n"+dockerfile, nil)
		if !errdefs.IsInvalidArgument(err) || len(r.ran()) > 0 {
			t.Errorf("%s: %.200v; ran %d", name, err, len(r.ran()))
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("%s: %v", name, took)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

// TestChanging: files that change while they are copied are no layer.
func TestChanging(t *testing.T) {
	b := newBuilder(t)
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"f": "one"})
	changed := false
	_, _, err := b.build("FROM scratch\nCOPY f /\n", nil, func(o *build.Options) {
		o.ContextDir = dir
		o.Emit = func(ev api.BuildEvent) {
			if ev.Status == "running" && !changed {
				changed = true
				writeTree(t, dir, map[string]string{"f": "two!"})
			}
		}
	})
	if !errdefs.IsAborted(err) {
		t.Errorf("%v", err)
	}
	img, _, err := b.build("FROM scratch\nCOPY f /\n", nil, func(o *build.Options) { o.ContextDir = dir })
	if err != nil || b.read(img, "f") != "two!" {
		t.Errorf("%v", err)
	}
}

// TestInterrupted cancels builds at various moments; nothing stays but layers
// that are whole, and the next one goes on with them.
func TestInterrupted(t *testing.T) {
	b := newBuilder(t)
	for i := range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(time.Duration(i*i)*12*time.Millisecond, cancel)
		_, err := b.Build(ctx, build.Options{Dockerfile: []byte(killed), Names: []string{"killed:1"}, Epoch: epoch, NoCache: true})
		timer.Stop()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%d: %v", i, err)
		}
		if err == nil && ctx.Err() == nil {
			t.Logf("%d: it was quicker", i)
		}
		cancel()
		if left := b.unfinished(); len(left) > 0 {
			t.Errorf("%d: left: %q", i, left)
		}
		if list, err := b.engine.List(t.Context()); err != nil || len(list) > 0 {
			t.Errorf("%d: containers: %+v, %v", i, list, err)
		}
	}
	img, _ := b.must(killed, nil)
	clean, _ := b.must(killed, nil, func(o *build.Options) { o.NoCache = true })
	if img.Descriptor.Digest != clean.Descriptor.Digest {
		t.Errorf("%s after interruptions, %s without", img.Descriptor.Digest, clean.Descriptor.Digest)
	}
}

// TestFullDisk: a build that fills the disk leaves none of what it has written.
func TestFullDisk(t *testing.T) {
	h := newHost(t)
	root := h.dirs.Root
	runtime := h.dirs.RuntimeBinary()
	spare := filepath.Join(filepath.Dir(root), "runtime")
	if err := os.Rename(runtime, spare); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=96m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(os.MkdirAll(filepath.Dir(runtime), 0o755), os.Symlink(spare, runtime)); err != nil {
		t.Fatal(err)
	}
	b := h.builder(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 200<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	b.must("FROM toolbox\nRUN echo all is unpacked > /x\n", nil)
	before := used(t, root)
	for _, dockerfile := range []string{
		"FROM toolbox\nRUN dd if=/dev/zero of=/big bs=1M count=200\n",
		"FROM scratch\nCOPY big /\n",
		"FROM toolbox\nRUN --mount=type=cache,target=/c true\nRUN head -c 60000000 /dev/urandom > /big\n", // the layer fits, its blob does not
	} {
		_, _, err := b.build(dockerfile, nil, func(o *build.Options) { o.ContextDir = dir })
		if err == nil || !errors.Is(err, syscall.ENOSPC) && !strings.Contains(err.Error(), "No space left") {
			t.Errorf("%v", err)
		}
		if left := b.unfinished(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
		if _, err := b.Prune(t.Context(), -time.Minute, true); err != nil {
			t.Error(err)
		}
		if now := used(t, root); now > before+1<<20 {
			t.Errorf("%d bytes more than before", now-before)
		}
		if ingest, _ := filepath.Glob(filepath.Join(b.Dirs.Images(), "ingest", "*")); len(ingest) > 0 {
			t.Errorf("left: %q", ingest)
		}
	}
	b.must("FROM toolbox\nRUN echo it goes on\n", nil)
}

func used(t *testing.T, root string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}
