package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
)

var errPurging = errors.New("a purge is under way")

// gate is what requests that work on images pass, so that a purge, which takes
// away all that they have made, can end them first.
type gate struct {
	mu     sync.Mutex
	shut   bool
	inside map[*visit]struct{}
}

// visit is one request inside.
type visit struct {
	cancel context.CancelCauseFunc
	left   chan struct{}
}

func newGate() *gate { return &gate{inside: map[*visit]struct{}{}} }

// enter returns a context that ends with the request, or with a purge; leave
// must be called when nothing of the work is left.
func (g *gate) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return nil, nil, fmt.Errorf("%w: %w", errPurging, errdefs.ErrUnavailable)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	v := &visit{cancel, make(chan struct{})}
	g.inside[v] = struct{}{}
	return ctx, func() {
		cancel(nil)
		g.mu.Lock()
		delete(g.inside, v)
		g.mu.Unlock()
		close(v.left)
	}, nil
}

// close lets nobody in any more, ends what is inside, and waits for that.
func (g *gate) close(ctx context.Context) error {
	g.mu.Lock()
	g.shut = true
	var inside []*visit
	for v := range g.inside {
		v.cancel(errPurging)
		inside = append(inside, v)
	}
	g.mu.Unlock()
	for _, v := range inside {
		select {
		case <-v.left:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d builds and pulls to end: %w", len(inside), context.Cause(ctx))
		}
	}
	return nil
}

// open lets requests in again, after a purge that has failed.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
}
