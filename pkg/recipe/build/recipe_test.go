package build_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

func TestFromRecipe(t *testing.T) {
	b := newBuilder(t)
	dir := t.TempDir()
	rootfs := filepath.Join(t.TempDir(), "rootfs")
	writeTree(t, dir, map[string]string{
		"Dockerfile":              "ARG V\nFROM toolbox\nARG V\nCOPY --from=root f /f\nCOPY own more*/ /own/\nRUN echo $V $(stat -c %u /f) > /got\n",
		"own":                     "o",
		"more/ignored":            "",
		"more/file":               "",
		"Dockerfile.dockerignore": "more/ignored\n",
	})
	writeTree(t, rootfs, map[string]string{"f": ""})
	if err := os.Chown(filepath.Join(rootfs, "f"), 9, 9); err != nil {
		t.Fatal(err)
	}
	r := &recipe.Recipe{
		Name: "thing", Version: "1.2", Description: "A thing", Licence: "MIT", Created: epoch, Dir: dir,
		Args:     map[string]string{"V": "v"},
		Contexts: map[string]recipe.Context{"root": {Debian: &recipe.Debian{Suite: "trixie"}}},
	}
	img, err := b.FromRecipe(t.Context(), recipe.Build{Recipe: r, Name: "thing:latest", Contexts: map[string]string{"root": rootfs}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.read(img, "/got"); got != "v 9\n" {
		t.Errorf("%q", got)
	}
	b.view(img, func(root string) {
		names, _ := filepath.Glob(root + "/own/*")
		if len(names) != 2 {
			t.Errorf("%q", names)
		}
	})
	base, err := b.Store.Resolve("toolbox")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		ispec.AnnotationTitle: "thing", ispec.AnnotationVersion: "1.2", ispec.AnnotationLicenses: "MIT",
		ispec.AnnotationDescription: "A thing", ispec.AnnotationCreated: "2020-01-02T03:04:05Z",
		ispec.AnnotationBaseImageName: "toolbox:latest", ispec.AnnotationBaseImageDigest: base.Descriptor.Digest.String(),
	} {
		if got := img.Manifest.Annotations[key]; got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	if img.Source != image.SourceRecipe {
		t.Errorf("source %s", img.Source)
	}
	for _, name := range []string{"thing", "thing:1.2"} {
		if other, err := b.Store.Resolve(name); err != nil || other.Descriptor.Digest != img.Descriptor.Digest {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.Dir = filepath.Join(dir, "none")
	if _, err := b.FromRecipe(t.Context(), recipe.Build{Recipe: r, Name: "thing:latest"}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestExplain: between the beginning and the end of a step come the kernel
// operations that make its layer.
func TestExplain(t *testing.T) {
	b := newBuilder(t)
	var mu sync.Mutex
	var log []string
	add := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, s)
	}
	_, _, err := b.build("FROM toolbox\nCOPY f /\nRUN true > /x\nCMD [\"x\"]\n", map[string]string{"f": ""}, func(o *build.Options) {
		o.Emit = func(ev api.BuildEvent) { add(strings.TrimSpace(ev.Status + " " + ev.Instruction)) }
		o.Trace = explain.New("engine", os.Getpid(), func(ev explain.Event) {
			if strings.Contains(ev.Value, "upperdir=") || ev.Op == "pivot_root" {
				add(ev.Op)
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"running COPY f /", "mount", "done COPY f /",
		"running RUN true > /x", "mount", "pivot_root", "done RUN true > /x",
		"done CMD [\"x\"]",
	}
	log = slices.DeleteFunc(log, func(s string) bool { return strings.HasPrefix(s, "packed") })
	if !slices.Equal(log, want) {
		t.Errorf("%q, want %q", log, want)
	}
}
