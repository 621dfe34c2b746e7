package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// testStage is a stage made of functions.
type testStage struct {
	name     string
	needs    []string
	up, down []stack.Step
}

func (s *testStage) Name() string                      { return s.name }
func (s *testStage) Needs() []string                   { return s.needs }
func (s *testStage) Up(api.UpOptions) []stack.Step     { return s.up }
func (s *testStage) Down(api.DownOptions) []stack.Step { return s.down }
func (s *testStage) Status(context.Context) ([]api.StatusItem, error) {
	return []api.StatusItem{{What: s.name, State: stack.StateUp}}, nil
}

// quick is a step that only notes that it ran.
func quick(name string) stack.Step {
	return stack.Step{Name: name, Do: func(_ context.Context, p stack.Progress) error {
		p.Note("ran")
		return nil
	}}
}

// withStages configures a daemon's stack.
func withStages(t *testing.T, stages ...stack.Stage) func(*Config) {
	return func(c *Config) {
		g, err := stack.New(stages...)
		if err != nil {
			t.Fatal(err)
		}
		c.Stack = g
	}
}

// statuses is "name:status" of every task.
func statuses(c api.Change) string {
	var out []string
	for _, t := range c.Tasks {
		out = append(out, t.Name+":"+t.Status)
	}
	return strings.Join(out, " ")
}

func (d *daemonTest) follow(id string) api.Change {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 20*time.Second)
	defer cancel()
	c, err := d.FollowChange(ctx, id, nil)
	if err != nil {
		d.t.Fatalf("follow %s: %v\n%s", id, err, stacks())
	}
	return c
}

func TestUpDown(t *testing.T) {
	d := start(t, withStages(t, &testStage{
		name: "internals",
		up: []stack.Step{quick("one"), {Name: "two", Do: func(_ context.Context, p stack.Progress) error {
			for i := range int64(1000) {
				p.Bytes(i+1, 1000)
			}
			p.Note("built")
			return nil
		}}},
		down: []stack.Step{quick("off")},
	}))
	ref, err := d.Up(t.Context(), api.UpOptions{})
	if err != nil || ref.ID != "1" || ref.Joined {
		t.Fatalf("%+v, %v", ref, err)
	}
	c := d.follow(ref.ID)
	if c.Status != api.Done || c.Error != nil || c.Ready.IsZero() || statuses(c) != "one:done two:done" {
		t.Errorf("%+v", c)
	}
	if two := c.Tasks[1]; two.Note != "built" || two.Done != 1000 || two.Total != 1000 {
		t.Errorf("%+v", two)
	}
	if ref, err = d.Down(t.Context(), api.DownOptions{}); err != nil || ref.ID != "2" {
		t.Fatalf("%+v, %v", ref, err)
	}
	if c := d.follow(ref.ID); statuses(c) != "off:done" {
		t.Errorf("%+v", c)
	}
	if all, err := d.Changes(t.Context()); err != nil || len(all) != 2 || all[0].ID != "1" {
		t.Errorf("%+v, %v", all, err)
	}
	_, err = d.Up(t.Context(), api.UpOptions{Only: []string{"moon"}})
	wantClass(t, err, api.ClassInvalidArgument, "the stages are internals")
	_, err = d.FollowChange(t.Context(), "99", nil)
	wantClass(t, err, api.ClassNotFound, "99")
	_, err = d.AbortChange(t.Context(), "1", false)
	wantClass(t, err, api.ClassFailedPrecondition, "ended already")
}

