package images_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

// TestLint: the recipes are as this project asks it of others.
func TestLint(t *testing.T) {
	c, err := recipe.LoadAll(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range c.Recipes {
		problems, err := recipe.Lint(r.Dir, build.Check)
		if err != nil {
			t.Error(err)
		}
		for _, p := range problems {
			if p.Warning {
				t.Log(p)
			} else {
				t.Error(p)
			}
		}
	}
}

// TestRecipes builds all recipes, with their smoke tests, and once more, when
// there is nothing to do. `-run TestRecipes/NAME` builds one, and what it needs.
func TestRecipes(t *testing.T) {
	s := openSuite(t)
	names := s.names()
	if !alone() {
		s.make(t, s.maker(), names...)
		// What is unchanged is not built, not packed, not tested again.
		begun := time.Now()
		maker := s.maker()
		results, err := maker.Make(t.Context(), names, func(ev api.BuildEvent) {
			if ev.Status == "running" || ev.Status == "testing" {
				t.Errorf("%s: %s is done again", ev.Recipe, ev.Instruction)
			}
		})
		if err != nil {
			t.Error(err)
		}
		t.Logf("measured: %d unchanged recipes again: %.1f s", len(results), time.Since(begun).Seconds())
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			results := s.make(t, s.maker(), name)
			last := results[len(results)-1]
			if last.Err == nil && !last.Recipe.UpstreamOnly {
				t.Logf("%s %s, %.1f MB, %d layers, %.1f s", last.Image.Name, last.Image.Descriptor.Digest,
					float64(last.Image.Size())/1e6, len(last.Image.Manifest.Layers), last.Took.Seconds())
			}
		})
	}
}

// TestReproducible builds every recipe a second time, from its first
// instruction on, and gets the same images. `-run TestReproducible/NAME` does it
// with one, and with what it needs.
func TestReproducible(t *testing.T) {
	s := openSuite(t)
	var first, second map[string]image.Image
	anew := func(t *testing.T, names ...string) map[string]image.Image {
		m := s.maker()
		m.NoCache, m.Engine = true, nil // it is tested
		return imagesOf(s.make(t, m, names...))
	}
	twice := func(t *testing.T, names ...string) {
		first, second = imagesOf(s.make(t, s.maker(), names...)), anew(t, names...)
		var differ []string
		for _, name := range names {
			if first[name].Descriptor.Digest != second[name].Descriptor.Digest {
				differ = append(differ, name)
			}
		}
		if len(differ) == 0 || t.Failed() {
			return
		}
		// What is in the store may be of another day, and Debian's archive of this.
		t.Logf("built a third time: %q", differ)
		for name, img := range anew(t, differ...) {
			first[name], second[name] = second[name], img
		}
	}
	if !alone() {
		begun := time.Now()
		twice(t, s.names()...)
		if !t.Failed() {
			s.tidy(t, begun)
		}
	}
	for _, name := range s.names() {
		t.Run(name, func(t *testing.T) {
			if alone() {
				twice(t, name)
			}
			a, okay := first[name]
			b, again := second[name]
			if !okay || !again {
				t.Fatal("it was not built twice") // TestReproducible tells why
			}
			if a.Descriptor.Digest != b.Descriptor.Digest {
				t.Errorf("%s, and built again %s: %s", a.Descriptor.Digest, b.Descriptor.Digest, whatDiffers(a, b))
			}
		})
	}
}

// tidy removes what earlier runs have left in the folder that is kept, and no
// build of this one, which were all there are, has used.
func (s *suite) tidy(t *testing.T, begun time.Time) {
	t.Helper()
	list, err := s.Store.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range list {
		if img.Name == "" {
			if err := s.Store.Remove(t.Context(), img.Descriptor.Digest.String()); err != nil {
				t.Error(err)
			}
		}
	}
	cache, err := s.Builder.Prune(t.Context(), time.Since(begun), false)
	if err != nil {
		t.Error(err)
	}
	images, err := s.Engine.GC(t.Context())
	if err != nil {
		t.Error(err)
	}
	t.Logf("removed %.1f GB of earlier runs", float64(cache.Bytes+images.Bytes)/1e9)
}

func imagesOf(results []recipe.Result) map[string]image.Image {
	images := map[string]image.Image{}
	for _, r := range results {
		if r.Err == nil {
			images[r.Recipe.Name] = r.Image
		}
	}
	return images
}

func whatDiffers(a, b image.Image) string {
	var differ []string
	for i, id := range a.Config.RootFS.DiffIDs {
		if other := b.Config.RootFS.DiffIDs; i >= len(other) || other[i] != id {
			differ = append(differ, fmt.Sprint("layer ", i, " (", id, ")"))
		}
	}
	return strings.Join(append(differ, "or the configuration"), ", ")
}

// names lists the recipes, sorted.
func (s *suite) names() []string {
	names := make([]string, 0, len(s.Catalogue.Recipes))
	for name := range s.Catalogue.Recipes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// make builds recipes, tells how it goes, and fails the test for each that
// fails, with what its last step wrote.
func (s *suite) make(t *testing.T, m *recipe.Maker, names ...string) []recipe.Result {
	t.Helper()
	begun, before := time.Now(), s.processors(t)
	worked := false
	var failed []string
	results, err := m.Make(t.Context(), names, func(ev api.BuildEvent) {
		switch {
		case ev.Output != "":
			if testing.Verbose() && len(names) == 1 {
				t.Logf("%s: %s", ev.Recipe, strings.TrimRight(ev.Output, "\n"))
			}
		case ev.Error != "":
			failed = append(failed, ev.Recipe+": "+ev.Error)
		case ev.Status == "done" && ev.Took > 0:
			worked = worked || ev.Step != ""
			t.Logf("%s %s %s %s: %.1f s", ev.Recipe, ev.Stage, ev.Step, ev.Instruction, ev.Took.Seconds())
		}
	})
	if worked && len(names) > 1 {
		var slowest []string
		for _, r := range recipe.Slowest(results, 5) {
			slowest = append(slowest, fmt.Sprintf("%s %.0f s", r.Recipe.Name, r.Took.Seconds()))
		}
		t.Logf("measured: %d recipes built in %.0f s, of what was not cached, with %.0f s of processors' time; the slowest: %s", len(results),
			time.Since(begun).Seconds(), (s.processors(t) - before).Seconds(), strings.Join(slowest, ", "))
	}
	switch {
	case len(failed) > 0:
		t.Errorf("not built:\n%s", strings.Join(failed, "\n"))
	case err != nil:
		t.Error(err)
	}
	return results
}
