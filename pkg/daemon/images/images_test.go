package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// containers is an engine that only lists.
type containers struct {
	engine.Engine
	list []api.Container
}

func (c *containers) List(context.Context) ([]api.Container, error) { return c.list, nil }

// lab is a service over a real store, builder and layers, without containers.
type lab struct {
	*Service
	t       *testing.T
	recipes string // the folder of what sandbox comes with
	engine  *containers
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("layers have owners: this needs root")
	}
	dir := t.TempDir()
	dirs := state.Dirs{Root: dir + "/lib", Run: dir + "/run"}
	store, err := image.Open(dirs)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, recipes: dir + "/recipes", engine: &containers{}}
	builder := &build.Builder{Store: store, Dirs: dirs}
	layers := raw.New(raw.Config{Dirs: dirs, Images: store, CgroupParent: "/sbt-images", Keep: builder.Keep})
	if err := layers.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	builder.Engine = layers
	l.Service = &Service{
		Store: store, Builder: builder, Engine: l.engine, Views: layers, Collect: layers.GC, Dirs: dirs, Log: zap.NewNop(),
		Bundled:   func(context.Context) (string, error) { return l.recipes, nil },
		WireError: func(err error) *api.Error { return wire(err) },
	}
	builder.Pull = l.Base
	t.Cleanup(func() {
		builder.Close()
		store.Close()
		if err := layers.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(l.recipes, 0o755); err != nil {
		t.Fatal(err)
	}
	return l
}

// wire is as daemon.WireError, as far as it matters here.
func wire(err error) *api.Error {
	if err == nil {
		return nil
	}
	return &api.Error{Message: err.Error()}
}

// put gives a store an image of one file.
func put(t *testing.T, s *image.Store, name string) image.Image {
	t.Helper()
	var layer, archive bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "name", Mode: 0o644, Size: int64(len(name))}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write([]byte(name)); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	config := ispec.Image{Platform: ispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	if _, err := image.WriteArchive(&archive, name, config, []image.Layer{{Tar: layer.Bytes(), CreatedBy: "test"}}); err != nil {
		t.Fatal(err)
	}
	images, err := s.Import(t.Context(), &archive, image.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return images[0]
}

// recipe makes a recipe that needs nothing.
func (l *lab) recipe(folder, name, more string) string {
	l.t.Helper()
	dir := filepath.Join(folder, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		l.t.Fatal(err)
	}
	yaml := fmt.Sprintf("name: %s\nversion: 1.0.0\ndescription: d\nlicence: MIT\ncreated: 2024-05-01\n%s\n", name, more)
	for file, content := range map[string]string{"recipe.yaml": yaml, "Dockerfile": "FROM scratch\nCOPY recipe.yaml /\n"} {
		if strings.Contains(more, "upstream_only") && file == "Dockerfile" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	return dir
}

// frames collects what is told.
type frames struct {
	mu  sync.Mutex
	all []api.Frame
}

func (f *frames) emit(frame api.Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, frame)
}

func hintOf(err error) string {
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return h.Hint()
	}
	return ""
}

// TestResolve goes through the order: local store, registry, recipe.
func TestResolve(t *testing.T) {
	l, far := newLab(t), newLab(t)
	srv := httptest.NewServer(registry.New(far.Store, registry.Options{}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	upstream := put(t, far.Store, "team/up:v1")
	put(t, l.Store, "here:v1")
	const nowhere = "127.0.0.1:1" // tcpmux: refused
	pin := "@" + upstream.Descriptor.Digest.String()
	l.recipe(l.recipes, "both", "upstream: "+host+"/team/up:v1"+pin)
	l.recipe(l.recipes, "offline", "upstream: "+nowhere+"/team/up:v1"+pin)
	l.recipe(l.recipes, "own", "")
	l.recipe(l.recipes, "only", "upstream: "+nowhere+"/team/only:v1"+pin+"\nupstream_only: true")
	other := t.TempDir()
	l.recipe(other, "elsewhere", "")

	for _, c := range []struct {
		opts  api.ImagePull
		from  string
		fresh bool
	}{
		{api.ImagePull{Name: "here:v1"}, "local store", false},
		{api.ImagePull{Name: host + "/team/up:v1"}, "registry " + host, true},
		{api.ImagePull{Name: "both"}, "registry " + host, true},
		{api.ImagePull{Name: "both:latest"}, "local store", false},
		{api.ImagePull{Name: "offline"}, "recipe offline", true},
		{api.ImagePull{Name: "own:latest"}, "recipe own", true},
		{api.ImagePull{Name: "elsewhere", Recipes: other}, "recipe elsewhere", true},
	} {
		c.opts.Resolve = true
		var told frames
		got, err := l.Pull(t.Context(), c.opts, told.emit)
		if err != nil || got.From != c.from || got.Fresh != c.fresh || got.Image.Name == "" {
			t.Errorf("%s: %+v, %v", c.opts.Name, got, err)
			continue
		}
		if _, err := l.Store.Resolve(c.opts.Name); err != nil {
			t.Errorf("%s: %v", c.opts.Name, err)
		}
		if c.fresh && len(told.all) == 0 {
			t.Errorf("%s: nothing was told", c.opts.Name)
		}
	}
	if img, err := l.Store.Resolve("both"); err != nil || img.Descriptor.Digest != upstream.Descriptor.Digest {
		t.Errorf("the recipe's name stands for %v, %v", img.Descriptor.Digest, err)
	}

	for _, c := range []struct {
		name  string
		tried []string
	}{
		{"only", []string{"local store", nowhere + " is not in reach", "upstream's image only"}},
		{host + "/team/none:v1", []string{"has no such image", "none of that name"}},
		{nowhere + "/x", []string{"not in reach", "none of that name"}},
	} {
		_, err := l.Pull(t.Context(), api.ImagePull{Name: c.name, Resolve: true}, nil)
		if !errdefs.IsNotFound(err) || hintOf(err) == "" {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, text := range c.tried {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q is not in %v", c.name, text, err)
			}
		}
	}
	if _, err := l.Pull(t.Context(), api.ImagePull{Name: "Not A Name", Resolve: true}, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no name: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Pull(ctx, api.ImagePull{Name: "late", Resolve: true}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestPullOnly asks a registry and nobody else.
func TestPullOnly(t *testing.T) {
	l, far := newLab(t), newLab(t)
	srv := httptest.NewServer(registry.New(far.Store, registry.Options{}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	want := put(t, far.Store, "team/app:v1")
	for _, fresh := range []bool{true, false} {
		got, err := l.Pull(t.Context(), api.ImagePull{Name: host + "/team/app:v1"}, nil)
		if err != nil || got.Fresh != fresh || got.From != "registry "+host || got.Image.ID != want.ID.String() {
			t.Errorf("%+v, %v", got, err)
		}
	}
	l.recipe(l.recipes, "own", "upstream: 127.0.0.1:1/own:v1@"+want.Descriptor.Digest.String())
	if _, err := l.Pull(t.Context(), api.ImagePull{Name: "own"}, nil); !errdefs.IsUnavailable(err) {
		t.Errorf("a pull builds: %v", err)
	}
}

func TestBuildSelection(t *testing.T) {
	l := newLab(t)
	l.recipe(l.recipes, "base", "")
	work := t.TempDir()
	alone := l.recipe(work+"/alone", "mine", "contexts: {b: {recipe: base}}")
	first := l.recipe(work+"/many", "first", "contexts: {b: {recipe: second}}")
	l.recipe(work+"/many", "second", "")
	plain := work + "/Plain Folder"
	if err := os.Mkdir(plain, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plain+"/Dockerfile", []byte("FROM base\nCOPY Dockerfile /\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	lower := work + "/lower"
	if err := errors.Join(os.Mkdir(lower, 0o755), os.WriteFile(lower+"/dockerfile", []byte("FROM base\nCOPY dockerfile /\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		opts api.ImageBuild
		want []string // images, in the order of building
	}{
		{api.ImageBuild{Names: []string{"base"}}, []string{"base:latest"}},
		{api.ImageBuild{All: true}, []string{"base:latest"}},
		{api.ImageBuild{Dir: alone}, []string{"base:latest", "mine:latest"}},
		{api.ImageBuild{Dir: first}, []string{"second:latest", "first:latest"}},
		{api.ImageBuild{Names: []string{"first"}, Recipes: work + "/many", Tags: []string{"x:v1"}}, []string{"second:latest", "first:latest"}},
		// FROM finds what the store lacks among the recipes.
		{api.ImageBuild{Dir: plain}, []string{"plain-folder:latest"}},
		{api.ImageBuild{Dir: lower}, []string{"lower:latest"}},
		{api.ImageBuild{Dir: first, Dockerfile: []byte("FROM scratch\nCOPY recipe.yaml /\n"), Tags: []string{"y:v1", "y:v2"}}, []string{"y:v1"}},
	} {
		var told frames
		report, err := l.Build(t.Context(), c.opts, told.emit)
		if err != nil {
			t.Errorf("%+v: %v", c.opts, err)
			continue
		}
		var got []string
		for _, res := range report.Images {
			if res.Error != nil {
				t.Errorf("%+v: %s", c.opts, res.Error)
			} else {
				got = append(got, res.Image.Name)
			}
		}
		if !slices.Equal(got, c.want) || len(told.all) == 0 {
			t.Errorf("%+v: built %q, want %q", c.opts, got, c.want)
		}
	}
	for _, name := range []string{"x:v1", "y:v2", "base:1.0.0"} {
		if _, err := l.Store.Resolve(name); err != nil {
			t.Error(err)
		}
	}

	for _, c := range []struct {
		opts  api.ImageBuild
		class func(error) bool
		text  string
	}{
		{api.ImageBuild{}, errdefs.IsInvalidArgument, "neither"},
		{api.ImageBuild{Names: []string{"none"}}, errdefs.IsNotFound, `no recipe "none"`},
		{api.ImageBuild{Dir: "relative"}, errdefs.IsInvalidArgument, "absolute"},
		{api.ImageBuild{Names: []string{"base"}, Recipes: "relative"}, errdefs.IsInvalidArgument, "absolute"},
		{api.ImageBuild{Dir: work + "/none"}, errdefs.IsNotFound, "no such folder"},
		{api.ImageBuild{Dir: alone + "/Dockerfile"}, errdefs.IsInvalidArgument, "no folder"},
		{api.ImageBuild{Dir: work}, errdefs.IsNotFound, "neither recipe.yaml nor a Dockerfile"},
		{api.ImageBuild{Names: []string{"base"}, Target: "x"}, errdefs.IsInvalidArgument, "are for Dockerfiles"},
		{api.ImageBuild{Names: []string{"base", "base"}, Tags: []string{"x"}}, errdefs.IsInvalidArgument, "one tag"},
		{api.ImageBuild{Dir: plain, Dockerfile: []byte("FORM x\n")}, errdefs.IsInvalidArgument, "1"},
	} {
		if _, err := l.Build(t.Context(), c.opts, nil); !c.class(err) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v", c.opts, err)
		}
	}
}

func TestRemoveAndPrune(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	used, free := put(t, l.Store, "used:v1"), put(t, l.Store, "free:v1")
	l.engine.list = []api.Container{{Name: "web", ImageID: used.ID.String()}, {Name: "db", ImageID: used.ID.String()}}
	if err := l.Tag(ctx, "used:v1", "used:v2"); err != nil {
		t.Fatal(err)
	}
	if img, err := l.Inspect(ctx, "used:v2"); err != nil || !slices.Equal(img.Names, []string{"used:v1", "used:v2"}) || !slices.Equal(img.UsedBy, []string{"db", "web"}) {
		t.Errorf("%+v, %v", img, err)
	}
	// One name of two may go, the last may not, nor the image by its ID.
	if err := l.Remove(ctx, used.ID.String(), false); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "containers db, web") {
		t.Errorf("by ID: %v", err)
	}
	if err := l.Remove(ctx, "used:v2", false); err != nil {
		t.Errorf("one of two names: %v", err)
	}
	err := l.Remove(ctx, "used:v1", false)
	if !errdefs.IsConflict(err) || !strings.Contains(hintOf(err), "sandbox rm db web") {
		t.Errorf("the last name: %v, hint %q", err, hintOf(err))
	}

	blob := func(img image.Image) bool {
		f, err := l.Store.OpenBlob(img.Manifest.Layers[0].Digest)
		if err == nil {
			f.Close()
		}
		return err == nil
	}
	got, err := l.Prune(ctx, api.ImagePrune{})
	if err != nil || len(got.Images) != 0 || !blob(free) {
		t.Errorf("prune takes names: %+v, %v", got, err)
	}
	got, err = l.Prune(ctx, api.ImagePrune{All: true, DryRun: true})
	if err != nil || !slices.Equal(got.Images, []string{"free:v1"}) || !blob(free) {
		t.Errorf("dry run: %+v, %v", got, err)
	}
	got, err = l.Prune(ctx, api.ImagePrune{All: true})
	if err != nil || !slices.Equal(got.Images, []string{"free:v1"}) || got.Blobs != 3 || got.Bytes == 0 || blob(free) || !blob(used) {
		t.Errorf("prune: %+v, %v", got, err)
	}
	if err := l.Remove(ctx, "used:v1", true); err != nil || blob(used) {
		t.Errorf("by force: %v", err)
	}
	if err := l.Remove(ctx, "used:v1", true); !errdefs.IsNotFound(err) {
		t.Errorf("twice: %v", err)
	}
}

func TestSBOM(t *testing.T) {
	l := newLab(t)
	img := put(t, l.Store, "app:v1")
	for range 2 { // made, and then found
		got, err := l.SBOM(t.Context(), "app:v1")
		if err != nil || !strings.Contains(string(got.Document), "SPDX-2") || got.Digest == "" {
			t.Errorf("%s, %v", got.Document, err)
		}
	}
	if all, err := l.Store.Referrers(img.Descriptor.Digest, ""); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := l.SBOM(t.Context(), "none"); !errdefs.IsNotFound(err) {
		t.Errorf("missing: %v", err)
	}
}
