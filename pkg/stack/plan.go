package stack

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/undo"
)

// Plan is what a change will do: known before it begins, so that it can be
// shown, and compared with another.
type Plan struct {
	// Images are where its images may come from; may be nil.
	Images *Sources

	nodes []node
	// succeeded is told of each stage whose steps have all succeeded; may be
	// nil. Its error is the stage's.
	succeeded func(stage string) error
}

// node is one stage of a plan; after are the stages to wait for, if planned. One
// that is last waits for all others, and does not need their success; all others
// wait for one that is first, and need its.
type node struct {
	stage string
	after []string
	steps []Step
	first bool
	last  bool
}

// lastTimeout bounds what is done at the end of a plan that was interrupted.
const lastTimeout = 2 * time.Minute

// Add plans steps under a name of their own, to be begun when those of the
// names in after, as far as they are planned, have succeeded.
func (p *Plan) Add(stage string, after []string, steps ...Step) {
	p.nodes = append(p.nodes, node{stage: stage, after: after, steps: steps})
}

// AddFirst plans steps without which nothing else is begun.
func (p *Plan) AddFirst(stage string, steps ...Step) {
	p.nodes = slices.Insert(p.nodes, 0, node{stage: stage, steps: steps, first: true})
}

// AddLast plans steps for the time when all others have ended, however they
// did: also when the plan is interrupted, which they do not notice.
func (p *Plan) AddLast(stage string, steps ...Step) {
	p.nodes = append(p.nodes, node{stage: stage, steps: steps, last: true})
}

// Succeeded has do called when a stage is where it was to get, before those
// that wait for it begin. Stages may call it at the same time.
func (p *Plan) Succeeded(do func(stage string) error) { p.succeeded = do }

// Skip is the error of a step that this machine gives no occasion for. It does
// not count as a failure, but what needs the step is skipped as well.
type Skip struct{ Reason string }

func (s *Skip) Error() string { return s.Reason }

// Tasks lists the plan's steps as pending tasks, in order.
func (p *Plan) Tasks() []api.Task {
	var tasks []api.Task
	for _, n := range p.nodes {
		for _, s := range n.steps {
			tasks = append(tasks, api.Task{Stage: n.stage, Name: s.Name, Status: api.Pending})
		}
	}
	return tasks
}

// Run performs the plan. A stage begins when all that it waits for have
// succeeded; stages that do not wait for each other run side by side, and one
// that fails takes down only those that wait for it. When ctx ends, each step
// under way is aborted and undone, and no other begins.
//
// update is told of every task that has changed. It may be called from several
// goroutines, but for one task only from one at a time.
func (p *Plan) Run(ctx context.Context, update func(api.Task)) error {
	type result struct {
		done chan struct{} // closed when the others are final
		ok   bool
		why  string // not ok
		err  error
	}
	results := map[string]*result{}
	for _, n := range p.nodes {
		results[n.stage] = &result{done: make(chan struct{})}
	}
	ctx = WithSources(ctx, p.Images)
	var first []string
	for _, n := range p.nodes {
		if n.first {
			first = append(first, n.stage)
		}
	}
	var wg sync.WaitGroup
	for _, n := range p.nodes {
		if !n.first && !n.last {
			n.after = slices.Concat(first, n.after)
		}
		r := results[n.stage]
		wg.Go(func() {
			defer close(r.done)
			ctx := ctx
			if n.last {
				for _, other := range p.nodes {
					if !other.last {
						<-results[other.stage].done
					}
				}
				late, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTimeout)
				defer cancel()
				ctx = late
			}
			for _, name := range n.after {
				need := results[name]
				if need == nil {
					continue // not in this plan
				}
				<-need.done
				if !need.ok {
					n.skip(update, 0, need.why)
					r.why = need.why
					return
				}
			}
			r.err = n.run(ctx, update)
			if r.err == nil && p.succeeded != nil {
				r.err = p.succeeded(n.stage)
			}
			var skip *Skip
			switch {
			case r.err == nil:
				r.ok = true
			case errors.As(r.err, &skip):
				r.why, r.err = skip.Reason, nil
			default:
				r.why = "stage " + n.stage + " did not get there"
			}
		})
	}
	wg.Wait()
	var errs []error
	for _, n := range p.nodes {
		if err := results[n.stage].err; err != nil {
			errs = append(errs, fmt.Errorf("stage %s: %w", n.stage, err))
		}
	}
	return errors.Join(errs...)
}

// skip marks the steps from index from on.
func (n node) skip(update func(api.Task), from int, why string) {
	for _, s := range n.steps[from:] {
		update(api.Task{Stage: n.stage, Name: s.Name, Status: api.Skipped, Note: why})
	}
}

// run performs the steps of one stage, in order, up to the first that fails.
func (n node) run(ctx context.Context, update func(api.Task)) error {
	for i, s := range n.steps {
		if err := ctx.Err(); err != nil {
			n.skip(update, i, "aborted before it began")
			return context.Cause(ctx)
		}
		if err := s.run(ctx, n.stage, update); err != nil {
			why := s.Name + " did not succeed"
			if skip := (*Skip)(nil); errors.As(err, &skip) {
				why = skip.Reason
			}
			n.skip(update, i+1, why)
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return nil
}

func (s Step) run(ctx context.Context, stage string, update func(api.Task)) error {
	task := api.Task{Stage: stage, Name: s.Name, Status: api.Doing}
	start := time.Now()
	update(task)
	// A step may report from goroutines of its own.
	var mu sync.Mutex
	err := s.do(ctx, Progress{func(change func(*api.Task)) {
		mu.Lock()
		defer mu.Unlock()
		if task.Status == api.Doing {
			change(&task)
			update(task)
		}
	}})
	var undone error
	if err != nil && s.Undo != nil {
		undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undo.Timeout)
		undone = s.Undo(undoCtx)
		cancel()
	}
	mu.Lock()
	defer mu.Unlock()
	task.Took = time.Since(start)
	var skip *Skip
	switch {
	case err == nil:
		task.Status = api.Done
	case errors.As(err, &skip) && undone == nil:
		task.Status, task.Note = api.Skipped, skip.Reason
	case ctx.Err() != nil:
		// What the step makes of its cancelled context is of no interest,
		// the reason for the cancellation is.
		task.Status, task.Error = api.Aborted, context.Cause(ctx).Error()
		err = context.Cause(ctx)
	default:
		task.Status, task.Error = api.Failed, err.Error()
	}
	if undone != nil {
		err = errors.Join(err, fmt.Errorf("undo %s: %w", s.Name, undone))
		task.Error = err.Error()
	}
	update(task)
	return err
}

// PanicError is the failure of a step that panicked. Its text has no stack:
// that is for the log.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// do calls Do so that its panic ends the step, not the daemon.
func (s Step) do(ctx context.Context, p Progress) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{v, debug.Stack()}
		}
	}()
	return s.Do(ctx, p)
}
