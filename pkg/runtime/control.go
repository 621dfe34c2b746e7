package runtime

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
)

// Pause freezes every process of the container.
func (r *Runtime) Pause(ctx context.Context, id string) error {
	return r.withCgroup(id, specs.StateRunning, func(c *container, cg *cgroup.Cgroup) error { return cg.Freeze(ctx, r.Trace) })
}

// Resume thaws a paused container.
func (r *Runtime) Resume(ctx context.Context, id string) error {
	return r.withCgroup(id, StatusPaused, func(c *container, cg *cgroup.Cgroup) error { return cg.Thaw(r.Trace) })
}

func (r *Runtime) thaw(c *container) error {
	cg, err := c.openCgroup()
	if err != nil || cg == nil {
		return err
	}
	defer cg.Close()
	return cg.Thaw(r.Trace)
}

// Update changes the resources of a container that exists.
func (r *Runtime) Update(_ context.Context, id string, res *specs.LinuxResources) error {
	return r.withCgroup(id, "", func(c *container, cg *cgroup.Cgroup) error {
		warnings, err := cg.Apply(res, r.Trace)
		r.warn(warnings...)
		if err != nil {
			return err
		}
		return attachDevices(cg, res, r.Trace)
	})
}

// Stats reads the container's cgroup.
func (r *Runtime) Stats(id string) (stats *cgroup.Stats, err error) {
	err = r.withCgroup(id, "", func(_ *container, cg *cgroup.Cgroup) error {
		stats, err = cg.Stats()
		return err
	})
	return stats, err
}

// Processes returns the PIDs of the container's processes, in the caller's PID
// namespace. A stopped container may still have some, where it shares a PID namespace.
func (r *Runtime) Processes(id string) ([]int, error) {
	c, err := r.open(id)
	if err != nil {
		return nil, err
	}
	defer c.close()
	cg, err := c.openCgroup()
	if err != nil || cg == nil {
		return nil, err
	}
	defer cg.Close()
	return cg.PIDs(true)
}

// OpenCgroup opens the container's cgroup, which the caller must close.
func (r *Runtime) OpenCgroup(id string) (*cgroup.Cgroup, error) {
	c, err := r.open(id)
	if err != nil {
		return nil, err
	}
	defer c.close()
	cg, err := c.openCgroup()
	if err == nil && cg == nil {
		err = fmt.Errorf("container %s has no cgroup: %w", id, errdefs.ErrFailedPrecondition)
	}
	return cg, err
}

// withCgroup calls f with the container's cgroup, the container being in the
// given status; "" is any but stopped.
func (r *Runtime) withCgroup(id string, status specs.ContainerState, f func(*container, *cgroup.Cgroup) error) error {
	c, err := r.open(id)
	if err != nil {
		return err
	}
	defer c.close()
	switch s := c.status(); {
	case status == "" && s == specs.StateStopped, status != "" && s != status:
		return fmt.Errorf("container %s is %s: %w", id, s, errdefs.ErrFailedPrecondition)
	}
	cg, err := c.openCgroup()
	if err != nil {
		return err
	}
	if cg == nil {
		return fmt.Errorf("container %s has no cgroup: %w", id, errdefs.ErrFailedPrecondition)
	}
	defer cg.Close()
	return f(c, cg)
}
