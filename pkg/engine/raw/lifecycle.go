package raw

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Start lets the user's program run in a created container.
func (e *Engine) Start(ctx context.Context, ref string, trace *explain.Tracer) error {
	c, err := e.lookup(ref)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.require("start", api.StatusCreated); err != nil {
		return err
	}
	rep, err := c.call(ctx, protocol.Request{Op: protocol.OpStart}, e.observer(c, trace))
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.name(), err)
	}
	e.Log.Info("container started", zap.String("id", c.id()), zap.String("name", c.name()), zap.Int("pid", rep.PID))
	return c.update(func(r *record) {
		r.Started = rep.Started
		if r.Exit == nil { // it may have been quick
			r.Status = api.StatusRunning
		}
	})
}

// require refuses an operation on a container in any other state.
func (c *container) require(op string, states ...string) error {
	status := c.status()
	for _, s := range states {
		if s == status {
			return nil
		}
	}
	return fmt.Errorf("%s container %s: it is %s: %w", op, c.name(), status, errdefs.ErrFailedPrecondition)
}

// dial connects to the container's shim.
func (c *container) dial(ctx context.Context) (*protocol.Conn, error) {
	if c.hasExited() {
		return nil, errExited
	}
	conn, err := protocol.Dial(ctx, c.files.ShimSocket())
	if err != nil {
		return nil, c.orExited(ctx, err)
	}
	return conn, nil
}

// call has the shim perform one operation.
func (c *container) call(ctx context.Context, req protocol.Request, obs protocol.Observer) (protocol.Reply, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return protocol.Reply{}, err
	}
	defer conn.Close()
	rep, err := conn.Call(ctx, req, obs)
	if err != nil {
		return rep, c.orExited(ctx, err)
	}
	return rep, nil
}

var errExited = fmt.Errorf("it has exited: %w", errdefs.ErrFailedPrecondition)

// orExited tells a shim that has ended with its container, as it should, from
// one that should be there. Whoever watches the shim knows in a moment.
func (c *container) orExited(ctx context.Context, err error) error {
	if !errors.Is(err, errdefs.ErrUnavailable) {
		return err
	}
	select {
	case <-c.exited:
		return errExited
	case <-ctx.Done():
	case <-time.After(killGrace):
	}
	return err
}

// observer collects what a shim tells while it works: warnings for the
// container's record, events for the tracer.
func (e *Engine) observer(c *container, trace *explain.Tracer) protocol.Observer {
	obs := protocol.Observer{Warning: c.warn}
	if trace.Enabled() {
		flags := c.snapshot().Spec.Flags
		obs.Event = func(ev explain.Event) {
			ev.Flag = flagOf(flags, ev.Source)
			trace.Emit(ev)
		}
	}
	return obs
}

// warn adds to the container's warnings, each once.
func (c *container) warn(warning string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.rec.Warnings {
		if w == warning {
			return
		}
	}
	c.rec.Warnings = append(c.rec.Warnings, warning)
}

// Stop asks the container to end, and kills it when grace is over.
func (e *Engine) Stop(ctx context.Context, ref string, grace time.Duration) error {
	c, err := e.lookup(ref)
	if err != nil {
		return err
	}
	switch c.status() {
	case api.StatusExited:
		return nil
	case api.StatusCreating, api.StatusCreated:
		return c.require("stop", api.StatusRunning, api.StatusPaused)
	}
	sig, err := parseSignal(c.rec.StopSignal)
	if err != nil {
		sig = unix.SIGTERM
	}
	if err := c.signal(ctx, sig); err != nil {
		return err
	}
	if c.status() == api.StatusPaused { // a frozen process handles no signal
		if err := e.Unpause(ctx, c.id()); err != nil && !errors.Is(err, errdefs.ErrFailedPrecondition) {
			return err
		}
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	return c.kill(ctx)
}

// Kill sends a signal to the container's first process.
func (e *Engine) Kill(ctx context.Context, ref, signal string) error {
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	c, err := e.lookup(ref)
	if err != nil {
		return err
	}
	if err := c.require("kill", api.StatusRunning, api.StatusPaused); err != nil {
		return err
	}
	return c.signal(ctx, sig)
}

// signal sends sig to the first process. One that has just ended is fine.
func (c *container) signal(ctx context.Context, sig unix.Signal) error {
	_, err := c.call(ctx, protocol.Request{Op: protocol.OpKill, Signal: int(sig)}, protocol.Observer{})
	if errors.Is(err, errdefs.ErrFailedPrecondition) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("send %s to container %s: %w", unix.SignalName(sig), c.name(), err)
	}
	return nil
}

// kill kills the container and waits for its end.
func (c *container) kill(ctx context.Context) error {
	if err := c.signal(ctx, unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(killGrace):
		return fmt.Errorf("container %s does not end %s after SIGKILL: %w", c.name(), killGrace, errdefs.ErrUnavailable)
	}
}

// Pause freezes all processes of the container (cgroup.freeze).
func (e *Engine) Pause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, "pause", protocol.OpPause, api.StatusRunning, api.StatusPaused)
}

// Unpause lets them go on.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, "unpause", protocol.OpResume, api.StatusPaused, api.StatusRunning)
}

func (e *Engine) freeze(ctx context.Context, ref, verb, op, from, to string) error {
	c, err := e.lookup(ref)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.require(verb, from); err != nil {
		return err
	}
	if _, err := c.call(ctx, protocol.Request{Op: op}, protocol.Observer{}); err != nil {
		return fmt.Errorf("%s container %s: %w", verb, c.name(), err)
	}
	return c.update(func(r *record) {
		if r.Exit == nil {
			r.Status = to
		}
	})
}

// Remove deletes a container that is not running; force kills it first.
func (e *Engine) Remove(ctx context.Context, ref string, force bool) error {
	c, err := e.lookup(ref)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	return e.remove(ctx, c, force)
}

// remove is Remove with c.op held.
func (e *Engine) remove(ctx context.Context, c *container, force bool) error {
	select {
	case <-c.removed:
		return fmt.Errorf("no container %q: %w", c.name(), errdefs.ErrNotFound)
	default:
	}
	if !c.hasExited() {
		status := c.status()
		if !force && status != api.StatusCreated {
			return fmt.Errorf("remove container %s: it is %s; stop it first, or use force: %w", c.name(), status, errdefs.ErrFailedPrecondition)
		}
		if err := c.kill(ctx); err != nil {
			return err
		}
	}
	select {
	case <-c.idle:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := removeFiles(c.files); err != nil {
		return err
	}
	e.forget(c)
	e.Log.Info("container removed", zap.String("id", c.id()), zap.String("name", c.name()))
	return nil
}

// removeFiles deletes a container's files. The intent goes first: should this
// be cut off, the sweep takes the rest for what it is.
func removeFiles(files state.Files) error {
	if err := os.Remove(files.Intent()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(os.RemoveAll(files.Run), os.RemoveAll(files.Dir))
}
