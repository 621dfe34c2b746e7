package pkg_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sandboxlabs/sandbox/"

// rule says which packages of this module others may import. Patterns are
// paths below the module; "pkg/linux/..." is pkg/linux and all that is below.
type rule struct {
	why    string
	from   []string // whom it binds
	except []string // whom of these it does not bind
	only   []string // of ours, import only these; nil for no such limit
	never  []string // and never these
	but    []string // exceptions from never
}

var (
	everyone = []string{"..."}
	none     = []string{}
	// The concrete engines, that only the composition root knows.
	engines = []string{"pkg/engine/raw/...", "pkg/engine/containerd/...", "pkg/engine/docker/..."}
	// Part of the Engine interface, and so no sign of talking to the kernel.
	explain = []string{"pkg/linux/explain"}
)

var law = []rule{
	{why: "the vocabulary imports nothing of ours",
		from: []string{"pkg/api/...", "pkg/undo/...", "pkg/state/..."}, only: none},
	{why: "the primitives know only each other and undo",
		from: []string{"pkg/linux/..."}, only: []string{"pkg/linux/...", "pkg/undo"}},
	{why: "the runtime knows only the primitives",
		from: []string{"pkg/runtime/..."}, only: []string{"pkg/runtime/...", "pkg/linux/...", "pkg/undo"}},
	{why: "the interface is not bound to an implementation",
		from: []string{"pkg/engine"}, only: append([]string{"pkg/api"}, explain...)},
	{why: "engines do not know each other",
		from: []string{"pkg/engine/raw/..."}, never: []string{"pkg/engine/containerd/...", "pkg/engine/docker/..."}},
	{why: "engines do not know each other",
		from: []string{"pkg/engine/containerd/..."}, never: []string{"pkg/engine/raw/...", "pkg/engine/docker/..."}},
	{why: "engines do not know each other",
		from: []string{"pkg/engine/docker/..."}, never: []string{"pkg/engine/raw/...", "pkg/engine/containerd/..."}},
	{why: "these engines ask a daemon, never the kernel",
		from:  []string{"pkg/engine/containerd/...", "pkg/engine/docker/..."},
		never: []string{"pkg/linux/...", "pkg/runtime/..."}, but: explain},
	{why: "engines are seen through their interface",
		from: []string{"pkg/..."}, except: []string{"pkg/engine/..."}, never: engines},
	{why: "these see the kernel only through an engine",
		from:  []string{"pkg/stack/...", "pkg/lesson/...", "pkg/recipe/..."},
		never: []string{"pkg/linux/...", "pkg/runtime/..."}, but: explain},
	{why: "the client knows the wire and nothing else",
		from: []string{"pkg/client/..."}, only: []string{"pkg/api", "pkg/client/..."}},
	{why: "the command line asks the daemon, and shows",
		from: []string{"pkg/cli/..."}, only: []string{"pkg/cli/...", "pkg/client", "pkg/api", "pkg/ui/..."}},
	{why: "what shows does nothing else",
		from: []string{"pkg/ui/..."}, only: []string{"pkg/ui/...", "pkg/api"}},
	{why: "only the composition root composes",
		from: everyone, except: []string{"cmd/sandbox", "pkg/cli/..."}, never: []string{"pkg/cli/...", "pkg/client/..."}},
	{why: "only the composition root composes",
		from: everyone, except: []string{"cmd/sandbox", "pkg/daemon/..."}, never: []string{"pkg/daemon/..."}},
	{why: "the domain emits events and never prints",
		from: everyone, except: []string{"cmd/...", "pkg/cli/...", "pkg/ui/...", "scripts/..."}, never: []string{"pkg/ui/..."}},
	{why: "embedded files are handed on as an fs.FS",
		from: everyone, except: []string{"cmd/sandbox"}, never: []string{"pkg/embedded"}},
	{why: "commands are not libraries", from: everyone, except: []string{"cmd/..."}, never: []string{"cmd/..."}},
}

// breach describes an import that is against the rule, or is empty.
func (r rule) breach(from, to string) string {
	if !matches(r.from, from) || matches(r.except, from) {
		return ""
	}
	if r.only != nil && !matches(r.only, to) || matches(r.never, to) && !matches(r.but, to) {
		return fmt.Sprintf("%s imports %s: %s", from, to, r.why)
	}
	return ""
}

func matches(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		below, ok := strings.CutSuffix(p, "...")
		return p == path || ok && (strings.HasPrefix(path, below) || path == strings.TrimSuffix(below, "/"))
	})
}

func TestImportLaw(t *testing.T) {
	packages := list(t, "-e", module+"...")
	if len(packages) < 10 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	for _, p := range packages {
		from := strings.TrimPrefix(p.ImportPath, module)
		for _, path := range p.Imports {
			to, ours := strings.CutPrefix(path, module)
			if !ours {
				continue
			}
			for _, r := range law {
				if breach := r.breach(from, to); breach != "" {
					t.Error(breach)
				}
			}
		}
	}
}

