package verify

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// TestPlan: the promises that are asked for come with those that they need,
// between what cleans up. That they can be kept is tested with the whole stack,
// in sandbox/stack.
func TestPlan(t *testing.T) {
	w := New(Config{})
	for only, want := range map[string]string{
		"dns":         "start deployed dns end",
		"panels":      "start deployed quiet metrics panels end",
		"memory,runs": "start runs memory end",
		"":            "start " + strings.Join(w.Names(), " ") + " end",
	} {
		var names []string
		if only != "" {
			names = strings.Split(only, ",")
		}
		plan, err := w.Plan(names)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, task := range plan.Tasks() {
			got = append(got, task.Stage)
		}
		// The end is planned at last.
		if !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%q: %q, want %q", only, got, want)
		}
	}
	if _, err := w.Plan([]string{"moon"}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "dns") {
		t.Errorf("an unknown promise: %v", err)
	}
}

func TestPoll(t *testing.T) {
	calls := 0
	err := poll(t.Context(), time.Minute, func(context.Context) error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	if err := poll(t.Context(), time.Millisecond, func(context.Context) error { return errors.New("still missing") }); err == nil || err.Error() != "after 1ms: still missing" {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := poll(ctx, time.Minute, func(context.Context) error { return errors.New("x") }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
