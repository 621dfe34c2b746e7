package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
	"github.com/sandboxlabs/sandbox/pkg/linux/device"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
	"github.com/sandboxlabs/sandbox/pkg/undo"
)

// Create makes a container out of a bundle: everything but the user's program
// runs, and its first process then waits for [Runtime.Start]. On an error
// nothing of it is left. The first process is a child of the caller, which
// must wait for it.
func (r *Runtime) Create(ctx context.Context, id string, o CreateOptions) (*Process, error) {
	bundle, err := filepath.Abs(o.Bundle)
	if err != nil {
		return nil, err
	}
	spec, raw, err := loadSpec(bundle)
	if err != nil {
		return nil, err
	}
	c, err := r.newContainer(id)
	if err != nil {
		return nil, err
	}
	defer c.close()
	c.record = record{
		ID: id, Bundle: bundle, Rootfs: spec.Root.Path, Created: time.Now().UTC(),
		Annotations: spec.Annotations, HasProcess: spec.Process != nil, SharedPID: sharedPID(spec),
	}

	var undone undo.Stack
	undone.Push(func(context.Context) error { return os.RemoveAll(c.dir) })
	if spec.Hooks != nil {
		if c.Hooks, err = json.Marshal(spec.Hooks); err != nil {
			return nil, undone.Run(err)
		}
	}
	cr := &creation{Runtime: r, container: c, spec: spec, options: o, undo: &undone}
	p, err := cr.run(ctx, raw)
	if err != nil {
		return nil, undone.Run(err)
	}
	r.remember(c)
	return p, nil
}

// creation is one create under way.
type creation struct {
	*Runtime
	*container
	spec    *specs.Spec
	options CreateOptions
	undo    *undo.Stack

	ns      nsPlan
	cg      *cgroup.Cgroup
	b       *builder
	results *script.Results
	sync    *os.File // our end of the socket to the first process
	process *script.Process
	told    int   // operations that were explained already
	search  []int // operations that look for the program
}

// run is the creation, step by step.
func (cr *creation) run(ctx context.Context, raw []byte) (*Process, error) {
	if !cr.atOnce() {
		for _, name := range []string{goFIFO, doneFIFO} {
			if err := unix.Mkfifo(cr.path(name), 0o600); err != nil {
				return nil, fmt.Errorf("make FIFO %s: %w", cr.path(name), err)
			}
		}
	}
	var err error
	if cr.ns, err = planNamespaces(cr.spec, cr.warn); err != nil {
		return nil, err
	}
	defer cr.ns.close()
	cr.nameCgroup()
	if err := cr.write(); err != nil { // intent: what a sweep must take back
		return nil, err
	}
	if err := cr.makeCgroup(); err != nil {
		return nil, err
	}
	if cr.cg != nil {
		defer cr.cg.Close()
	}
	if err := cr.clone(); err != nil {
		return nil, err
	}
	defer cr.results.Close()
	defer cr.sync.Close()
	defer cr.process.Close()
	// While the first process sets itself up:
	if err := writeFile(cr.path(configFile), raw); err != nil {
		return nil, err
	}
	if err := cr.identify(); err != nil {
		return nil, err
	}
	if err := cr.restrictDevices(); err != nil {
		return nil, err
	}
	if cr.atOnce() {
		// Said before it is asked: the first process goes on without a wait.
		if _, err := cr.sync.Write([]byte{syncGo}); err != nil && !errors.Is(err, unix.EPIPE) {
			return nil, fmt.Errorf("first process: %w", err)
		}
	}
	if err := cr.converse(ctx); err != nil {
		return nil, err
	}
	if cr.atOnce() {
		if err := cr.executed(cr.Tail[0].Index); err != nil {
			return nil, err
		}
	}
	return &Process{PID: cr.PID, Started: cr.atOnce()}, nil
}

// atOnce reports whether create starts the program, too.
func (cr *creation) atOnce() bool {
	return cr.options.Start && cr.spec.Process != nil && cr.spec.Hooks == nil
}

func (cr *creation) nameCgroup() {
	root, err := cgroup.Mount()
	if err != nil {
		cr.warn(fmt.Sprintf("no limit of any kind is applied: %v", err))
		return
	}
	name, note := cgroupName(cr.spec.Linux.CgroupsPath, cr.ID)
	if note != "" {
		cr.warn(note)
	}
	cr.CgroupRoot, cr.Cgroup = root, name
}

func (cr *creation) makeCgroup() (err error) {
	if cr.Cgroup == "" {
		return nil
	}
	res := cr.spec.Linux.Resources
	if cr.cg, err = cgroup.CreateCommon(cr.CgroupRoot, cr.Cgroup, cgroup.Needed(res), cr.Trace); err != nil {
		return err
	}
	if !cr.cg.Fresh() {
		if err := unused(cr.cg); err != nil {
			_ = cr.cg.Close()
			return err
		}
	}
	cr.undo.Push(func(ctx context.Context) error {
		again, err := cgroup.Open(cr.CgroupRoot, cr.Cgroup)
		if err != nil {
			return nil // it is gone already
		}
		defer again.Close()
		return again.Delete(ctx, cr.Trace)
	})
	warnings, err := cr.cg.Apply(res, cr.Trace)
	cr.warn(warnings...)
	return err
}

// unused refuses a cgroup that was there already if somebody lives in it, whom the
// container's limits would meet and its deletion would kill; or if it is frozen, as the
// first process would be.
func unused(cg *cgroup.Cgroup) error {
	populated, err := cg.Populated()
	if err != nil {
		return err
	}
	frozen, err := cg.Frozen()
	if err != nil {
		return err
	}
	switch {
	case populated:
		return fmt.Errorf("linux.cgroupsPath: there are processes in cgroup %s: %w", cg.Name(), errdefs.ErrAlreadyExists)
	case frozen:
		return fmt.Errorf("linux.cgroupsPath: cgroup %s is frozen: %w", cg.Name(), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// restrictDevices is done when the first process exists already, which has its
// own to do meanwhile; the user's program does not run before create returns.
func (cr *creation) restrictDevices() error {
	if cr.cg == nil || cr.spec.Linux.Resources == nil {
		return nil
	}
	err := attachDevices(cr.cg, cr.spec.Linux.Resources, cr.Trace)
	if errors.Is(err, device.ErrUnsupported) {
		cr.warn(err.Error())
		return nil
	}
	return err
}

// attachDevices restricts the cgroup to the devices of the resources and those
// that every container has. Making a node is allowed for any device, as runc
// allows it: the first process makes them, and a node alone opens nothing.
func attachDevices(cg *cgroup.Cgroup, res *specs.LinuxResources, trace *explain.Tracer) error {
	if len(res.Devices) == 0 {
		return nil
	}
	rules := append(res.Devices[:len(res.Devices):len(res.Devices)],
		specs.LinuxDeviceCgroup{Allow: true, Type: "c", Access: "m"}, specs.LinuxDeviceCgroup{Allow: true, Type: "b", Access: "m"})
	return device.Attach(cg.FD(), append(rules, device.DefaultAllowed()...), trace)
}
