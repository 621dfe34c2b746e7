package cli

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/ui"
)

func TestComplete(t *testing.T) {
	p := &program{Deps: Deps{Term: &ui.Fake{}, StateDir: "/nowhere", RunDir: "/nowhere"}, host: noHost{}}
	for _, c := range []struct {
		words []string
		has   string // a candidate, less its description; "" for none at all
		not   string
	}{
		{nil, "run", "__complete"},
		{[]string{""}, "run", "__complete"},
		{[]string{"--state-dir", "x", ""}, "run", ""},
		{[]string{"--"}, "--help", ""},
		{[]string{"-"}, "--state-dir", ""},
		{[]string{"run", "-"}, "--memory", ""},
		{[]string{"run", "--", ""}, "", ""},
		{[]string{"run", "-m", ""}, ":files", ""},
		{[]string{"run", "-itv", ""}, ":files", ""},
		{[]string{"run", "--memory", ""}, ":files", ""},
		{[]string{"run", "--rm", "img", ""}, ":files", ""},
		{[]string{"up", "--archive", ""}, ":files", ""},
		{[]string{"up", "--only", ""}, "", ""}, // no daemon
		{[]string{"exec", "-it", "web", ""}, ":files", ""},
		{[]string{"image", ""}, "ls", "run"},
		{[]string{"image", "build", "--"}, "--no-cache", ""},
		{[]string{"image", "lint", ""}, ":files", ""},
		{[]string{"image", "import", ""}, ":files", ""},
		{[]string{"image", "export", "app", "-o", ""}, ":files", ""},
		{[]string{"build", "./a"}, ":files", ""},
		{[]string{"build", ""}, "./", ""},
		{[]string{"image", "rm", ""}, "", ""}, // no daemon
		{[]string{"pull", ""}, "", ""},
		{[]string{"completion", ""}, "fish", ""},
		{[]string{"nosuch", ""}, "", ""},
		{[]string{"ps", ""}, "", ""},
	} {
		got := p.complete(t.Context(), c.words)
		for i := range got {
			got[i], _, _ = strings.Cut(got[i], "\t")
		}
		if c.has == "" && len(got) > 0 || c.has != "" && !slices.Contains(got, c.has) || c.not != "" && slices.Contains(got, c.not) {
			t.Errorf("after %q come %q, want %q and not %q", c.words, got, c.has, c.not)
		}
	}
}

// noHost is a machine without a daemon; complete asks it for the socket only.
type noHost struct{ Host }

func (noHost) Socket() string { return "/nowhere/sandbox.sock" }

// TestScripts lets each shell that is here read its script, and bash use it.
func TestScripts(t *testing.T) {
	for shell, script := range map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion} {
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("%s is not installed", shell)
			continue
		}
		cmd := exec.Command(path, "-n")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash is not installed")
	}
	cmd := exec.Command(bash, "-c", bashCompletion+`
		sandbox() { printf '%s|' "$@" >&3; printf 'stop\tend\nstats\tshow\n'; }
		COMP_WORDS=(sandbox -x "" st) COMP_CWORD=3
		_sandbox 3>&1
		echo "${COMPREPLY[*]}"`)
	out, err := cmd.CombinedOutput()
	if want := "__complete|--|-x||st|stop stats\n"; err != nil || string(out) != want {
		t.Errorf("bash completes with %q, %v; want %q", out, err, want)
	}
}
