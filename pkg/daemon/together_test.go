package daemon

import (
	"context"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// TestAbortAlone: who has joined a change ends it only if nobody else watches:
// the one who began it may be gone, as after the death of a daemon.
func TestAbortAlone(t *testing.T) {
	d := start(t, withStages(t, &testStage{name: "a", up: []stack.Step{{Name: "slow", Do: func(ctx context.Context, _ stack.Progress) error {
		<-ctx.Done()
		return ctx.Err()
	}}}}))
	ref, err := d.Up(t.Context(), api.UpOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first, leave := context.WithCancel(t.Context())
	watching := make(chan struct{}, 2)
	ended := make(chan api.Change, 1)
	go func() { _, _ = d.FollowChange(first, ref.ID, func(api.Change) { watching <- struct{}{} }) }()
	<-watching
	go func() {
		c, _ := d.FollowChange(t.Context(), ref.ID, func(c api.Change) {
			if c.Status == api.Doing {
				watching <- struct{}{}
			}
		})
		ended <- c
	}()
	<-watching
	_, err = d.AbortChange(t.Context(), ref.ID, true)
	wantClass(t, err, api.ClassConflict, "followed by others")
	leave()
	eventually(t, "the first is gone", func() bool {
		_, err := d.AbortChange(t.Context(), ref.ID, true)
		return err == nil
	})
	if c := <-ended; c.Status != api.Aborted {
		t.Errorf("%+v", c)
	}
}

// refusing is a stage that refuses a choice.
type refusing struct{ testStage }

func (*refusing) Choices() stack.Choices {
	return stack.Choices{Nodes: true, Ports: map[string]uint16{"web": 80}}
}

func (*refusing) Check(_ context.Context, opts api.UpOptions) error {
	if opts.Nodes == 3 {
		return fmt.Errorf("there are 2: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// TestChoices: what was refused is not kept, and an `up` with other choices does
// not join.
func TestChoices(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	d := start(t, withStages(t, &refusing{testStage{name: "a", up: []stack.Step{{Name: "slow", Do: func(ctx context.Context, _ stack.Progress) error {
		close(begun)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}}}}}))
	up := func(s api.Settings) (api.ChangeRef, error) { return d.Up(t.Context(), api.UpOptions{Settings: s}) }
	kept := func() api.Settings {
		s, err := stack.Kept(d.dirs)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	_, err := up(api.Settings{Nodes: 3})
	wantClass(t, err, api.ClassFailedPrecondition, "there are 2")
	_, err = up(api.Settings{Ports: map[string]uint16{"wep": 81}})
	wantClass(t, err, api.ClassInvalidArgument, "the services are web")
	if s := kept(); s.Nodes != 0 || s.Ports != nil {
		t.Errorf("kept %+v", s)
	}
	ref, err := up(api.Settings{Nodes: 2})
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	_, err = up(api.Settings{Ports: map[string]uint16{"web": 81}})
	wantClass(t, err, api.ClassConflict, "change 1 (up) is under way, begun 0s ago, at a: slow")
	if again, err := up(api.Settings{}); err != nil || !again.Joined || again.ID != ref.ID {
		t.Errorf("%+v, %v", again, err)
	}
	close(release)
	d.follow(ref.ID)
	if s := kept(); s.Nodes != 2 || s.Ports != nil {
		t.Errorf("kept %+v", s)
	}
}
