package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

// abortTimeout bounds the wait for a change to undo its step.
const abortTimeout = 30 * time.Second

// follow shows a change until it has ended. When ctx ends first, by Ctrl-C, the
// change is aborted, unless it is another client's.
func (p *program) follow(ctx context.Context, ref api.ChangeRef) (api.Change, error) {
	progress := ui.NewProgress(p.Term)
	defer progress.Close()
	updates := make(chan api.Change)
	type result struct {
		change api.Change
		err    error
	}
	ended := make(chan result, 1)
	done := make(chan struct{})
	defer close(done)
	go func() {
		change, err := p.client().FollowChange(ctx, ref.ID, func(c api.Change) {
			select {
			case updates <- c:
			case <-done:
			}
		})
		ended <- result{change, err}
	}()
	frame := time.NewTicker(100 * time.Millisecond)
	defer frame.Stop()
	var steps []ui.Step
	for {
		select {
		case c := <-updates:
			steps = changeSteps(c)
			progress.Update(steps)
		case <-frame.C:
			if p.Term.Live() {
				progress.Update(steps)
			}
		case r := <-ended:
			if ctx.Err() == nil || r.err == nil {
				return r.change, r.err
			}
			progress.Close()
			if ref.Joined {
				fmt.Fprintln(p.Term.Stderr(), "stopped watching; what another client has begun goes on")
				return r.change, ctx.Err()
			}
			return p.abort(ref.ID, progress)
		}
	}
}

// abort takes a change back, on a context that the interrupt has not ended.
func (p *program) abort(id string, progress *ui.Progress) (api.Change, error) {
	fmt.Fprintln(p.Term.Stderr(), "interrupted: undoing the step under way …")
	ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
	defer cancel()
	change, err := p.client().AbortChange(ctx, id)
	if err == nil {
		progress.Update(changeSteps(change))
	}
	return change, err
}

func changeSteps(c api.Change) []ui.Step {
	states := map[string]ui.StepState{
		api.Pending: ui.StepPending, api.Doing: ui.StepActive, api.Done: ui.StepDone,
		api.Failed: ui.StepFailed, api.Aborted: ui.StepAborted, api.Skipped: ui.StepSkipped,
	}
	steps := make([]ui.Step, len(c.Tasks))
	for i, t := range c.Tasks {
		steps[i] = ui.Step{Group: t.Stage, Name: t.Name, State: states[t.Status], Note: t.Note, Error: t.Error, Done: t.Done, Total: t.Total, Took: t.Took}
	}
	return steps
}

// changeEnded is the outcome of a change as an error.
func (p *program) changeEnded(ctx context.Context, c api.Change, err error) error {
	switch {
	case err != nil && ctx.Err() != nil:
		return &exitError{code: exitInterrupted}
	case err != nil:
		if daemonLost(err) {
			return &exitError{code: exitFailure, err: fmt.Errorf("the daemon went away while %s was under way", c.Kind), hint: "it resumes when the daemon is back: sudo sandbox up"}
		}
		return err
	case c.Status == api.Aborted:
		return &exitError{code: exitInterrupted, err: fmt.Errorf("%s was aborted", c.Kind), hint: "sudo sandbox up repairs what is half made"}
	case c.Status == api.Failed && c.Error != nil:
		if c.Error.Class == api.ClassFailedPrecondition {
			return &exitError{code: exitNotReady, err: c.Error, hint: c.Error.Hint}
		}
		return c.Error
	case c.Status == api.Failed:
		return fmt.Errorf("%s failed", c.Kind)
	}
	return nil
}
