package stack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// TestPlanEnds: what a step skips is no failure, what needs it is skipped too,
// and the last comes after all, whatever happened.
func TestPlanEnds(t *testing.T) {
	step := func(name string, err error) Step {
		return Step{Name: name, Do: func(ctx context.Context, _ Progress) error { return errors.Join(ctx.Err(), err) }}
	}
	plan := func() *Plan {
		p := &Plan{}
		p.AddLast("clean", step("up", nil))
		p.Add("here", nil, step("a", nil))
		p.Add("there", nil, step("b", fmt.Errorf("look: %w", &Skip{"no such thing here"})), step("c", nil))
		p.Add("after", []string{"there", "here"}, step("d", nil))
		return p
	}
	var mu sync.Mutex
	run := func(ctx context.Context, p *Plan) (ended []string, err error) {
		err = p.Run(ctx, func(task api.Task) {
			mu.Lock()
			defer mu.Unlock()
			if api.Ended(task.Status) {
				ended = append(ended, fmt.Sprintf("%s %s: %s %s%s", task.Stage, task.Name, task.Status, task.Note, task.Error))
			}
		})
		if ended[len(ended)-1] != "clean up: done " {
			t.Errorf("the last is not the last: %q", ended)
		}
		slices.Sort(ended)
		return ended, err
	}
	got, err := run(t.Context(), plan())
	want := []string{
		"after d: skipped no such thing here", "clean up: done ", "here a: done ",
		"there b: skipped no such thing here", "there c: skipped no such thing here",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v\nwant %q", got, err, want)
	}

	failing := plan()
	failing.Add("bad", nil, step("e", errors.New("broken")))
	if _, err := run(t.Context(), failing); err == nil || err.Error() != "stage bad: e: broken" {
		t.Errorf("a failure: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := run(ctx, plan()); !errors.Is(err, context.Canceled) || got[2] != "here a: skipped aborted before it began" {
		t.Errorf("interrupted: %q, %v", got, err)
	}
}
