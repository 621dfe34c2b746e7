package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

// abortTimeout bounds the wait for a change to undo its step.
const abortTimeout = 30 * time.Second

// follow shows a change until it has ended. When ctx ends first, by Ctrl-C, the
// change is aborted, unless another client has begun it and still follows it.
func (p *program) follow(ctx context.Context, ref api.ChangeRef) (api.Change, error) {
	progress := ui.NewProgress(p.Term)
	defer progress.Close()
	if ref.Joined {
		fmt.Fprintf(p.Term.Stderr(), "change %s does this already, and goes on:\n", ref.ID)
	}
	// It is followed to its end also when it is aborted.
	following, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	updates := make(chan api.Change)
	type result struct {
		change api.Change
		err    error
	}
	ended := make(chan result, 1)
	go func() {
		change, err := p.client().FollowChange(following, ref.ID, func(c api.Change) {
			select {
			case updates <- c:
			case <-following.Done():
			}
		})
		ended <- result{change, err}
	}()
	frame := time.NewTicker(100 * time.Millisecond)
	defer frame.Stop()
	var last api.Change
	interrupted, aborted := ctx.Done(), make(chan error, 1)
	for {
		select {
		case last = <-updates:
			progress.Update(changeSteps(last))
		case <-frame.C:
			if p.Term.Live() {
				progress.Update(changeSteps(last))
			}
		case r := <-ended:
			progress.Update(changeSteps(r.change))
			return r.change, r.err
		case <-interrupted:
			interrupted = nil
			go func() { aborted <- p.abort(ref) }()
		case err := <-aborted:
			if e, ok := errors.AsType[*api.Error](err); ok && e.Class == api.ClassConflict {
				fmt.Fprintln(p.Term.Stderr(), "stopped watching; another client is watching, and it goes on")
				return last, ctx.Err()
			} else if ok && e.Class == api.ClassFailedPrecondition {
				continue // it has just ended
			}
			if err != nil {
				return last, &exitError{code: exitInterrupted, err: fmt.Errorf("undo %s: %w", last.Kind, err), hint: "sudo sandbox up repairs what is half made"}
			}
		}
	}
}

// abort takes a change back, on a context that the interrupt has not ended.
func (p *program) abort(ref api.ChangeRef) error {
	fmt.Fprintln(p.Term.Stderr(), "interrupted: undoing the step under way …")
	ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
	defer cancel()
	_, err := p.client().AbortChange(ctx, ref.ID, ref.Joined)
	return err
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
		if told, ok := errors.AsType[*exitError](err); ok {
			return told
		}
		return &exitError{code: exitInterrupted}
	case err != nil:
		if daemonLost(err) {
			return &exitError{code: exitFailure, err: fmt.Errorf("the daemon went away while %s was under way", c.Kind), hint: "it resumes when the daemon is back: sudo sandbox up"}
		}
		return err
	case c.Status == api.Aborted:
		return &exitError{code: exitInterrupted, err: fmt.Errorf("%s was aborted", c.Kind), hint: "sudo sandbox up repairs what is half made"}
	case c.Status == api.Failed && c.Error != nil:
		return notReadyFor(c.Error)
	case c.Status == api.Failed:
		return fmt.Errorf("%s failed", c.Kind)
	}
	return nil
}

// notReadyFor gives an error about the state of the host the exit code for that:
// what is missing, or what others have made that is in the way.
func notReadyFor(err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok && (e.Class == api.ClassFailedPrecondition || e.Class == api.ClassAlreadyExists) {
		return &exitError{code: exitNotReady, err: e, hint: e.Hint}
	}
	return err
}
