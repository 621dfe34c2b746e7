package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// TestVerifyByHand keeps the promises about the demo app in containers made by
// hand, with the app that the recipes' tests have built: in the virtual machine
// with a memory limit. It comes out of an archive, with no network in reach.
func TestVerifyByHand(t *testing.T) {
	needReal(t)
	kept, err := dockertest.Kept()
	if err != nil {
		t.Skip(err)
	}
	if _, err := os.Stat(filepath.Join(kept, "images", "index.json")); err != nil {
		t.Skipf("the images of the recipes are not built: go test ./images -run TestRecipes/demo-app (%v)", err)
	}
	store, err := image.Open(state.Dirs{Root: kept})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Resolve("demo-app"); err != nil {
		t.Skipf("%v: go test ./images -run TestRecipes/demo-app", err)
	}
	dir, err := os.MkdirTemp("", "sbt")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "app.tar")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Export(t.Context(), f, []string{"demo-app"}, image.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	root, run := filepath.Join(dir, "lib"), filepath.Join(dir, "run")
	defer purge(t, root, run)
	sandbox := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("sandbox", append([]string{"--state-dir", root, "--run-dir", run}, args...)...)
		cmd.Env = append(os.Environ(), "SANDBOX_REGISTRY=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("sandbox %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	sandbox("up", "--only", "internals", "--offline", "--archive", archive)
	said := sandbox("verify", "--only", "runs,memory", "--offline")
	memory := `(?m)^- memory .* not possible here: `
	if has, err := condition("memory"); err != nil {
		t.Fatal(err)
	} else if has {
		memory = `(?m)^✓ memory .* at 48 MiB, with exit code 137$`
	}
	for _, want := range []string{`(?m)^✓ runs .* answers after \d+ ms; the image is sha256:`, memory} {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("no line is like %s:\n%s", want, said)
		}
	}
}
