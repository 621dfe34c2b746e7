package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
)

// test names a test, or with an empty name a package.
type test struct{ pkg, name string }

// outcome is what became of a test in all the places where it ran.
type outcome struct {
	passed, failed, skipped bool
	reason                  string // of the skip, or of the failure: many lines
}

// running is a test that has not ended yet, and where.
type running struct {
	where string
	test  test
}

// report gathers the events of several streams.
type report struct {
	mu     sync.Mutex
	out    io.Writer
	tests  map[test]*outcome
	output map[running]*strings.Builder
	errors int // what failed and is not a test
	// figures are what tests say they have measured.
	figures []string
}

func newReport(out io.Writer) *report {
	return &report{out: out, tests: map[test]*outcome{}, output: map[running]*strings.Builder{}}
}

// add takes in one event, prints what is worth showing at once (packages that
// ended, the output of failures), and reports whether it was a failure.
func (r *report) add(where string, e event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := test{e.Package, e.Test}
	key := running{where, id}
	switch e.Action {
	case "output":
		r.buffer(key).WriteString(e.Output)
		r.figure(where, e.Output)
		return false
	case "build-output":
		fmt.Fprint(r.out, e.Output)
		return false
	case "build-fail":
		r.errors++
		fmt.Fprintf(r.out, "FAIL  %-4s  %s does not build\n", where, e.ImportPath)
		return true
	case "pass", "fail", "skip":
	default: // start, run, pause, cont, bench
		return false
	}

	text := r.buffer(key).String()
	delete(r.output, key)
	if e.Test == "" {
		r.pkg(where, e, text)
		return e.Action == "fail"
	}
	o := r.tests[id]
	if o == nil {
		o = &outcome{}
		r.tests[id] = o
	}
	switch e.Action {
	case "pass":
		o.passed = true
	case "skip":
		o.skipped = true
		if !o.failed {
			o.reason = lastMessage(text)
		}
	case "fail":
		o.failed = true
		o.reason = failure(e.Package, text)
		fmt.Fprintf(r.out, "FAIL  %-4s  %s %s\n%s", where, e.Package, e.Test, indent(text))
		return true
	}
	return false
}

// measured is how a test logs a figure that is to be in the summary:
// t.Log("measured: …").
const measured = ": measured: "

func (r *report) figure(where, line string) {
	if _, what, ok := strings.Cut(strings.TrimRight(line, "\n"), measured); ok {
		r.figures = append(r.figures, fmt.Sprintf("%-4s  %s", where, what))
	}
}

// pkg prints the end of a package. One that fails without a failed test
// (TestMain, an exit) is a failure by itself.
func (r *report) pkg(where string, e event, text string) {
	if e.Action == "pass" {
		fmt.Fprintf(r.out, "ok    %-4s  %s  %.1f s\n", where, e.Package, e.Elapsed)
	}
	if e.Action != "fail" {
		return
	}
	r.cutShort(where, e.Package)
	fmt.Fprintf(r.out, "FAIL  %-4s  %s\n", where, e.Package)
	for id, o := range r.tests {
		if id.pkg == e.Package && o.failed {
			return
		}
	}
	fmt.Fprint(r.out, indent(text))
	r.errors++
}

// cutShort fails the package's tests that did not end, because the package did
// (a panic, a timeout), and shows what they printed so far.
func (r *report) cutShort(where, pkg string) {
	for key, b := range r.output {
		if key.where == where && key.test.pkg == pkg && key.test.name != "" {
			delete(r.output, key)
			r.tests[key.test] = &outcome{failed: true, reason: failure(pkg, b.String())}
			fmt.Fprintf(r.out, "FAIL  %-4s  %s %s did not end\n%s", where, pkg, key.test.name, indent(b.String()))
		}
	}
}

// end does the same for all packages, when a place's stream of events ends.
func (r *report) end(where string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.output {
		if key.where == where {
			r.cutShort(where, key.test.pkg)
		}
	}
}

func (r *report) buffer(key running) *strings.Builder {
	b := r.output[key]
	if b == nil {
		b = &strings.Builder{}
		r.output[key] = b
	}
	return b
}

// broken records that a whole stream of tests could not run to its end.
func (r *report) broken(where string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors++
	fmt.Fprintf(r.out, "FAIL  %-4s  %v\n", where, err)
}

// summary prints the tests that ran nowhere, what was measured, the tests that
// failed, and the totals; it reports whether all is well. A test that one place skips and
// another passes has passed.
func (r *report) summary() bool {
	byName := func(a, b test) int { return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.name, b.name)) }
	var passed, failed, skipped int
	var skips, fails strings.Builder
	for _, id := range slices.SortedFunc(maps.Keys(r.tests), byName) {
		switch o := r.tests[id]; {
		case o.failed:
			failed++
			fmt.Fprintf(&fails, "  %s %s\n%s", id.pkg, id.name, indent(o.reason))
		case o.passed:
			passed++
		case o.skipped:
			skipped++
			fmt.Fprintf(&skips, "  %s %s: %s\n", id.pkg, id.name, o.reason)
		}
	}
	if skips.Len() > 0 {
		fmt.Fprintf(r.out, "skipped everywhere:\n%s", skips.String())
	}
	if len(r.figures) > 0 {
		fmt.Fprintf(r.out, "measured:\n  %s\n", strings.Join(r.figures, "\n  "))
	}
	if fails.Len() > 0 {
		fmt.Fprintf(r.out, "failed:\n%s", fails.String())
	}
	failed += r.errors
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return failed == 0
}

// lastMessage is what a test said last, to skip as a rule, without its file and
// line and what the testing package writes.
func lastMessage(output string) string {
	const most = 300
	reason := "no reason given"
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || framing(line) {
			continue
		}
		if place, message, ok := strings.Cut(line, ": "); ok && strings.Contains(place, ".go:") {
			line = message
		}
		reason = line
	}
	if len(reason) > most {
		reason = strings.ToValidUTF8(reason[:most], "") + "…"
	}
	return reason
}

// framing reports whether a line is the testing package's own, of the beginning
// or the end of a test.
func framing(line string) bool {
	line = strings.TrimSpace(line)
	return strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ")
}

func indent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString("      " + line)
	}
	if s != "" && !strings.HasSuffix(s, "\n") {
		b.WriteByte('\n')
	}
	return b.String()
}
