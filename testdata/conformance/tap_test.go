package main

import (
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text string
		err        error
		want       string
	}{
		{"pass", "TAP version 13\nok 1 - a\nok 2 - b\n1..2\n", nil, "pass 2"},
		{"failed assertion", "ok 1 - a\nnot ok 2 - b\n  ---\n  ...\n1..2\n", nil, "FAIL 1/2"},
		{"shorter than its plan", "1..3\nok 1 - a\n", nil, "FAIL 1/3"},
		{"failed program", "ok 1 - a\n1..1\n", errors.New("exit status 1"), "FAIL exit status 1"},
		{"expected failure", "ok 1 - a\nnot ok 2 # TODO b\n1..2\n", nil, "pass 2"},
		{"all skipped", "1..1\nok 1 # SKIP no such thing here\n", nil, "skip"},
		{"some skipped", "ok 1 - a\nok 2 # SKIP no\n1..2\n", nil, "pass 1"},
		{"a container's output", "  ---\n  {\n    \"stdout\": \"not ok 1 - a\"\n  }\n  ...\nok 1 - a\n1..1\n", nil, "pass 1"},
		{"no assertion, no error", "TAP version 13\n1..0\n", nil, "pass"},
		{"no assertion, an error", "TAP version 13\n  ---\n  {\n    \"error\": \"hooks MUST\"\n  }\n  ...\n1..0\n", nil, "FAIL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := parse(c.text)
			r.err = c.err
			if got := r.String(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
