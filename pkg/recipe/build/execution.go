package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image"
)

// execution is the second half of a build: it makes the layers that are missing.
// A stage is looked at only if one of its layers is needed for that.
//
// Whoever waits for one of the locks below holds none that comes after it, so
// that no two builds wait for each other: a place among the running steps; the
// lock of a step; the pack locks of layers, in order; the locks of caches, in
// order.
type execution struct {
	b     *Builder
	o     *Options
	cache *cache

	parent context.Context //nolint:containedctx // of one Build
	ctx    context.Context //nolint:containedctx // of its steps: ends with the first that fails
	group  *errgroup.Group
	places chan struct{} // one for each step that may run

	emitting sync.Mutex

	mu     sync.Mutex
	stages map[*stage]*pending
	unpack map[*image.Image]func() ([]string, error)
	held   []*os.File // locks, until the end of the build
	fresh  bool       // layers were made
}

// pending is a stage that is being made.
type pending struct {
	done   chan struct{}
	layers []*layer // bottom first; once done
	err    error
}

func (b *Builder) newExecution(ctx context.Context, o *Options) (*execution, error) {
	c, err := b.cache()
	if err != nil {
		return nil, err
	}
	x := &execution{
		b: b, o: o, cache: c, parent: ctx, places: make(chan struct{}, b.parallel()),
		stages: map[*stage]*pending{}, unpack: map[*image.Image]func() ([]string, error){},
	}
	x.group, x.ctx = errgroup.WithContext(ctx)
	return x, errors.Join(c.sweep(), b.sweepVolatile(c))
}

// close gives up what the build has kept from others.
func (x *execution) close() {
	for _, f := range x.held {
		_ = f.Close()
	}
	if x.o.NoCache { // layers have lost their keys to new ones
		if err := x.cache.sweep(); err != nil && x.b.Log != nil {
			x.b.Log.Warn("what a build has replaced was not removed", zap.Error(err)) // the next one tries again
		}
	}
	if x.fresh {
		x.b.settle(x.cache)
	}
}

func (x *execution) keep(f *os.File) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.held = append(x.held, f)
}

// build makes the target's layers and commits them.
func (x *execution) build(target *stage) (image.Image, error) {
	p := x.start(target)
	if err := x.group.Wait(); err != nil {
		return image.Image{}, err
	}
	return x.commit(target, p.layers)
}

// start begins to make a stage, once.
func (x *execution) start(s *stage) *pending {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.stages[s]
	if p == nil {
		p = &pending{done: make(chan struct{})}
		x.stages[s] = p
		x.group.Go(func() error {
			defer close(p.done)
			p.layers, p.err = x.make(s)
			return p.err
		})
	}
	return p
}

// layers waits for a stage.
func (x *execution) layers(s *stage) ([]*layer, error) {
	p := x.start(s)
	select {
	case <-p.done:
		return p.layers, p.err
	case <-x.ctx.Done():
		return nil, context.Cause(x.ctx)
	}
}

// make makes all layers of a stage.
func (x *execution) make(s *stage) ([]*layer, error) {
	cached := make([]*layer, len(s.steps))
	for i, st := range s.steps {
		if st.work == nil {
			continue
		}
		if !x.o.NoCache {
			l, use, err := x.cache.hold(x.ctx, st.key)
			if err != nil {
				return nil, err
			}
			if l != nil {
				cached[i] = l
				x.keep(use)
				continue
			}
		}
		for _, from := range st.work.sources() { // they can be made meanwhile
			if from.stage != nil {
				x.start(from.stage)
			}
		}
	}
	layers, err := x.below(s.base)
	if err != nil {
		return nil, err
	}
	layers = layers[:len(layers):len(layers)]
	for i, st := range s.steps {
		l := cached[i]
		switch {
		case st.work == nil:
			x.emit(st, api.BuildEvent{Status: "done", Layer: &api.ImageLayer{Instruction: st.history.CreatedBy, Empty: true}})
			continue
		case l != nil:
			x.tellCached(st, l)
		default:
			if l, err = x.step(st, layers); err != nil {
				return nil, at(s.name, st.line, st.instruction, err)
			}
		}
		l.step = st
		layers = append(layers, l)
	}
	return layers, nil
}

// below are the layers of a base.
func (x *execution) below(o origin) ([]*layer, error) {
	switch {
	case o.stage != nil:
		return x.layers(o.stage)
	case o.image != nil:
		layers := make([]*layer, len(o.image.Manifest.Layers))
		for i, desc := range o.image.Manifest.Layers {
			layers[i] = &layer{image: o.image, packed: &image.PackedLayer{Descriptor: desc, DiffID: o.image.Config.RootFS.DiffIDs[i]}}
		}
		return layers, nil
	}
	return nil, nil
}

// step makes one layer, or takes that of somebody who made it meanwhile.
func (x *execution) step(st *step, below []*layer) (*layer, error) {
	for _, from := range st.work.sources() {
		if from.stage != nil {
			if _, err := x.layers(from.stage); err != nil {
				return nil, err
			}
		}
	}
	select {
	case x.places <- struct{}{}:
		defer func() { <-x.places }()
	case <-x.ctx.Done():
		return nil, context.Cause(x.ctx)
	}
	made, err := lock(x.ctx, x.cache.lockOf(st.key), exclusive)
	if err != nil {
		return nil, err
	}
	defer made.Close()
	if !x.o.NoCache {
		l, use, err := x.cache.hold(x.ctx, st.key)
		if err != nil {
			return nil, err
		}
		if l != nil {
			x.keep(use)
			x.tellCached(st, l)
			return l, nil
		}
	}
	x.emit(st, api.BuildEvent{Status: "running"})
	begun := time.Now()
	l, err := x.run(st, below)
	if err != nil {
		ev := api.BuildEvent{Status: "failed", Error: err.Error(), Took: time.Since(begun)}
		if x.ctx.Err() != nil { // something else has failed, which is told of already
			ev.Status, ev.Error = "cancelled", ""
		}
		x.emit(st, ev)
		return nil, err
	}
	change := l.rec.Change
	x.emit(st, api.BuildEvent{Status: "done", Took: time.Since(begun), Layer: &change})
	return l, nil
}

func (x *execution) tellCached(st *step, l *layer) {
	change := l.rec.Change
	x.emit(st, api.BuildEvent{Status: "cached", Cached: true, Layer: &change})
}

// emit tells of a step.
func (x *execution) emit(st *step, ev api.BuildEvent) {
	if x.o.Emit == nil {
		return
	}
	ev.Stage, ev.Instruction = st.stage.name, firstLine(st.instruction)
	ev.Step = fmt.Sprintf("%d/%d", st.number, st.stage.total())
	x.emitting.Lock()
	defer x.emitting.Unlock()
	x.o.Emit(ev)
}
