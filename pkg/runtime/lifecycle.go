package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// State returns what the runtime-spec's state operation does.
func (r *Runtime) State(id string) (*specs.State, error) {
	c, err := r.open(id)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.state(c.status()), nil
}

// Spec returns the container's configuration as it was at create.
func (r *Runtime) Spec(id string) (*specs.Spec, error) {
	c, err := r.open(id)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.spec()
}

// Listed is what is told of a container: specs.State and more, in the form that
// callers of runc parse. PID is 0 for a stopped container.
type Listed struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	PID         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

func (c *container) listed() Listed {
	s := c.state(c.status())
	return Listed{
		Version: s.Version, ID: c.ID, PID: s.Pid, Status: s.Status, Bundle: c.Bundle,
		Rootfs: c.Rootfs, Created: c.Created, Annotations: c.Annotations, Owner: "root",
	}
}

// Listed tells of one container.
func (r *Runtime) Listed(id string) (Listed, error) {
	c, err := r.open(id)
	if err != nil {
		return Listed{}, err
	}
	defer c.close()
	return c.listed(), nil
}

// List returns all containers below Root, by ID.
func (r *Runtime) List() ([]Listed, error) {
	entries, err := os.ReadDir(r.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Listed
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, err := r.open(e.Name())
		if errdefs.IsNotFound(err) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, c.listed())
		c.close()
	}
	return list, nil
}

// Start lets a created container's first process become the user's program.
func (r *Runtime) Start(ctx context.Context, id string) error {
	c, err := r.open(id)
	if err != nil {
		return err
	}
	defer c.close()
	if s := c.status(); s != specs.StateCreated {
		return fmt.Errorf("container %s is %s, not created: %w", id, s, errdefs.ErrFailedPrecondition)
	}
	if !c.HasProcess {
		return fmt.Errorf("container %s has no process to start: %w", id, errdefs.ErrFailedPrecondition)
	}
	hooks, err := c.hooks()
	if err != nil {
		return err
	}
	if hooks != nil {
		if err := r.startContainer(ctx, c, hooks.StartContainer); err != nil {
			return r.stopAfter(ctx, c, err)
		}
	}
	if err := r.release(c); err != nil {
		return err
	}
	if hooks != nil {
		if err := r.runHooks(ctx, "poststart", hooks.Poststart, c.state(specs.StateRunning), startHook); err != nil {
			return r.stopAfter(ctx, c, err)
		}
	}
	return nil
}

// stopAfter stops the container because of a hook that failed (runtime.md,
// Lifecycle, steps 7 and 9: stop the container, and continue at step 12).
func (r *Runtime) stopAfter(ctx context.Context, c *container, cause error) error {
	return errors.Join(cause, r.destroy(context.WithoutCancel(ctx), c))
}

