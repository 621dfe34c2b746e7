package kindnode_test

import (
	"os"
	"os/exec"
	"testing"
)

// TestPreload runs the tests of preload, which is in a module of its own: with
// the containerd that it writes for.
func TestPreload(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "test", "./preload")
	cmd.Dir = "containerd"
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go test ./preload: %v\n%s", err, out)
	}
}
