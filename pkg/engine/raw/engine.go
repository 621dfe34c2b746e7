// Package raw is the project's own engine: image → overlay → runtime → shim,
// with nothing in between that belongs to anyone else.
//
// The engine keeps no process of its own per container and owns nothing that
// dies with it: each container has a shim (package shim), which goes on when
// the daemon stops or crashes. What the engine knows it reads back from disk and
// from the shims: see [Engine.Sweep].
//
// A container's files are in state.Files. container.json, the intent, is
// written before the first side effect and removed before the last, so that at
// any moment what has no intent is rubbish. Neither it nor exit.json waits
// for the disk (state.ReplaceJSON): they must outlive the death of a
// process, at which the kernel keeps what was written. A power failure ends
// every container with all its kernel objects anyway, and a folder that comes
// back without a readable intent is removed.
package raw

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/bundle"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/network"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Name is what the engine is called, on the command line too.
const Name = "raw"

// Config is what an Engine is made of.
type Config struct {
	Dirs   state.Dirs
	Images *image.Store
	// Network connects containers. Without one, they can have the host's or none.
	Network *network.Network
	Log     *zap.Logger
	// Keep names what else GC must leave, as image.Store.GC takes it: the layers
	// of a build cache. May be nil.
	Keep func() []string
	// CgroupParent is the cgroup below which each container gets its own, as
	// CgroupParent/ID. Two engines on one machine need different ones.
	// Default: "/sandbox".
	CgroupParent string
}

// Engine runs containers. Its methods are safe for concurrent use.
type Engine struct {
	Config

	// creating is held shared by every Create, and exclusively by GC: an image
	// that is being unpacked for a container must not be collected.
	creating sync.RWMutex

	mu    sync.Mutex
	ready bool                  // Sweep has run
	byID  map[string]*container // with those that are being created
	names map[string]*container
	views map[string][]string // lower folders of MountLayers' views, by ID

	host func() (bundle.Host, error) // read once: it does not change

	ctx   context.Context //nolint:containedctx // of the goroutines that watch shims; ended by Close
	close context.CancelFunc
	watch sync.WaitGroup
}

var _ engine.Engine = (*Engine)(nil)

// New returns an engine that knows of no container yet: Sweep must be called
// before anything else.
func New(cfg Config) *Engine {
	if cfg.CgroupParent == "" {
		cfg.CgroupParent = "/sandbox"
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	e := &Engine{Config: cfg, byID: map[string]*container{}, names: map[string]*container{}, views: map[string][]string{}}
	e.host = sync.OnceValues(func() (bundle.Host, error) { return bundle.ReadHost("/proc", "/sys") })
	e.ctx, e.close = context.WithCancel(context.Background())
	return e
}

// Name implements engine.Engine.
func (e *Engine) Name() string { return Name }

// Close stops watching. Containers run on.
func (e *Engine) Close() error {
	e.close()
	e.watch.Wait()
	return nil
}

// List returns all containers, the newest first.
func (e *Engine) List(context.Context) ([]api.Container, error) {
	e.mu.Lock()
	if !e.ready {
		e.mu.Unlock()
		return nil, errNotReady
	}
	all := make([]*container, 0, len(e.byID))
	for _, c := range e.byID {
		all = append(all, c)
	}
	e.mu.Unlock()
	list := make([]api.Container, 0, len(all))
	for _, c := range all {
		list = append(list, c.snapshot())
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Created.After(list[j].Created) })
	return list, nil
}

// Inspect returns one container.
func (e *Engine) Inspect(_ context.Context, ref string) (api.Container, error) {
	c, err := e.lookup(ref)
	if err != nil {
		return api.Container{}, err
	}
	return c.snapshot(), nil
}

// Wait returns when the container has exited.
func (e *Engine) Wait(ctx context.Context, ref string) (api.Exit, error) {
	c, err := e.lookup(ref)
	if err != nil {
		return api.Exit{}, err
	}
	select {
	case <-c.exited:
	case <-c.removed: // its creation failed
	case <-ctx.Done():
		return api.Exit{}, ctx.Err()
	}
	if exit := c.snapshot().Exit; exit != nil {
		return *exit, nil
	}
	return api.Exit{}, fmt.Errorf("container %s was removed before it exited: %w", c.name(), errdefs.ErrNotFound)
}

// GC removes images' files that neither an image nor a container uses.
func (e *Engine) GC(ctx context.Context) (image.Reclaimed, error) {
	e.creating.Lock()
	defer e.creating.Unlock()
	list, err := e.List(ctx)
	if err != nil {
		return image.Reclaimed{}, err
	}
	used := e.viewed()
	if e.Keep != nil {
		used = append(used, e.Keep()...)
	}
	for _, c := range list {
		used = append(used, c.LowerDirs...)
	}
	return e.Images.GC(ctx, used)
}

// Purge removes every container, whatever it does, and the cgroup that all
// of them were in.
func (e *Engine) Purge(ctx context.Context) error {
	list, err := e.List(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, len(list))
	var all sync.WaitGroup
	for i := range list {
		all.Go(func() {
			if err := e.Remove(ctx, list[i].ID, true); !errors.Is(err, errdefs.ErrNotFound) {
				errs[i] = err
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return errors.Join(
		e.sweepViews(),
		e.removeCgroup(ctx, e.CgroupParent),
		os.RemoveAll(e.Dirs.Containers()), os.RemoveAll(e.Dirs.RunContainers()), os.RemoveAll(e.Dirs.RuntimeRoot()),
	)
}

// killGrace is how long a process that was sent SIGKILL may take to be gone: it
// can be stuck in the kernel, for example in I/O on a dead NFS server.
const killGrace = 10 * time.Second

var errNotReady = fmt.Errorf("the engine is starting: %w", errdefs.ErrUnavailable)