// release wakes the first process and waits until it has executed the user's program.
func (r *Runtime) release(c *container) error {
	// Opened first: at its end, the first process has executed or died.
	done, err := openFile(c.path(doneFIFO), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer done.Close()
	wake, err := unix.Open(c.path(goFIFO), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("container %s: its first process has ended: %w", c.ID, err)
	}
	defer unix.Close(wake)
	if _, err := unix.Write(wake, []byte{syncGo}); err != nil {
		return fmt.Errorf("wake the first process: %w", err)
	}
	if _, err := io.ReadAll(done); err != nil {
		return fmt.Errorf("wait for execve: %w", err)
	}
	if err := unix.Unlink(c.path(goFIFO)); err != nil {
		return fmt.Errorf("remove %s: %w", c.path(goFIFO), err)
	}
	return r.tail(c)
}

// tail reports the operations that followed the wait for start, and how they ended.
func (r *Runtime) tail(c *container) error {
	f, err := openFile(c.path(resultsFile), unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	res, err := script.OpenResults(f, c.Ops)
	if err != nil {
		return err
	}
	defer res.Close()
	failed := res.Failed()
	for _, op := range c.Tail {
		if op.Index == failed {
			return res.Error(failed, op.Event)
		}
		// A call that replaces the program returns to nobody.
		ev := op.Event
		ev.Actor, ev.PID, ev.Time = "init", c.PID, res.Started(op.Index)
		r.Trace.Emit(ev)
	}
	if failed >= 0 {
		return fmt.Errorf("operation %d of the first process: %w", failed, res.Errno(failed))
	}
	return nil
}

// Kill sends a signal to the container's first process or, with all, to every
// process in its cgroup. SIGKILL goes to all also where the first process's end would
// not be theirs: in a PID namespace that is not the container's own.
func (r *Runtime) Kill(id string, sig unix.Signal, all bool) error {
	c, err := r.open(id)
	if err != nil {
		return err
	}
	defer c.close()
	status := c.status()
	if all || c.SharedPID && sig == unix.SIGKILL {
		return r.killAll(c, sig)
	}
	if status == specs.StateStopped {
		return c.notRunning()
	}
	ev := explain.Event{Op: "kill", Target: fmt.Sprint(c.PID), Value: unix.SignalName(sig)}
	if err := r.Trace.Do(ev, func() error { return c.signal(sig) }); err != nil {
		return err
	}
	if status == StatusPaused && sig == unix.SIGKILL {
		return r.thaw(c) // a frozen process dies, too, but only when it thaws on old kernels
	}
	return nil
}

// notRunning has the words by which callers of runc know that there is nothing
// left to kill.
func (c *container) notRunning() error {
	return fmt.Errorf("container %s: container not running: %w", c.ID, errdefs.ErrFailedPrecondition)
}

// signal sends sig to the first process, by a pidfd that is proved to be it:
// its PID may have been given to another one.
func (c *container) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(c.PID, 0)
	if err != nil {
		return fmt.Errorf("process %d: %w", c.PID, err)
	}
	defer unix.Close(fd)
	if start, _, err := processStat(c.PID); err != nil || start != c.StartTime {
		return c.notRunning()
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return fmt.Errorf("signal process %d: %w", c.PID, err)
	}
	return nil
}

func (r *Runtime) killAll(c *container, sig unix.Signal) error {
	cg, err := c.openCgroup()
	if err != nil || cg == nil {
		return err
	}
	defer cg.Close()
	if sig == unix.SIGKILL {
		return cg.Kill(context.Background(), r.Trace)
	}
	pids, err := cg.PIDs(true)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return nil
}

// Delete removes a stopped container. With force it is killed first, and that
// there is no such container is no error.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	c, err := r.open(id)
	if err != nil {
		if force && errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	defer c.close()
	if s := c.status(); s != specs.StateStopped && !force {
		return fmt.Errorf("container %s is %s: stop it first, or use --force: %w", id, s, errdefs.ErrFailedPrecondition)
	}
	return r.destroy(ctx, c)
}

// destroy takes back what create has made, and can be repeated.
func (r *Runtime) destroy(ctx context.Context, c *container) error {
	if c.PID != 0 && c.status() != specs.StateStopped {
		if err := c.signal(unix.SIGKILL); err != nil && !errdefs.IsFailedPrecondition(err) && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	cg, err := c.openCgroup()
	if err != nil {
		return err
	}
	if cg != nil {
		defer cg.Close()
		// Processes that the first one has left behind, in a shared PID namespace.
		if populated, err := cg.Populated(); err == nil && populated {
			if err := cg.Kill(ctx, r.Trace); err != nil {
				return err
			}
		}
		if err := cg.Delete(ctx, r.Trace); err != nil {
			return err
		}
	}
	hooks, err := c.hooks()
	if err != nil {
		r.warn(err.Error()) // no reason to keep the rest
	}
	if hooks != nil {
		r.poststop(ctx, hooks.Poststop, c.state(specs.StateStopped))
	}
	return c.remove()
}
