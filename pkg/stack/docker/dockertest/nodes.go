package dockertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// runcVar is where the tests' engine finds a runtime that gives privileged
// containers, such as the nodes of a cluster, what this machine has.
const runcVar = "SANDBOX_TEST_RUNC"

// MainWithNodes is Main with an engine that can run the nodes of a cluster. It
// builds the runtime that this takes first, since there is no network inside.
func MainWithNodes(m *testing.M) int {
	code, err := mainWithNodes(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "dockertest:", err)
	}
	return code
}

func mainWithNodes(m *testing.M) (int, error) {
	if os.Getenv(runcVar) == "" && os.Geteuid() == 0 {
		dir, err := os.MkdirTemp("", "sbr")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		runc := filepath.Join(dir, "runc-within-bounds")
		if out, err := exec.Command("go", "build", "-o", runc, "github.com/sandboxlabs/sandbox/scripts/runc-within-bounds").CombinedOutput(); err != nil {
			return 1, fmt.Errorf("build runc-within-bounds: %w\n%s", err, out)
		}
		if err := os.Setenv(runcVar, runc); err != nil {
			return 1, err
		}
	}
	return Main(m, "--add-runtime", "bounded="+os.Getenv(runcVar), "--default-runtime", "bounded"), nil
}
