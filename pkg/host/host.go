// Package host looks at the machine before anything is built on it: doctor.
//
// A check is data: its name, why it matters, how to look and, where that is
// safe, how to repair. Probes try the real thing wherever that leaves nothing
// behind (a namespace that ends with the thread that made it), because what a
// kernel says it has and what it grants are two things.
package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Status of a finding.
const (
	OK   = "ok"
	Warn = "warn" // works, with less
	Fail = "fail" // nothing works
)

// Host is the machine, as the checks see it. Its roots are parameters so that
// tests can put other machines in their place.
type Host struct {
	Proc     string // /proc
	Sys      string // /sys
	Etc      string // /etc
	Run      string // /run
	StateDir string // where containers will be written
	// Real allows probes that ask this kernel, beside those that read files
	// below the roots. A fixture has none.
	Real bool
}

// This is the machine that the program runs on.
func This(stateDir string) *Host {
	return &Host{Proc: "/proc", Sys: "/sys", Etc: "/etc", Run: "/run", StateDir: stateDir, Real: true}
}

// check is one thing to look at.
type check struct {
	name string
	why  string // what it is needed for
	// look returns what is there. A status that is not ok may come with a fix
	// of its own; otherwise the check's is shown.
	look func(context.Context, *Host) finding
	fix  string
	// repair makes the fix; nil where that is not ours to do. It says what it
	// did.
	repair func(context.Context, *Host) (string, error)
}

// finding is what look has seen.
type finding struct {
	status string
	found  string
	why    string // instead of the check's
	fix    string // instead of the check's
}

func okf(format string, args ...any) finding {
	return finding{status: OK, found: fmt.Sprintf(format, args...)}
}

func warnf(format string, args ...any) finding {
	return finding{status: Warn, found: fmt.Sprintf(format, args...)}
}

func failf(format string, args ...any) finding {
	return finding{status: Fail, found: fmt.Sprintf(format, args...)}
}

// probeTimeout bounds one look: a hanging Docker must not hang doctor.
const probeTimeout = 2 * time.Second

// checks is the list, in the order in which it is shown.
func checks() []check {
	return slices.Concat(kernelChecks(), cgroupChecks(), namespaceChecks(), rightsChecks(), networkChecks(), resourceChecks(), serviceChecks())
}

// Check looks at everything at once and returns a finding for each check, in a
// fixed order. The error is that of a context that ended; what is wrong with
// the host is in the findings.
func (h *Host) Check(ctx context.Context) ([]api.Finding, error) {
	list := checks()
	out := make([]api.Finding, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() {
			probe, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			out[i] = c.finding(c.look(probe, h))
		})
	}
	wg.Wait()
	return out, ctx.Err()
}

func (c check) finding(f finding) api.Finding {
	out := api.Finding{Check: c.name, Status: f.status, Found: f.found, Why: c.why}
	if f.why != "" {
		out.Why = f.why
	}
	if f.status != OK {
		if out.Fix = c.fix; f.fix != "" {
			out.Fix = f.fix
		}
		out.Fixable = c.repair != nil
	}
	return out
}

// Fix repairs what findings say is amiss and what is safe to repair, and
// returns a line for each thing it did. It goes on after an error.
func (h *Host) Fix(ctx context.Context, findings []api.Finding) (did []string, err error) {
	var failed []string
	for _, c := range checks() {
		amiss := slices.ContainsFunc(findings, func(f api.Finding) bool { return f.Check == c.name && f.Status != OK && f.Fixable })
		if !amiss || c.repair == nil {
			continue
		}
		line, err := c.repair(ctx, h)
		switch {
		case err != nil:
			failed = append(failed, fmt.Sprintf("%s: %v", c.name, err))
		case line != "":
			did = append(did, line)
		}
	}
	if len(failed) > 0 {
		return did, fmt.Errorf("fix %s", strings.Join(failed, "; "))
	}
	return did, nil
}

// read returns a file below root without its last newline; "" if it is not
// there.
func read(root string, path ...string) string {
	b, err := os.ReadFile(filepath.Join(append([]string{root}, path...)...))
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\n")
}

func exists(root string, path ...string) bool {
	_, err := os.Stat(filepath.Join(append([]string{root}, path...)...))
	return err == nil
}

// join is strings.Join with an "and" before the last.
func join(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
