package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"go.uber.org/zap"
)

// remembered is how many containers that removed themselves keep their exit,
// for a client that asks for it late.
const remembered = 256

// keeper watches every running container to its end: it publishes the exit and
// removes the container if it was created with AutoRemove. A daemon that is
// started while containers run takes them up again.
type keeper struct {
	engine engine.Engine
	events *events
	exited func(api.Container, api.Exit) // may be nil
	log    *zap.Logger
	alive  context.Context //nolint:containedctx // the daemon's, which its watches last as long as
	work   *sync.WaitGroup

	mu sync.Mutex
	// watches has a channel per container ID, from before the start until the
	// exit is published and any removal is done; then it is closed.
	watches map[string]chan struct{}
	gone    []departed // oldest first
}

// departed is what is left of a container that removed itself.
type departed struct {
	id, name string
	exit     api.Exit
}

func newKeeper(d *Daemon) *keeper {
	return &keeper{
		engine: d.Engine, events: d.events, exited: d.Exited, log: d.Log.Named("keeper"),
		alive: d.alive, work: &d.work,
		watches: map[string]chan struct{}{},
	}
}

// recover takes up the containers that an earlier daemon has left.
func (k *keeper) recover(ctx context.Context) error {
	all, err := k.engine.List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, c := range all {
		runs := c.Status == api.StatusRunning || c.Status == api.StatusPaused
		if runs || c.Status == api.StatusExited && c.Spec.AutoRemove {
			if ended := k.claim(c.ID); ended != nil {
				k.watch(c, ended)
			}
		}
	}
	return nil
}

// claim opens the watch of a container, or returns nil if there is one.
func (k *keeper) claim(id string) chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.watches[id] != nil {
		return nil
	}
	k.watches[id] = make(chan struct{})
	return k.watches[id]
}

// release closes the watch.
func (k *keeper) release(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.watches[id])
	delete(k.watches, id)
}

// settled waits until the container, which has exited, has no watch.
func (k *keeper) settled(ctx context.Context, id string) error {
	k.mu.Lock()
	ended := k.watches[id]
	k.mu.Unlock()
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// start calls begin, which starts the container c, and watches c from then on.
// The watch is claimed before, so that whoever sees the exit also sees that a
// removal is to come.
func (k *keeper) start(ctx context.Context, c api.Container, begin func() error) error {
	switch c.Status {
	case api.StatusRunning, api.StatusPaused:
		return begin() // the engine says why not
	case api.StatusExited:
		if err := k.settled(ctx, c.ID); err != nil {
			return err
		}
	}
	ended := k.claim(c.ID)
	if ended == nil {
		return fmt.Errorf("container %s is being started by another request: %w", c.Name, errdefs.ErrConflict)
	}
	if err := begin(); err != nil {
		k.release(c.ID)
		return err
	}
	k.events.publish(api.EventStart, c)
	k.watch(c, ended)
	return nil
}

// watch waits for the container's end in the background.
func (k *keeper) watch(c api.Container, ended chan struct{}) {
	k.work.Go(func() {
		exit, err := k.engine.Wait(k.alive, c.ID)
		if k.alive.Err() != nil {
			return // the container runs on, and the next daemon watches it
		}
		defer k.release(c.ID)
		if err != nil {
			// Removed by force, and perhaps before its exit was to be had.
			if !errdefs.IsNotFound(err) {
				k.log.Error("the end of a container is not seen", zap.String("container", c.ID), zap.Error(err))
			}
			return
		}
		if k.exited != nil {
			k.exited(c, exit)
		}
		k.events.publish(api.EventExit, c, func(e *api.Event) { e.Exit = &exit })
		k.log.Info("container exited", zap.String("container", c.ID), zap.Int("code", exit.Code), zap.Bool("oom", exit.OOMKilled))
		if c.Spec.AutoRemove {
			k.remove(c, exit)
		}
	})
}

// remove takes away a container with AutoRemove that has exited.
func (k *keeper) remove(c api.Container, exit api.Exit) {
	// Before the removal, so that its exit is to be had at any moment.
	k.mu.Lock()
	k.gone = append(k.gone, departed{c.ID, c.Name, exit})
	if len(k.gone) > remembered {
		k.gone = slices.Delete(k.gone, 0, len(k.gone)-remembered)
	}
	k.mu.Unlock()
	switch err := k.engine.Remove(k.alive, c.ID, false); {
	case err == nil:
		k.events.publish(api.EventRemove, c)
	case errdefs.IsNotFound(err): // somebody was quicker
	default:
		k.log.Error("container is not removed", zap.String("container", c.ID), zap.Error(err))
	}
}

// removeNow takes away a container for a client. The exit of one that has run
// is published before, so that a listener sees the end of it in order.
func (k *keeper) removeNow(ctx context.Context, c api.Container, force bool) error {
	if c.Status == api.StatusExited {
		if err := k.settled(ctx, c.ID); err != nil {
			return err
		}
	}
	err := k.engine.Remove(ctx, c.ID, force)
	if errdefs.IsNotFound(err) && c.Spec.AutoRemove {
		err = nil // it has just removed itself
	}
	if err != nil {
		return err
	}
	return k.settled(ctx, c.ID)
}

// recall finds the exit of a container that has removed itself, by its ID or
// name; of several with one name, the last.
func (k *keeper) recall(ref string) (api.Exit, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, g := range slices.Backward(k.gone) {
		if g.id == ref || g.name == ref {
			return g.exit, true
		}
	}
	return api.Exit{}, false
}

// wait returns how the container ended; for one with AutoRemove, when it is
// gone.
func (k *keeper) wait(ctx context.Context, ref string) (api.Exit, error) {
	c, err := k.engine.Inspect(ctx, ref)
	var exit api.Exit
	if err == nil {
		ref = c.ID
		exit, err = k.engine.Wait(ctx, c.ID)
	}
	if errdefs.IsNotFound(err) {
		if known, ok := k.recall(ref); ok {
			exit, err = known, nil
		}
	}
	if err != nil || c.ID == "" || !c.Spec.AutoRemove {
		return exit, err
	}
	return exit, k.settled(ctx, c.ID)
}
