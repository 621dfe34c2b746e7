package build_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

var update = flag.Bool("update", false, "write what is expected anew")

// TestCheck compares what Check says of the Dockerfiles in testdata/check.
func TestCheck(t *testing.T) {
	archives, err := filepath.Glob("testdata/check/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal(len(archives), err)
	}
	for _, archive := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(archive)
			if err != nil || len(a.Files) != 2 {
				t.Fatal(err, len(a.Files))
			}
			problems, err := build.Check(a.Files[0].Data)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, p := range problems {
				if p.Warning {
					got.WriteString("warning: ")
				}
				got.WriteString(p.String() + "\n")
			}
			if *update {
				a.Files[1].Data = []byte(got.String())
				if err := os.WriteFile(archive, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(a.Files[1].Data); got.String() != want {
				t.Errorf("got\n%swant\n%s", got.String(), want)
			}
		})
	}
}

// FuzzCheck: no Dockerfile makes it panic, and what it finds has a line.
func FuzzCheck(f *testing.F) {
	for _, pattern := range []string{"testdata/*/*.txtar"} {
		archives, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, archive := range archives {
			a, err := txtar.ParseFile(archive)
			if err != nil {
				f.Fatal(err)
			}
			for _, file := range a.Files {
				if file.Name == "Dockerfile" {
					f.Add(file.Data)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, dockerfile []byte) {
		problems, err := build.Check(dockerfile)
		if err != nil {
			t.Fatal(err)
		}
		lines := 1 + strings.Count(string(dockerfile), "\n")
		for _, p := range problems {
			if p.Line < 1 || p.Line > lines || p.Message == "" {
				t.Errorf("%+v of %d lines", p, lines)
			}
		}
	})
}
