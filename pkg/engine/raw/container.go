package raw

import (
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/bundle"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// container is one container of this engine.
type container struct {
	files state.Files

	// op is held by whatever changes the container: create, start, pause,
	// remove. Only one of them runs at a time; stop and kill may interrupt.
	op sync.Mutex

	// exited is closed when rec.Exit is set; idle after that, when the shim is
	// gone and the network is released; removed when nothing is left.
	exited, idle, removed chan struct{}

	mu  sync.Mutex
	rec record
	cpu sample // of the previous Stats
}

// record is container.json: the container as of the last change that the
// engine made. How it ended is in exit.json, which the shim writes.
type record struct {
	api.Container
	StopSignal string `json:"stop_signal,omitempty"`
	// IDs are the host's that --userns auto has given to it.
	IDs bundle.IDRange `json:"ids,omitzero"`
	// Layer is set for a run of RunLayer, which ends with its daemon.
	Layer bool `json:"layer,omitempty"`
	// BootID is the kernel's boot that the container belongs to.
	BootID string `json:"boot_id"`
}

func (e *Engine) newContainer(rec record) *container {
	return &container{
		files: e.Dirs.Container(rec.ID), rec: rec,
		exited: make(chan struct{}), idle: make(chan struct{}), removed: make(chan struct{}),
	}
}

func (c *container) snapshot() api.Container {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.rec.Container
	s.Warnings = append([]string(nil), s.Warnings...)
	return s
}

func (c *container) id() string { return c.rec.ID } // never changes

func (c *container) name() string { return c.rec.Name } // never changes

func (c *container) status() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec.Status
}

// update changes the record and writes it.
func (c *container) update(change func(*record)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.rec)
	return c.write()
}

func (c *container) write() error {
	if err := state.ReplaceJSON(c.files.Intent(), c.rec); err != nil {
		return fmt.Errorf("write %s: %w", c.files.Intent(), err)
	}
	return nil
}

// ended records how the container exited. Only the first call counts.
func (c *container) ended(exit api.Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rec.Exit != nil {
		return
	}
	c.rec.Exit, c.rec.Status, c.rec.Finished, c.rec.PID = &exit, api.StatusExited, exit.At, 0
	close(c.exited)
}

func (c *container) hasExited() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

// reserve enters a container into the tables: from here on its name is taken.
func (e *Engine) reserve(c *container) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ready {
		return errNotReady
	}
	if c.rec.Name == "" {
		c.rec.Name = newName(func(name string) bool { return e.names[name] != nil })
	}
	if holder := e.names[c.rec.Name]; holder != nil {
		return fmt.Errorf("name %q is in use by container %.12s: %w", c.rec.Name, holder.id(), errdefs.ErrAlreadyExists)
	}
	e.byID[c.id()], e.names[c.rec.Name] = c, c
	return nil
}

// forget takes a container out of the tables.
func (e *Engine) forget(c *container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byID[c.id()] == c {
		delete(e.byID, c.id())
		delete(e.names, c.name())
		close(c.removed)
	}
}

// lookup finds a container by ID, name, or a prefix of its ID that no other has.
func (e *Engine) lookup(ref string) (*container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ready {
		return nil, errNotReady
	}
	if c := e.byID[ref]; c != nil {
		return c, nil
	}
	if c := e.names[ref]; c != nil {
		return c, nil
	}
	var found *container
	for id, c := range e.byID {
		if ref == "" || !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%q is the beginning of more than one container's ID: %w", ref, errdefs.ErrInvalidArgument)
		}
		found = c
	}
	if found == nil {
		return nil, fmt.Errorf("no container %q: %w", ref, errdefs.ErrNotFound)
	}
	return found, nil
}
