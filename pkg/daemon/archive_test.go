package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// TestUpFromArchive: an archive goes before everything else, and nothing begins
// when something is wrong with it.
func TestUpFromArchive(t *testing.T) {
	d := start(t, withStages(t, &testStage{name: "internals", up: []stack.Step{quick("one")}}))
	archive := func(content string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "stack.tar")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		path, statuses, says string
	}{
		{archive("app:latest base:v1"), "stack.tar:done one:done", "missing were app, base:v1"},
		{archive(""), "stack.tar:done one:done", "nothing of it was missing"},
		{archive("broken"), "stack.tar:failed one:skipped", "this is no archive"},
		{filepath.Join(t.TempDir(), "none.tar"), "none.tar:failed one:skipped", "no such file"},
	} {
		ref, err := d.Up(t.Context(), api.UpOptions{Archive: c.path})
		if err != nil {
			t.Fatal(err)
		}
		got := d.follow(ref.ID)
		if first := got.Tasks[0]; statuses(got) != c.statuses || first.Stage != "archive" || !strings.Contains(first.Note+first.Error, c.says) {
			t.Errorf("%s: %s, %+v", c.path, statuses(got), first)
		}
		if c.says == "this is no archive" && (got.Error.Class != api.ClassInvalidArgument || !strings.Contains(got.Error.Hint, "image export")) {
			t.Errorf("%+v", got.Error)
		}
	}
	_, err := d.Up(t.Context(), api.UpOptions{Archive: "stack.tar"})
	wantClass(t, err, api.ClassInvalidArgument, "not an absolute path")
}
