package raw

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/overlay"
)

// LabelBuild marks the containers that RunLayer makes for the time of one run.
// Listings can hide them.
const LabelBuild = "io.sandboxlabs.build"

var _ engine.LayerEngine = (*Engine)(nil)

// workOf is overlayfs' work folder for an upper folder that is not the engine's.
func workOf(upper string) string { return upper + ".work" }

// RunLayer implements engine.LayerEngine: the process runs in a container like
// any other, which stands on the given folders and is removed at the end. If
// the daemon dies meanwhile, the next one's sweep takes container and UpperDir.
func (e *Engine) RunLayer(ctx context.Context, run engine.LayerRun, trace *explain.Tracer) (exit api.Exit, err error) {
	if err := os.MkdirAll(filepath.Dir(run.UpperDir), 0o700); err != nil {
		return exit, err
	}
	c, made, err := e.createLayer(ctx, run, trace)
	if err != nil {
		return exit, errors.Join(err, overlay.Discard(run.UpperDir, workOf(run.UpperDir)))
	}
	defer func() {
		// What ended ctx must not keep the container.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*killGrace)
		defer cancel()
		rerr := e.Remove(ctx, c.id(), true)
		if errdefs.IsNotFound(rerr) {
			rerr = nil // a purge was quicker
		}
		err = errors.Join(err, rerr, os.RemoveAll(workOf(run.UpperDir)))
		if err == nil {
			err = made.remove(run.UpperDir)
		} else if rerr == nil { // half a layer is of no use
			err = errors.Join(err, os.RemoveAll(run.UpperDir))
		}
	}()
	exit, err = e.runToEnd(ctx, c, run.Output, trace)
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("run in layer: %w", cause)
	}
	return exit, err
}

// createLayer is Create over folders instead of an image.
func (e *Engine) createLayer(ctx context.Context, run engine.LayerRun, trace *explain.Tracer) (*container, mountPoints, error) {
	spec := run.Spec
	spec.Image, spec.Entrypoint = "", nil
	spec.Labels = maps.Clone(spec.Labels)
	if spec.Labels == nil {
		spec.Labels = map[string]string{}
	}
	spec.Labels[LabelBuild] = "true"
	id := newID()
	spec.Name = "build-" + id[:12]
	cr, err := e.create(ctx, id, spec, &run, trace)
	if err != nil {
		return nil, mountPoints{}, err
	}
	return cr.c, cr.made, nil
}

// runToEnd starts a container, hands out what it writes, and returns when it
// has ended. When ctx ends, so does the container.
func (e *Engine) runToEnd(ctx context.Context, c *container, output func(string, []byte), trace *explain.Tracer) (api.Exit, error) {
	session, err := e.openSession(ctx, c, "attach to", protocol.Request{Op: protocol.OpAttach})
	if err != nil {
		return api.Exit{}, err
	}
	defer session.Close()
	if err := e.Start(ctx, c.id(), trace); err != nil {
		return api.Exit{}, err
	}
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killGrace)
		defer cancel()
		if c.kill(ctx) != nil {
			_ = session.Close() // or its output would be waited for
		}
	})
	defer stop()
	if err := copyOutput(session, c.snapshot().Spec.TTY, output); err != nil {
		return api.Exit{}, fmt.Errorf("output of container %s: %w", c.name(), err)
	}
	return e.Wait(ctx, c.id())
}

