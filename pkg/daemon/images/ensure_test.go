package images

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// ensure asks for an image as a step of a plan does, and returns what the step
// tells of it.
func ensure(t *testing.T, s ForStack, name string, sources *stack.Sources) (api.Task, error) {
	t.Helper()
	plan := &stack.Plan{Images: sources}
	var failed error
	plan.Add("test", nil, stack.Step{Name: "image", Do: func(ctx context.Context, p stack.Progress) error {
		img, err := s.Ensure(ctx, name, p)
		if err == nil && img.Ref != "127.0.0.1:5055/"+img.Name {
			t.Errorf("%+v", img)
		}
		failed = err
		return err
	}})
	var last api.Task
	err := plan.Run(t.Context(), func(task api.Task) { last = task })
	if err != nil && !errors.Is(err, failed) {
		t.Fatal(err)
	}
	return last, failed
}

// TestEnsureSources: the step says from where an image came; offline only this
// machine is asked, and the error says what else there would be.
func TestEnsureSources(t *testing.T) {
	l, far := newLab(t), newLab(t)
	upstream := put(t, far.Store, "team/up:v1")
	put(t, far.Store, "app:latest")
	put(t, l.Store, "here:latest")
	pin := "@" + upstream.Descriptor.Digest.String()
	l.recipe(l.recipes, "own", "")
	l.recipe(l.recipes, "only", "upstream: example.org/team/up:v1"+pin+"\nupstream_only: true")
	l.recipe(l.recipes, "packages", "upstream: example.org/team/up:v1"+pin+"\ncontexts: {root: {debian: {suite: trixie}}}")
	s := ForStack{Service: l.Service, Address: func() string { return "127.0.0.1:5055" }}

	var archive bytes.Buffer
	if err := far.Export(t.Context(), &archive, []string{"app", "team/up:v1"}, ""); err != nil {
		t.Fatal(err)
	}
	sources := &stack.Sources{Offline: true}
	var progress int64
	images, err := l.ImportMissing(t.Context(), &archive, func(n int64) { progress = n })
	if err != nil || len(images) != 2 || progress == 0 {
		t.Fatalf("%+v, %v, %d", images, err, progress)
	}
	for _, img := range images {
		sources.Archived(img.Name, "stack.tar")
	}
	for _, c := range []struct {
		name    string
		sources *stack.Sources
		from    string
		source  string // of the image itself
	}{
		{"here", sources, "local store", "archive"},
		{"app", sources, "archive stack.tar", "archive"},
		{"app", nil, "local store", "archive"},
		{"own", sources, "recipe own", "recipe"},
		{"own", sources, "local store", "recipe"},
	} {
		task, err := ensure(t, s, c.name, c.sources)
		if err != nil || len(task.Images) != 1 || task.Images[0] != (api.UsedImage{Name: c.name + ":latest", From: c.from, Source: c.source}) {
			t.Errorf("%s: %+v, %v, want it from %s", c.name, task.Images, err, c.from)
		}
	}
	for _, c := range []struct {
		name       string
		says, hint []string
	}{
		{"only", []string{"offline: no registry", "upstream's image only"}, []string{"--archive FILE", "from registry example.org"}},
		{"packages", []string{"local store; offline", "packages of Debian trixie"}, []string{"sandbox image export packages -o FILE", "from registry example.org, or its recipe"}},
		{"nothing", []string{"none of that name"}, []string{"from registry docker.io"}},
	} {
		_, err := ensure(t, s, c.name, sources)
		if !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: no %q in %v", c.name, text, err)
			}
		}
		for _, text := range c.hint {
			if !strings.Contains(hintOf(err), text) {
				t.Errorf("%s: no %q in the hint %q", c.name, text, hintOf(err))
			}
		}
	}
}