// TestRuntimeStaysSmall: every container pays for what sandbox-runtime and the
// shim link, in start-up time and in memory.
func TestRuntimeStaysSmall(t *testing.T) {
	heavy := []string{"net/http", "crypto/tls", "text/template", "html/template", "testing",
		"github.com/urfave/cli/...", "go.uber.org/zap/...", "github.com/spf13/...", "google.golang.org/...",
		"github.com/docker/docker/...", "github.com/containerd/containerd/...", "github.com/miekg/dns/..."}
	for _, p := range list(t, "-deps", module+"cmd/sandbox-runtime") {
		if matches(heavy, p.ImportPath) {
			t.Errorf("cmd/sandbox-runtime links %s", p.ImportPath)
		}
	}
}

func TestLawBites(t *testing.T) {
	bitten := map[int]bool{}
	for _, c := range [][2]string{
		{"pkg/api", "pkg/state"},
		{"pkg/undo", "pkg/api"},
		{"pkg/state", "pkg/undo"},
		{"pkg/linux/cgroup", "pkg/api"},
		{"pkg/linux/cgroup", "pkg/runtime"},
		{"pkg/runtime", "pkg/state"},
		{"pkg/runtime", "pkg/engine"},
		{"pkg/engine", "pkg/engine/raw"},
		{"pkg/engine", "pkg/linux/cgroup"},
		{"pkg/engine/raw", "pkg/engine/docker"},
		{"pkg/engine/raw/shim", "pkg/engine/containerd"},
		{"pkg/engine/containerd", "pkg/engine/raw/shim/protocol"},
		{"pkg/engine/docker", "pkg/engine/containerd"},
		{"pkg/engine/docker", "pkg/linux/cgroup"},
		{"pkg/engine/containerd", "pkg/runtime"},
		{"pkg/stack/cluster", "pkg/engine/docker"},
		{"pkg/daemon", "pkg/engine/raw"},
		{"pkg/stack/internals", "pkg/linux/network"},
		{"pkg/lesson", "pkg/runtime"},
		{"pkg/recipe", "pkg/linux"},
		{"pkg/client", "pkg/state"},
		{"pkg/cli", "pkg/engine"},
		{"pkg/cli", "pkg/daemon"},
		{"pkg/ui", "pkg/client"},
		{"pkg/daemon", "pkg/client"},
		{"cmd/sandbox-runtime", "pkg/cli"},
		{"pkg/stack", "pkg/daemon/change"},
		{"pkg/image", "pkg/ui"},
		{"pkg/daemon", "pkg/embedded"},
		{"cmd/sandbox-runtime", "pkg/embedded"},
		{"pkg/host", "cmd/sandbox"},
	} {
		found := false
		for i, r := range law {
			if r.breach(c[0], c[1]) != "" {
				bitten[i], found = true, true
			}
		}
		if !found {
			t.Errorf("%s may import %s", c[0], c[1])
		}
	}
	for i, r := range law {
		if !bitten[i] {
			t.Errorf("no case shows that this rule bites: %v: %s", r.from, r.why)
		}
	}
}

func TestLawAllows(t *testing.T) {
	for _, c := range [][2]string{
		{"pkg/linux/overlay", "pkg/linux/mount"},
		{"pkg/linux/overlay", "pkg/undo"},
		{"pkg/runtime", "pkg/linux/seccomp"},
		{"pkg/engine", "pkg/linux/explain"},
		{"pkg/engine/docker", "pkg/linux/explain"},
		{"pkg/engine/raw", "pkg/engine"},
		{"pkg/engine/raw", "pkg/engine/raw/shim/protocol"},
		{"pkg/engine/raw/shim", "pkg/runtime"},
		{"pkg/stack/internals", "pkg/engine"},
		{"pkg/daemon", "pkg/daemon/change"},
		{"pkg/daemon", "pkg/stack"},
		{"pkg/cli", "pkg/client"},
		{"pkg/xray", "pkg/linux/namespace"},
		{"cmd/sandbox", "pkg/engine/raw"},
		{"cmd/sandbox", "pkg/cli"},
		{"cmd/sandbox", "pkg/embedded"},
		{"cmd/sandbox-runtime", "pkg/engine/raw/shim"},
	} {
		for _, r := range law {
			if breach := r.breach(c[0], c[1]); breach != "" {
				t.Error(breach)
			}
		}
	}
}

type pkg struct {
	ImportPath string
	Imports    []string
}

// list runs go list. Test files do not count: they may reach anywhere.
func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports"}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("%v: %s", cmd, exit.Stderr)
		}
		t.Fatalf("%v: %v", cmd, err)
	}
	var packages []pkg
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}
