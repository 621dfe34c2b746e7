package build_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

// TestCache changes one thing at a time, and sees which instructions run again.
func TestCache(t *testing.T) {
	b := newBuilder(t)
	const dockerfile = `FROM toolbox AS lib
ARG OPT=1
COPY lib /lib.src
RUN echo lib $OPT > /lib.out

FROM toolbox
ENV E=1
WORKDIR /w
COPY a b/ ./
COPY --from=lib /lib.out /lib.out
RUN --mount=type=bind,source=mounted,target=/m --mount=type=cache,target=/c --mount=type=secret,id=s cat /m > m; date >> /c/log
USER 1000
RUN id > /tmp/id
CMD ["x"]
`
	files := map[string]string{"lib": "l", "a": "a", "b/b": "b", "mounted": "m", "unused": "u", ".dockerignore": "b/ignored\n"}
	const (
		copyLib = "COPY lib /lib.src"
		runLib  = "RUN echo lib $OPT > /lib.out"
		workdir = "WORKDIR /w"
		copyAB  = "COPY a b/ ./"
		fromLib = "COPY --from=lib /lib.out /lib.out"
		mounts  = "RUN --mount=type=bind,source=mounted,target=/m --mount=type=cache,target=/c --mount=type=secret,id=s cat /m > m; date >> /c/log"
		runID   = "RUN id > /tmp/id"
	)
	all := []string{copyLib, runLib, workdir, copyAB, fromLib, mounts, runID}
	for _, tt := range []struct {
		name   string
		edit   [2]string         // of the Dockerfile: old, new
		files  map[string]string // changed or new
		change func(*build.Options)
		want   []string
	}{
		{name: "nothing", want: nil},
		{name: "a file that is not used", files: map[string]string{"unused": "v"}},
		{name: "a file that is ignored", files: map[string]string{"b/ignored": "v"}},
		{name: "a copied file", files: map[string]string{"a": "a2"}, want: []string{copyAB, fromLib, mounts, runID}},
		{name: "a copied folder", files: map[string]string{"b/new": ""}, want: []string{copyAB, fromLib, mounts, runID}},
		{name: "a mounted file", files: map[string]string{"mounted": "m2"}, want: []string{mounts, runID}},
		{name: "another stage's file", files: map[string]string{"lib": "l2"}, want: []string{copyLib, runLib, fromLib, mounts, runID}},
		{name: "a comment", edit: [2]string{"USER", "# said\nUSER"}},
		{name: "a label", edit: [2]string{"CMD", "LABEL a=b\nCMD"}},
		{name: "the command", edit: [2]string{`CMD ["x"]`, `CMD ["y"]`}},
		{name: "ENV, which COPY does not see", edit: [2]string{"ENV E=1", "ENV E=2"}, want: []string{mounts, runID}},
		{name: "ENV after all", edit: [2]string{"CMD", "ENV A=b\nCMD"}},
		{name: "ARG's default", edit: [2]string{"OPT=1", "OPT=2"}, want: []string{runLib, fromLib, mounts, runID}},
		{name: "ARG's value", change: func(o *build.Options) { o.Args = map[string]string{"OPT": "3"} }, want: []string{runLib, fromLib, mounts, runID}},
		{name: "ARG's default as its value", change: func(o *build.Options) { o.Args = map[string]string{"OPT": "1"} }},
		{name: "an ARG of nobody", change: func(o *build.Options) { o.Args = map[string]string{"X": "1"} }},
		{name: "the user", edit: [2]string{"USER 1000", "USER 1001"}, want: []string{runID}},
		{name: "the shell", edit: [2]string{"USER", "SHELL [\"/bin/sh\", \"-ec\"]\nUSER"}, want: []string{runID}},
		{name: "the working directory", edit: [2]string{"WORKDIR /w", "WORKDIR /v"}, want: []string{"WORKDIR /v", copyAB, fromLib, mounts, runID}},
		{name: "the epoch", change: func(o *build.Options) { o.Epoch = epoch.Add(time.Hour) }, want: all},
		{name: "a secret", change: func(o *build.Options) { o.Secrets = map[string]string{"s": filepath.Join(o.ContextDir, "a")} }},
		{name: "no cache", change: func(o *build.Options) { o.NoCache = true }, want: all},
		{name: "a file's mode", change: func(o *build.Options) { _ = os.Chmod(filepath.Join(o.ContextDir, "a"), 0o755) }, want: []string{copyAB, fromLib, mounts, runID}},
		{name: "a file's time", change: func(o *build.Options) { _ = os.Chtimes(filepath.Join(o.ContextDir, "a"), epoch, epoch) }},
		{name: "the name", change: func(o *build.Options) { o.Names = []string{"other:2", "other:3"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.t = t
			first, _ := b.must(dockerfile, files)
			changed := maps.Clone(files)
			maps.Copy(changed, tt.files)
			text := dockerfile
			if tt.edit[0] != "" {
				text = strings.Replace(dockerfile, tt.edit[0], tt.edit[1], 1)
			}
			var change []func(*build.Options)
			if tt.change != nil {
				change = append(change, tt.change)
			}
			_, r := b.must(text, changed, change...)
			ran := r.ran()
			slices.Sort(ran)
			want := slices.Sorted(slices.Values(tt.want))
			if !slices.Equal(ran, want) {
				t.Errorf("ran\n\t%s\nwant\n\t%s", strings.Join(ran, "\n\t"), strings.Join(want, "\n\t"))
			}
			// Whatever was built between, the first one is there still.
			if again, r := b.must(dockerfile, files); again.Descriptor.Digest != first.Descriptor.Digest || len(r.ran()) > 0 && tt.name != "no cache" {
				t.Errorf("%s, then %s; ran %q", first.Descriptor.Digest, again.Descriptor.Digest, r.ran())
			}
		})
	}
}

// TestCacheMount: what a cache keeps is there for the next build, of another
// Dockerfile, and in no image.
func TestCacheMount(t *testing.T) {
	b := newBuilder(t)
	const mount = "RUN --mount=type=cache,id=shared,target=/c "
	img, _ := b.must(prelude+mount+"echo 1 >> /c/f; cp /c/f /got\n", nil)
	img2, _ := b.must(prelude+mount+"echo 2 >> /c/f; cp /c/f /got\n", nil)
	if got := b.read(img, "/got") + b.read(img2, "/got"); got != "1\n1\n2\n" {
		t.Errorf("%q", got)
	}
	if _, err := os.Lstat(filepath.Join(b.Dirs.Build(), "cache", "shared", "f")); err != nil {
		t.Error(err)
	}
	b.view(img2, func(root string) {
		if _, err := os.Lstat(filepath.Join(root, "c")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("/c is in the image: %v", err)
		}
	})
}

// TestSameTime: of two builds of the same step, one waits for the other's.
func TestSameTime(t *testing.T) {
	b := newBuilder(t)
	const dockerfile = prelude + "RUN sleep 1; head -c 16 /dev/urandom | md5sum > /got\n"
	records := make([]*recorded, 4)
	images := make([]image.Image, len(records))
	var all sync.WaitGroup
	for i := range records {
		all.Go(func() {
			records[i] = &recorded{}
			var err error
			images[i], err = b.Build(t.Context(), build.Options{
				Dockerfile: []byte(dockerfile), Names: []string{"same:1"}, Epoch: epoch, Emit: records[i].emit,
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	ran := 0
	for i, r := range records {
		ran += len(r.ran())
		if images[i].Descriptor.Digest != images[0].Descriptor.Digest {
			t.Errorf("%s and %s", images[i].Descriptor.Digest, images[0].Descriptor.Digest)
		}
	}
	if ran != 1 {
		t.Errorf("it ran %d times", ran)
	}
}

// TestParallel: stages that do not need each other run at the same time, those
// that nobody needs not at all, and one step at a time where only one may.
func TestParallel(t *testing.T) {
	b := newBuilder(t)
	// Each waits for the other's sign in the cache that both have mounted.
	const dockerfile = `FROM toolbox AS a
RUN --mount=type=cache,id=meet,target=/m touch /m/a; for i in $(seq 100); do test -e /m/b && exit 0; sleep 0.1; done; exit 1
FROM toolbox AS b
RUN --mount=type=cache,id=meet,target=/m touch /m/b; for i in $(seq 100); do test -e /m/a && exit 0; sleep 0.1; done; exit 1
FROM toolbox AS unneeded
RUN exit 1
FROM toolbox
COPY --from=a /bin/sh /a
COPY --from=b /bin/sh /b
`
	b.Parallel = 2
	b.must(dockerfile, nil)

	b.Parallel = 1
	const lonely = `FROM toolbox AS a
RUN --mount=type=cache,id=alone,target=/m test ! -e /m/x && touch /m/x && sleep 0.3 && rm /m/x && echo a > /out
FROM toolbox AS b
RUN --mount=type=cache,id=alone,target=/m test ! -e /m/x && touch /m/x && sleep 0.3 && rm /m/x && echo b > /out
FROM toolbox
COPY --from=a /out /a
COPY --from=b /out /b
`
	b.must(lonely, nil)
	// And where a cache is locked.
	b.Parallel = 2
	b.must(strings.ReplaceAll(lonely, "id=alone", "id=locked,sharing=locked"), nil)
}

// TestManyBuilds: builds that share layers which no image has yet, take them for
// each other's mounts, lock the same caches in any order, and commit, do not wait
// for each other for ever.
func TestManyBuilds(t *testing.T) {
	b := newBuilder(t)
	const shared = `FROM toolbox AS one
RUN --network=none echo 1 > /one
RUN --network=none echo 2 > /two
FROM toolbox AS two
RUN --network=none echo 3 > /three
`
	ends := []string{
		"FROM one\nRUN --network=none --mount=from=two,target=/m --mount=type=cache,id=x,target=/x,sharing=locked --mount=type=cache,id=y,target=/y,sharing=locked cat /m/three > /got\n",
		"FROM two\nRUN --network=none --mount=from=one,target=/m --mount=type=cache,id=y,target=/y,sharing=locked --mount=type=cache,id=x,target=/x,sharing=locked cat /m/two > /got\n",
		"FROM one\nCOPY --from=two /three /got\n",
		"FROM two\nRUN --network=none --mount=type=cache,id=x,target=/x,sharing=locked,from=one --mount=type=cache,id=x,target=/x2,sharing=locked test -d /x2 && echo > /got\n",
		"FROM one\n", "FROM two\n",
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for i := range 3 * len(ends) {
		all.Go(func() {
			_, err := b.Build(ctx, build.Options{
				Dockerfile: []byte(shared + ends[i%len(ends)]), Names: []string{fmt.Sprintf("many:%d", i)}, Epoch: epoch,
				NoCache: i >= 2*len(ends),
			})
			if err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	all.Wait()
	b.must(shared, nil) // sweeps what the others were still using when it lost its key
	if left := b.unfinished(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestReproducible: what is built from its first instruction on is the same
// image, on another day, from files with other times.
func TestReproducible(t *testing.T) {
	b := newBuilder(t)
	const dockerfile = `FROM toolbox AS a
COPY d /d
RUN for i in 5 3 9 1; do mkdir -p /o/$i; echo $i > /o/$i/f; ln /o/$i/f /o/$i/g; done; ln -s f /o/1/l; rm /o/9/g
WORKDIR /o/w
FROM scratch
COPY --from=a /o /o
COPY d /e
COPY <<E /f
here
E
LABEL z=1 a=2 m=3
ENV Z=1 A=2
VOLUME /v /a
EXPOSE 9 1
`
	files := map[string]string{"d/x": "1", "d/y/z": "2"}
	first, _ := b.must(dockerfile, files)
	time.Sleep(1100 * time.Millisecond)
	for range 2 {
		again, r := b.must(dockerfile, files, func(o *build.Options) { o.NoCache = true })
		if len(r.ran()) == 0 || again.Descriptor.Digest != first.Descriptor.Digest {
			t.Errorf("%s and %s; ran %q", first.Descriptor.Digest, again.Descriptor.Digest, r.ran())
		}
	}
	if c := first.Config.Created; c == nil || !c.Equal(epoch) {
		t.Errorf("created %v", c)
	}
	for _, h := range first.Config.History {
		if h.Created == nil || !h.Created.Equal(epoch) {
			t.Errorf("%s: created %v", h.CreatedBy, h.Created)
		}
	}
	// Another store, another machine so to speak.
	other := newBuilder(t)
	if img, _ := other.must(dockerfile, files); img.Descriptor.Digest != first.Descriptor.Digest {
		t.Errorf("%s, elsewhere %s", first.Descriptor.Digest, img.Descriptor.Digest)
	}
}

// TestPrune: what is not used any more goes, what images have stays.
func TestPrune(t *testing.T) {
	b := newBuilder(t)
	const dockerfile = "FROM toolbox AS a\nRUN --mount=type=cache,id=c,target=/c echo x > /c/x; echo a > /a\nFROM toolbox\nCOPY --from=a /a /got\nRUN echo more >> /got\n"
	img, _ := b.must(dockerfile, nil)
	if got, err := b.Prune(t.Context(), time.Hour, true); err != nil || got.Layers != 0 || got.Bytes != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, r := b.must(dockerfile, nil); len(r.ran()) > 0 {
		t.Errorf("ran %q", r.ran())
	}
	// The store keeps what the cache names.
	if err := b.Store.Remove(t.Context(), "test:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Store.GC(t.Context(), b.Keep()); err != nil {
		t.Fatal(err)
	}
	if again, r := b.must(dockerfile, nil); len(r.ran()) > 0 || again.Descriptor.Digest != img.Descriptor.Digest {
		t.Errorf("after a collection: ran %q", r.ran())
	}
	got, err := b.Prune(t.Context(), -time.Minute, true)
	if err != nil || got.Layers != 3 || got.Bytes == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if got := b.read(img, "/got"); got != "a\nmore\n" {
		t.Errorf("the image has %q", got)
	}
	if _, r := b.must(dockerfile, nil); len(r.ran()) != 3 {
		t.Errorf("ran %q", r.ran())
	}
	// Without what it names, the cache is no use, and no harm.
	if err := b.Store.Remove(t.Context(), "test:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Store.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if again, r := b.must(dockerfile, nil); len(r.ran()) != 2 || again.Descriptor.Digest != img.Descriptor.Digest {
		t.Errorf("without its layers: ran %q", r.ran())
	}
}

// leftovers lists what the build folder holds beside caches and empty folders.
func (b *builder) leftovers() (left []string) {
	for _, pattern := range []string{"steps/*", "layers/*", "locks/*", "cache/*", "pruned-*"} {
		found, _ := filepath.Glob(filepath.Join(b.Dirs.Build(), pattern))
		for _, f := range found {
			left = append(left, strings.TrimPrefix(f, b.Dirs.Build()+"/"))
		}
	}
	volatile, _ := filepath.Glob(filepath.Join(b.Dirs.Run, "build", "*"))
	views, _ := filepath.Glob(filepath.Join(b.Dirs.Run, "views", "*"))
	return slices.Concat(left, volatile, views)
}

// unfinished lists what of the build folder no key leads to, and what only
// builds that run may have.
func (b *builder) unfinished() (left []string) {
	linked := map[string]bool{}
	steps, _ := filepath.Glob(filepath.Join(b.Dirs.Build(), "steps", "*"))
	for _, s := range steps {
		to, _ := os.Readlink(s)
		linked[filepath.Base(to)] = true
	}
	layers, _ := filepath.Glob(filepath.Join(b.Dirs.Build(), "layers", "*"))
	for _, l := range layers {
		if !linked[filepath.Base(l)] {
			left = append(left, l)
		}
		entries, _ := os.ReadDir(l)
		for _, e := range entries {
			if !slices.Contains([]string{"record.json", "fs", "use", "pack", "pending"}, e.Name()) {
				left = append(left, filepath.Join(l, e.Name()))
			}
		}
	}
	for _, pattern := range []string{"build/*", "views/*"} {
		found, _ := filepath.Glob(filepath.Join(b.Dirs.Run, pattern))
		left = append(left, found...)
	}
	return left
}
