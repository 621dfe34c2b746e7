package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// result is what a program said, in the Test Anything Protocol.
type result struct {
	ok, notOK []string // descriptions of the assertions
	skipped   int
	plan      int   // assertions announced, -1 if there was no plan
	diagnosed bool  // an error was reported outside of any assertion
	err       error // its exit, or a timeout
	output    string
}

// assertion matches "ok 3 - the text # SKIP why". Diagnostics are indented or
// start with '#', and so do not match.
var assertion = regexp.MustCompile(`^(not )?ok\b\s*(\d*)\s*(?:- )?(.*)$`)

// parse reads TAP version 13. A "not ok" that is marked TODO is not a failure.
// Some programs make no assertion at all: they print a diagnostic with an
// "error" in it, or nothing if all is well.
func parse(text string) result {
	r := result{plan: -1}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if last, ok := strings.CutPrefix(line, "1.."); ok {
			if n, err := strconv.Atoi(strings.Fields(last + " ")[0]); err == nil {
				r.plan = n
			}
			continue
		}
		if r.ran() == 0 && strings.HasPrefix(line, `    "error":`) {
			r.diagnosed = true
		}
		m := assertion.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		description, directive, _ := strings.Cut(m[3], "# ")
		directive = strings.ToUpper(directive)
		switch {
		case strings.HasPrefix(directive, "SKIP"):
			r.skipped++
		case m[1] == "" || strings.HasPrefix(directive, "TODO"):
			r.ok = append(r.ok, description)
		default:
			r.notOK = append(r.notOK, description)
		}
	}
	return r
}

func (r result) ran() int { return len(r.ok) + len(r.notOK) + r.skipped }

// passed reports whether the program ran to its end and nothing failed. One
// that skips all its assertions has not passed.
func (r result) passed() bool {
	if r.err != nil || len(r.notOK) > 0 || r.plan >= 0 && r.plan != r.ran() {
		return false
	}
	return len(r.ok) > 0 || r.skipped == 0 && !r.diagnosed
}

// lost returns the descriptions of assertions that hold in r and fail in other.
func (r result) lost(other result) []string {
	var lost []string
	for _, description := range other.notOK {
		if slices.Contains(r.ok, description) && !slices.Contains(r.notOK, description) {
			lost = append(lost, description)
		}
	}
	slices.Sort(lost)
	return slices.Compact(lost)
}

// failures returns the output without the assertions that hold.
func (r result) failures() string {
	var b strings.Builder
	show := true
	for line := range strings.Lines(r.output) {
		// What is indented belongs to the assertion above.
		if !strings.HasPrefix(line, " ") {
			show = !strings.HasPrefix(line, "ok ") && !strings.HasPrefix(line, "TAP version")
		}
		if show {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (r result) String() string {
	switch {
	case r.passed():
		if len(r.ok) == 0 {
			return "pass"
		}
		return fmt.Sprintf("pass %d", len(r.ok))
	case r.err == nil && r.skipped > 0 && r.skipped == r.ran():
		return "skip"
	case r.err != nil:
		return "FAIL " + r.err.Error()
	case r.ran() == 0:
		return "FAIL"
	default:
		return fmt.Sprintf("FAIL %d/%d", len(r.ok), max(r.ran(), r.plan))
	}
}
