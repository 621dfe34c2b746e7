package raw

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
	"github.com/sandboxlabs/sandbox/pkg/runtime"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Sweep takes stock after an earlier daemon, however that ended. It must be
// called once, before anything else, by the only daemon of these folders:
//
//   - a container that runs is watched again, and its exit code kept;
//   - one that has exited is listed, or removed if it has AutoRemove;
//   - one whose creation was cut off is undone, as is one that only its
//     dead client would have started (AutoRemove);
//   - one whose shim was killed is killed, as is one that ran for RunLayer;
//   - views of layers are unmounted;
//   - whatever has no intent (folders, runtime state, cgroups, shims, and with
//     them mounts and network namespaces; leases, links and rules) is removed.
//
// It goes on after errors and returns them joined: the engine works even if
// something could not be removed.
func (e *Engine) Sweep(ctx context.Context) error {
	var errs []error
	var cut []record
	keep := map[string]bool{}
	for _, id := range subfolders(e.Dirs.Containers()) {
		c, err := e.load(id, &cut)
		if err == nil && c == nil {
			continue // no intent, or a creation that was cut off
		}
		if err != nil {
			errs = append(errs, err)
		}
		keep[id] = true
		e.mu.Lock()
		e.byID[id], e.names[c.name()] = c, c
		e.mu.Unlock()
	}
	errs = append(errs, e.sweepOrphans(ctx, keep), e.sweepViews())
	for _, rec := range cut {
		errs = append(errs, sweepLayer(rec)) // nobody has it mounted any more
	}
	e.mu.Lock()
	e.ready = true
	all := make([]*container, 0, len(e.byID))
	for _, c := range e.byID {
		all = append(all, c)
	}
	e.mu.Unlock()
	for _, c := range all {
		errs = append(errs, e.adopt(ctx, c))
	}
	return errors.Join(errs...)
}

// load reads a container's intent. It returns nil for one that must go.
// Runs over layers, which go too, it adds to cut.
func (e *Engine) load(id string, cut *[]record) (*container, error) {
	var rec record
	files := e.Dirs.Container(id)
	if err := state.ReadJSON(files.Intent(), &rec); err != nil {
		e.Log.Warn("container without a readable intent is removed", zap.String("id", id), zap.Error(err))
		return nil, nil
	}
	if rec.ID == id && rec.Layer {
		e.Log.Warn("build step whose daemon has died is removed", zap.String("id", id))
		*cut = append(*cut, rec)
		return nil, nil
	}
	if rec.ID != id || rec.Name == "" || rec.Status == api.StatusCreating {
		e.Log.Warn("container whose creation was cut off is removed", zap.String("id", id), zap.String("name", rec.Name))
		return nil, nil
	}
	c := e.newContainer(rec)
	if exit, err := c.readExit(fs.ErrNotExist); err == nil {
		c.ended(exit)
	}
	return c, nil
}

// adopt takes up a container of an earlier daemon.
func (e *Engine) adopt(ctx context.Context, c *container) error {
	// Of one that has exited, too: its shim may still be cleaning up.
	e.watchShim(c)
	if !c.hasExited() {
		if err := e.refresh(ctx, c); err != nil {
			return err
		}
	}
	s := c.snapshot()
	if !s.Spec.AutoRemove || s.Status != api.StatusExited && s.Status != api.StatusCreated {
		return nil
	}
	c.op.Lock()
	defer c.op.Unlock()
	if err := e.remove(ctx, c, true); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", c.name(), err)
	}
	return nil
}

// refresh asks the shim what has become of the container.
func (e *Engine) refresh(ctx context.Context, c *container) error {
	rep, err := c.call(ctx, protocol.Request{Op: protocol.OpState}, protocol.Observer{})
	if errors.Is(err, errExited) {
		return nil
	}
	if err != nil {
		e.Log.Warn("shim does not answer", zap.String("id", c.id()), zap.Error(err))
		return nil
	}
	return c.update(func(r *record) {
		if r.Exit == nil && rep.Status != api.StatusExited {
			r.Status, r.PID, r.Started = rep.Status, rep.PID, rep.Started
		}
	})
}

// sweepOrphans removes everything of containers that are not in keep.
func (e *Engine) sweepOrphans(ctx context.Context, keep map[string]bool) error {
	var errs []error
	killShims(func(run string) bool {
		id, ok := strings.CutPrefix(run, e.Dirs.RunContainers()+"/")
		return ok && !keep[id]
	})
	orphan := map[string]bool{}
	for _, dir := range []string{e.Dirs.Containers(), e.Dirs.RunContainers(), e.Dirs.RuntimeRoot(), e.cgroupParentDir()} {
		for _, id := range subfolders(dir) {
			if !keep[id] {
				orphan[id] = true
			}
		}
	}
	for id := range orphan {
		e.Log.Info("sweep up container without intent", zap.String("id", id))
		if err := e.destroy(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("sweep up container %.12s: %w", id, err))
		}
	}
	errs = append(errs, e.sweepNetwork(ctx, keep))
	return errors.Join(errs...)
}

// destroy removes all that a container can have left, whatever is there of it.
// The intent goes last but for the files: were this cut off, the sweep would
// have to find the rest.
func (e *Engine) destroy(ctx context.Context, id string) error {
	files := e.Dirs.Container(id)
	if err := errors.Join(e.killLeftovers(ctx, id, files), e.disconnect(ctx, id)); err != nil {
		return err
	}
	return removeFiles(files)
}

// release removes what a shim that has ended may have left in the kernel.
func (e *Engine) release(ctx context.Context, id string, files state.Files) error {
	var err error
	if _, serr := os.Lstat(files.ShimPID()); serr == nil {
		// It was killed: a shim that ends by itself removes this file last.
		err = e.killLeftovers(ctx, id, files)
		err = errors.Join(err, ignoreMissing(os.Remove(files.ShimSocket())), ignoreMissing(os.Remove(files.ShimPID())))
	}
	return errors.Join(err, e.disconnect(ctx, id))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// killLeftovers ends a container's processes and its shim by force, and
// removes what they leave in the kernel. All of it may be gone already.
func (e *Engine) killLeftovers(ctx context.Context, id string, files state.Files) error {
	killShims(func(run string) bool { return run == files.Run })
	r := runtime.Runtime{Root: e.Dirs.RuntimeRoot()}
	if err := r.Delete(ctx, id, true); err != nil {
		return err
	}
	// A shim that was killed in the middle of create: there is a cgroup, but
	// no record of it yet.
	return e.removeCgroup(ctx, path.Join(e.CgroupParent, id))
}

// removeCgroup kills whatever is in a cgroup and removes it.
func (e *Engine) removeCgroup(ctx context.Context, name string) error {
	root, err := cgroup.Mount()
	if errors.Is(err, cgroup.ErrNoMount) {
		return nil
	}
	if err != nil {
		return err
	}
	cg, err := cgroup.Open(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer cg.Close()
	if populated, err := cg.Populated(); err != nil || populated {
		if err := errors.Join(err, cg.Kill(ctx, nil)); err != nil {
			return err
		}
	}
	return cg.Delete(ctx, nil)
}

// cgroupParentDir is the directory of CgroupParent, or "" without cgroup v2.
func (e *Engine) cgroupParentDir() string {
	root, err := cgroup.Mount()
	if err != nil {
		return ""
	}
	return filepath.Join(root, e.CgroupParent)
}

// subfolders lists the names of the folders in dir, if there is one.
func subfolders(dir string) []string {
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names
}
