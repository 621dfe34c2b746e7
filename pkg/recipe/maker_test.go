package recipe

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image"
)

// TestMake: recipes are built after what they need, two at a time; a failure
// stops what needs it and nothing else, and so does a size over budget.
func TestMake(t *testing.T) {
	root := t.TempDir()
	for name, dockerfile := range map[string]string{
		"base": "FROM scratch\n", "one": "FROM base\n", "two": "FROM base\n", "three": "FROM base\n",
		"broken": "FROM base\n", "onbroken": "FROM broken\n", "fat": "FROM base\n",
	} {
		write(t, root, map[string]string{
			name + "/" + FileName: strings.Replace(minimal, "web", name, 1) + "size: 1kB\n", name + "/Dockerfile": dockerfile,
		})
	}
	c, err := LoadAll(root)
	if err != nil {
		t.Fatal(err)
	}
	var running, most atomic.Int32
	var base atomic.Bool
	bad := errors.New("no good")
	m := &Maker{Catalogue: c, Build: func(_ context.Context, b Build, emit func(api.BuildEvent)) (image.Image, error) {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer running.Add(-1)
		emit(api.BuildEvent{Status: "running"})
		time.Sleep(20 * time.Millisecond)
		switch b.Recipe.Name {
		case "base":
			base.Store(true)
		case "broken":
			return image.Image{}, bad
		}
		if !base.Load() {
			t.Errorf("%s is built before base", b.Recipe.Name)
		}
		img := image.Image{Name: b.Name}
		if b.Recipe.Name == "fat" {
			img.Manifest.Layers = []v1.Descriptor{{Size: 1001}}
		}
		return img, nil
	}}
	events := map[string]int{}
	results, err := m.Make(t.Context(), nil, func(ev api.BuildEvent) { events[ev.Recipe]++ })
	if !errors.Is(err, bad) || most.Load() != 2 {
		t.Errorf("%v; %d at a time", err, most.Load())
	}
	for _, r := range results {
		wrong := map[string]string{"broken": "no good", "onbroken": "needs broken", "fat": "budget"}[r.Recipe.Name]
		if (r.Err != nil) != (wrong != "") || r.Err != nil && !strings.Contains(r.Err.Error(), wrong) {
			t.Errorf("%s: %v", r.Recipe.Name, r.Err)
		}
		if r.Err == nil && (r.Image.Name != r.Recipe.Name+":latest" || r.Took < 20*time.Millisecond || events[r.Recipe.Name] != 1) {
			t.Errorf("%+v, %d events", r, events[r.Recipe.Name])
		}
	}
	if s := Slowest(results, 5); len(s) != 5 || s[0].Took < s[4].Took {
		t.Errorf("slowest: %+v", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if results, err := m.Make(ctx, []string{"one"}, nil); !errors.Is(err, context.Canceled) || len(results) != 2 {
		t.Errorf("cancelled: %v, %v", results, err)
	}
}