// copyOutput hands a session's output out until its end.
func copyOutput(session io.Reader, tty bool, output func(string, []byte)) error {
	if output == nil {
		output = func(string, []byte) {}
	}
	buf := make([]byte, protocol.MaxData)
	if tty {
		for {
			n, err := session.Read(buf)
			if n > 0 {
				output("stdout", buf[:n])
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
	var header [8]byte
	for {
		if _, err := io.ReadFull(session, header[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		stream := "stdout"
		if protocol.Type(header[0]) == protocol.Stderr {
			stream = "stderr"
		}
		for left := int(binary.BigEndian.Uint32(header[4:])); left > 0; {
			n, err := io.ReadFull(session, buf[:min(left, len(buf))])
			if err != nil {
				return err
			}
			output(stream, buf[:n])
			left -= n
		}
	}
}

// sweepLayer removes what a run that was cut off has left outside of the
// engine's folders: half a layer is of no use to anybody.
func sweepLayer(rec record) error {
	return overlay.Discard(rec.UpperDir, workOf(rec.UpperDir))
}

// view is one mounted tree: Run/views/ID/tree.
type view struct {
	e         *Engine
	id, upper string
}

func (e *Engine) viewDir(id string) string { return filepath.Join(e.Dirs.Run, "views", id) }

// MountLayers implements engine.LayerEngine. The mount is in the daemon's mount
// namespace; a daemon that dies leaves it to the next one's sweep. Layers in use
// by a view are not collected.
func (e *Engine) MountLayers(_ context.Context, lower []string, upper string, trace *explain.Tracer) (_ engine.LayerView, err error) {
	v := &view{e: e, id: newID()[:12], upper: upper}
	e.creating.RLock() // no collection between here and the entry in views
	e.mu.Lock()
	ready := e.ready
	if ready {
		e.views[v.id] = lower
	}
	e.mu.Unlock()
	e.creating.RUnlock()
	if !ready {
		return nil, errNotReady
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("mount layers: %w", err), v.Close())
		}
	}()
	empty := filepath.Join(e.viewDir(v.id), "empty")
	for _, dir := range []string{empty, v.Path()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if len(lower) == 0 {
		lower = []string{empty}
	}
	work := ""
	if upper != "" {
		work = workOf(upper)
		if err := os.MkdirAll(filepath.Dir(upper), 0o700); err != nil {
			return nil, err
		}
		if err := overlay.Prepare(lower, upper, work, overlay.Mapping{}); err != nil {
			return nil, err
		}
	}
	if err := overlay.Mount(v.Path(), lower, upper, work, overlay.Options{Source: "root.path"}, trace); err != nil {
		return nil, err
	}
	ev := explain.Event{Op: "mount", Target: v.Path(), Value: "MS_PRIVATE", Why: "what is mounted in it is seen by nobody else"}
	if err := trace.Do(ev, func() error { return unix.Mount("", v.Path(), "", unix.MS_PRIVATE, "") }); err != nil {
		return nil, fmt.Errorf("mount %s MS_PRIVATE: %w", v.Path(), err)
	}
	return v, nil
}

// Path is where the tree is.
func (v *view) Path() string { return filepath.Join(v.e.viewDir(v.id), "tree") }

// Close unmounts it. It may be called again.
func (v *view) Close() error {
	err := v.e.closeView(v.id)
	if v.upper != "" {
		err = errors.Join(err, os.RemoveAll(workOf(v.upper)))
	}
	v.e.mu.Lock()
	delete(v.e.views, v.id)
	v.e.mu.Unlock()
	return err
}

// closeView unmounts a view and removes its folders, none of which may hold
// anything: were the tree still mounted, its files would be somebody's layer.
func (e *Engine) closeView(id string) error {
	dir := e.viewDir(id)
	tree := filepath.Join(dir, "tree")
	if err := overlay.Unmount(tree, nil); err != nil {
		return err
	}
	return errors.Join(
		ignoreMissing(os.Remove(tree)),
		ignoreMissing(os.Remove(filepath.Join(dir, "empty"))),
		ignoreMissing(os.Remove(dir)),
	)
}

// sweepViews unmounts what a dead daemon has left mounted.
func (e *Engine) sweepViews() error {
	var errs []error
	for _, id := range subfolders(filepath.Join(e.Dirs.Run, "views")) {
		errs = append(errs, e.closeView(id))
	}
	return errors.Join(append(errs, ignoreMissing(os.Remove(filepath.Join(e.Dirs.Run, "views"))))...)
}

// viewed are the layers that views show.
func (e *Engine) viewed() (dirs []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, lower := range e.views {
		dirs = append(dirs, lower...)
	}
	return dirs
}
