package images_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// TestModules runs the tests of the programs that live in recipes, each a Go
// module of its own, with the caches that the recipes are compiled with.
func TestModules(t *testing.T) {
	root, err := dockertest.Kept()
	if err != nil {
		t.Skip(err)
	}
	for _, dir := range testedModules(t) {
		t.Run(dir, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "go", "test", "-trimpath", "./...")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-modcacherw -buildvcs=false -gcflags=all=-dwarf=false",
				"GOMODCACHE="+filepath.Join(root, "build", "cache", "gomod"),
				"GOCACHE="+filepath.Join(root, "build", "cache", "gobuild"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("go test: %v\n%s", err, out)
			}
		})
	}
}

// testedModules are the folders of modules that have tests.
func testedModules(t *testing.T) (dirs []string) {
	t.Helper()
	modules, err := filepath.Glob("*/*/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range modules {
		dir, tested := filepath.Dir(file), false
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			match, _ := filepath.Match("*_test.go", filepath.Base(path))
			tested = tested || match
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if tested {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		t.Error("no module has tests")
	}
	return dirs
}

// TestAligned: what one recipe has compiled is there for the others only if
// they agree on the versions of modules.
func TestAligned(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "run", "./scripts/align-modules", "-check", "images")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
