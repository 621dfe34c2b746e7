package sbom

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// oneLayer shows images of one layer: that is their tree.
type oneLayer struct {
	engine.LayerEngine
	mounts int
}

func (e *oneLayer) MountLayers(_ context.Context, lower []string, _ string, _ *explain.Tracer) (engine.LayerView, error) {
	e.mounts++
	return folder(lower[0]), nil
}

type folder string

func (f folder) Path() string { return string(f) }
func (f folder) Close() error { return nil }

// TestAttach: an image is read once, and its document stays with it.
func TestAttach(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the image store needs root")
	}
	dir := t.TempDir()
	store, err := image.Open(state.Dirs{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	upper := filepath.Join(dir, "upper")
	if err := os.CopyFS(upper, os.DirFS(rootfs(t, map[string]string{
		"var/lib/dpkg/status": "Package: tini\nStatus: install ok installed\nVersion: 0.19\nArchitecture: amd64\n\n",
	}))); err != nil {
		t.Fatal(err)
	}
	img, _, err := store.Commit(t.Context(), image.Commit{
		Names: []string{"demo"}, Config: ispec.Image{}, Layers: []image.LayerSource{{Upper: upper}},
		Epoch: time.Unix(1e9, 0), Source: image.SourceRecipe,
	})
	if err != nil {
		t.Fatal(err)
	}
	layers := &oneLayer{}
	describe := Describer(store, layers)
	r := &recipe.Recipe{Name: "demo", Version: "1.2", Licence: "MIT", Created: time.Unix(1e9, 0)}
	for range 2 {
		if err := describe(t.Context(), r, img); err != nil {
			t.Fatal(err)
		}
	}
	data, err := Of(t.Context(), store, layers, img, About{})
	if err != nil || layers.mounts != 1 {
		t.Fatalf("mounted %d times, %v", layers.mounts, err)
	}
	doc, err := Parse(data)
	if err != nil || doc.About.Name != "demo" || doc.About.Version != "1.2" {
		t.Errorf("%+v, %v", doc.About, err)
	}
	if !slices.ContainsFunc(doc.Packages, func(p Package) bool { return p.Name == "tini" && p.Version == "0.19" }) {
		t.Errorf("packages: %+v", doc.Packages)
	}
	if all, err := store.Referrers(img.Descriptor.Digest, MediaType); err != nil || len(all) != 1 {
		t.Errorf("%d referrers, %v", len(all), err)
	}
}
