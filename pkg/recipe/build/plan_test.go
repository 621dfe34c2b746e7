package build

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// FuzzPlan: no Dockerfile makes planning panic, and what is planned twice has
// the same keys.
func FuzzPlan(f *testing.F) {
	archives, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, archive := range archives {
		a, err := txtar.ParseFile(archive)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a.Files[0].Data)
	}
	dir := f.TempDir()
	dirs := state.Dirs{Root: filepath.Join(dir, "lib"), Run: filepath.Join(dir, "run")}
	store, err := image.Open(dirs)
	if err != nil {
		f.Fatal(err)
	}
	context := filepath.Join(dir, "context")
	for _, name := range []string{"f", "a", "sub/f"} {
		path := filepath.Join(context, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	b := &Builder{Store: store, Dirs: dirs}
	f.Fuzz(func(t *testing.T, dockerfile []byte) {
		plan := func() *stage {
			s, err := b.plan(t.Context(), &Options{
				Dockerfile: dockerfile, ContextDir: context, Args: map[string]string{"GIVEN": "x"},
				Contexts: map[string]string{"tree": filepath.Join(context, "sub"), "toolbox": "rootfs:" + context},
			})
			if err != nil {
				return nil
			}
			return s
		}
		s := plan()
		if s == nil {
			return
		}
		again := plan()
		if again == nil || again.key != s.key || len(again.steps) != len(s.steps) {
			t.Fatalf("%+v, then %+v", s, again)
		}
		for i, st := range s.steps {
			if st.key != again.steps[i].key || (st.key == "") != (st.work == nil) || st.line < 1 {
				t.Errorf("%+v, then %+v", st, again.steps[i])
			}
		}
	})
}