func TestFailureAndPanic(t *testing.T) {
	var undone atomic.Int32
	undo := func(context.Context) error { undone.Add(1); return nil }
	fail := true
	d := start(t, withStages(t,
		&testStage{name: "a", up: []stack.Step{
			quick("one"),
			{Name: "two", Undo: undo, Do: func(context.Context, stack.Progress) error {
				if fail {
					return errors.New("the disk is on fire")
				}
				panic("oh")
			}},
			quick("three"),
		}},
		&testStage{name: "b", needs: []string{"a"}, up: []stack.Step{quick("four")}},
		&testStage{name: "c", up: []stack.Step{quick("five")}},
	))
	for _, text := range []string{"stage a: two: the disk is on fire", "stage a: two: panic: oh"} {
		ref, err := d.Up(t.Context(), api.UpOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c := d.follow(ref.ID)
		if c.Status != api.Failed || c.Error == nil || c.Error.Message != text {
			t.Errorf("%+v %+v", c, c.Error)
		}
		if s := statuses(c); s != "one:done two:failed three:skipped four:skipped five:done" {
			t.Error(s)
		}
		fail = false
	}
	if undone.Load() != 2 {
		t.Errorf("undone %d times", undone.Load())
	}
}

// TestConcurrentUp: of ups at the same time one runs and the others join it;
// what would do something else is refused.
func TestConcurrentUp(t *testing.T) {
	release := make(chan struct{})
	var runs atomic.Int32
	d := start(t, withStages(t, &testStage{name: "a", up: []stack.Step{{Name: "slow", Do: func(ctx context.Context, _ stack.Progress) error {
		runs.Add(1)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}}}, down: []stack.Step{quick("off")}}))
	var wg sync.WaitGroup
	var began, joined atomic.Int32
	for range 10 {
		wg.Go(func() {
			ref, err := d.Up(t.Context(), api.UpOptions{})
			if err != nil || ref.ID != "1" {
				t.Errorf("%+v, %v", ref, err)
				return
			}
			if ref.Joined {
				joined.Add(1)
			} else {
				began.Add(1)
			}
			if c := d.follow(ref.ID); c.Status != api.Done {
				t.Errorf("%+v", c)
			}
		})
	}
	eventually(t, "all have asked", func() bool { return began.Load()+joined.Load() == 10 })
	_, err := d.Down(t.Context(), api.DownOptions{})
	wantClass(t, err, api.ClassConflict, "change 1 (up) is under way")
	if st, err := d.Status(t.Context()); err != nil || st.Change != "1" {
		t.Errorf("%+v, %v", st, err)
	}
	close(release)
	wg.Wait()
	if began.Load() != 1 || runs.Load() != 1 {
		t.Errorf("%d began, %d ran", began.Load(), runs.Load())
	}
}

func TestAbort(t *testing.T) {
	begun, undone := make(chan struct{}), make(chan error, 2)
	d := start(t, withStages(t,
		&testStage{name: "a", up: []stack.Step{
			{Name: "finished", Do: quick("").Do, Undo: func(context.Context) error {
				undone <- errors.New("a finished step was undone")
				return nil
			}},
			{Name: "slow", Do: func(ctx context.Context, _ stack.Progress) error {
				close(begun)
				<-ctx.Done()
				return fmt.Errorf("pull: %w", ctx.Err())
			}, Undo: func(ctx context.Context) error {
				undone <- ctx.Err() // its context must be alive
				return nil
			}},
			quick("never"),
		}},
	))
	ref, err := d.Up(t.Context(), api.UpOptions{})
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	c, err := d.AbortChange(t.Context(), ref.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	if c.Status != api.Aborted || c.Error == nil || c.Error.Class != api.ClassCanceled ||
		statuses(c) != "finished:done slow:aborted never:skipped" {
		t.Errorf("%+v %+v", c, c.Error)
	}
	if err := <-undone; err != nil {
		t.Error(err)
	}
	if len(undone) != 0 {
		t.Error(<-undone)
	}
	// The way is free for the next.
	if ref, err = d.Down(t.Context(), api.DownOptions{}); err != nil || ref.Joined {
		t.Fatalf("%+v, %v", ref, err)
	}
	d.follow(ref.ID)
}

// TestStopInChange: a daemon that is stopped leaves its change to the next.
func TestStopInChange(t *testing.T) {
	begun := make(chan struct{}, 2)
	var runs atomic.Int32
	d := start(t, withStages(t, &testStage{name: "a", up: []stack.Step{
		quick("one"),
		{Name: "slow", Do: func(ctx context.Context, _ stack.Progress) error {
			begun <- struct{}{}
			if runs.Add(1) == 1 {
				<-ctx.Done()
			}
			return ctx.Err()
		}},
	}}))
	ref, err := d.Up(t.Context(), api.UpOptions{})
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	followed := make(chan error, 1)
	go func() { _, err := d.FollowChange(context.Background(), ref.ID, nil); followed <- err }()
	time.Sleep(50 * time.Millisecond)
	d.end()
	if err := <-followed; err == nil || !strings.Contains(err.Error(), "went away") {
		t.Errorf("the follower of a stopped daemon: %v", err)
	}
	d.run()
	if c := d.follow(ref.ID); c.Status != api.Done || statuses(c) != "one:done slow:done" {
		t.Errorf("%+v", c)
	}
}

func TestPurgeEndsDaemon(t *testing.T) {
	var dirs state.Dirs
	d := start(t, withStages(t, &testStage{name: "a", down: []stack.Step{
		{Name: "purge", Do: func(context.Context, stack.Progress) error { return os.RemoveAll(dirs.Root) }},
	}}))
	dirs = d.dirs
	ref, err := d.Down(t.Context(), api.DownOptions{Purge: true})
	if err != nil {
		t.Fatal(err)
	}
	if c := d.follow(ref.ID); c.Status != api.Done {
		t.Errorf("%+v", c)
	}
	select {
	case err := <-d.ended:
		if err != nil {
			t.Error(err)
		}
		d.ended <- nil
	case <-time.After(5 * time.Second):
		t.Fatal("the daemon lives on")
	}
	for _, dir := range []string{dirs.Root, dirs.Run} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestPrune(t *testing.T) {
	d := start(t, withStages(t, &testStage{name: "a", up: []stack.Step{quick("one")}}))
	for range 25 {
		ref, err := d.Up(t.Context(), api.UpOptions{})
		if err != nil {
			t.Fatal(err)
		}
		d.follow(ref.ID)
	}
	all, err := d.Changes(t.Context())
	if err != nil || len(all) != 20 || all[0].ID != "6" || all[19].ID != "25" {
		t.Errorf("%d changes, %v", len(all), err)
	}
	eventually(t, "files are pruned as well", func() bool {
		files, err := filepath.Glob(d.dirs.Change("*"))
		return err == nil && len(files) == 20
	})
	d.end()
	d.run()
	if ref, err := d.Up(t.Context(), api.UpOptions{}); err != nil || ref.ID != "26" {
		t.Errorf("the next after a restart: %+v, %v", ref, err)
	}
}
