package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// movable is a stage that tells in its only step what it was asked for.
type movable struct {
	testStage
	choices stack.Choices
	do      func(context.Context) error
}

func (s *movable) Choices() stack.Choices { return s.choices }

func (s *movable) Up(opts api.UpOptions) []stack.Step {
	return []stack.Step{{Name: s.name, Do: func(ctx context.Context, p stack.Progress) error {
		p.Note("%d nodes, ports %v", opts.Nodes, opts.Ports)
		if s.do == nil {
			return nil
		}
		return s.do(ctx)
	}}}
}

// TestSettingsAreKept: those of an `up` that got there, and not the others.
func TestSettingsAreKept(t *testing.T) {
	var fails atomic.Bool
	d := start(t, withStages(t,
		&movable{testStage: testStage{name: "cluster"}, choices: stack.Choices{Nodes: true}},
		&movable{testStage: testStage{name: "aws"}, choices: stack.Choices{Ports: map[string]uint16{"localstack": 4566}}, do: func(context.Context) error {
			if fails.Load() {
				return errors.New("the port is taken")
			}
			return nil
		}},
	))
	up := func(status, want string, chosen api.Settings) {
		t.Helper()
		ref, err := d.Up(t.Context(), api.UpOptions{Settings: chosen})
		if err != nil {
			t.Fatal(err)
		}
		c := d.follow(ref.ID)
		if got := fmt.Sprintf("%s; %s", c.Tasks[0].Note, c.Tasks[1].Note); c.Status != status || got != want {
			t.Errorf("%+v: %s, %q, want %s, %q", chosen, c.Status, got, status, want)
		}
	}
	fails.Store(true)
	mistaken := api.Settings{Nodes: 3, Ports: map[string]uint16{"localstack": 22}}
	up(api.Failed, "3 nodes, ports map[localstack:22]; 3 nodes, ports map[localstack:22]", mistaken)
	fails.Store(false)
	up(api.Done, "3 nodes, ports map[]; 3 nodes, ports map[]", api.Settings{})
	up(api.Done, "3 nodes, ports map[localstack:4567]; 3 nodes, ports map[localstack:4567]", api.Settings{Ports: map[string]uint16{"localstack": 4567}})
	up(api.Done, "3 nodes, ports map[localstack:4567]; 3 nodes, ports map[localstack:4567]", api.Settings{})

	_, err := d.Up(t.Context(), api.UpOptions{Settings: api.Settings{Ports: map[string]uint16{"localstak": 1}}})
	wantClass(t, err, api.ClassInvalidArgument, "the services are localstack")
}

// TestSettingsAreNotLost: an `up` that chooses something is not taken for one
// that is under way without it.
func TestSettingsAreNotLost(t *testing.T) {
	release := make(chan struct{})
	d := start(t, withStages(t, &movable{testStage: testStage{name: "aws"}, choices: stack.Choices{Ports: map[string]uint16{"localstack": 4566}}, do: func(ctx context.Context) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}}))
	ports := api.Settings{Ports: map[string]uint16{"localstack": 4567}}
	ref, err := d.Up(t.Context(), api.UpOptions{Settings: ports})
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range []api.Settings{ports, {}} {
		if again, err := d.Up(t.Context(), api.UpOptions{Settings: same}); err != nil || again.ID != ref.ID || !again.Joined {
			t.Errorf("%+v: %+v, %v", same, again, err)
		}
	}
	_, err = d.Up(t.Context(), api.UpOptions{Settings: api.Settings{Ports: map[string]uint16{"localstack": 4568}}})
	wantClass(t, err, api.ClassConflict, "is under way")
	close(release)
	d.follow(ref.ID)
}
