// Package stack brings stages up and down in the order of their needs. Each
// stage is a list of named steps, and each step looks at what is there,
// converges, and says what it did: `up` after a crash, a reboot or a Ctrl-C
// repairs.
package stack

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Stage is one part of the stack.
type Stage interface {
	Name() string
	// Needs names the stages that must be up before this one.
	Needs() []string
	// Up and Down are what to do, in order. Making the list has no effects.
	Up(api.UpOptions) []Step
	Down(api.DownOptions) []Step
	// Status looks at what is there, without changing it.
	Status(ctx context.Context) ([]api.StatusItem, error)
}

// Step is one task of a change.
type Step struct {
	Name string
	// Do is idempotent, and returns soon after ctx is done.
	Do func(ctx context.Context, p Progress) error
	// Undo takes back a Do that failed or was aborted; nil if such a Do leaves
	// nothing that the next one would not repair. It gets a context of its own.
	Undo func(ctx context.Context) error
}

// Progress is how a step says what it is doing. The zero value tells nobody.
type Progress struct {
	update func(func(*api.Task))
}

// Note says in a few words what the step found or did: "already there".
func (p Progress) Note(format string, args ...any) {
	p.change(func(t *api.Task) { t.Note = fmt.Sprintf(format, args...) })
}

// Bytes says how far the step is, in bytes.
func (p Progress) Bytes(done, total int64) {
	p.change(func(t *api.Task) { t.Done, t.Total = done, total })
}

// Image says that the step works with an image.
func (p Progress) Image(img Image) {
	p.change(func(t *api.Task) {
		used := api.UsedImage{Name: img.Name, From: img.From, Source: img.Source}
		if !slices.Contains(t.Images, used) {
			t.Images = append(slices.Clone(t.Images), used) // whoever was told has the old ones
		}
	})
}

func (p Progress) change(f func(*api.Task)) {
	if p.update != nil {
		p.update(f)
	}
}

// Graph is a set of stages whose needs are all in it, without cycles.
type Graph struct {
	stages []Stage // each after all that it needs
}

// New checks and sorts the stages.
func New(stages ...Stage) (*Graph, error) {
	byName := map[string]Stage{}
	for _, s := range stages {
		if byName[s.Name()] != nil {
			return nil, fmt.Errorf("two stages are named %s", s.Name())
		}
		byName[s.Name()] = s
	}
	g := &Graph{}
	done := map[string]bool{}
	var visit func(s Stage, path []string) error
	visit = func(s Stage, path []string) error {
		if done[s.Name()] {
			return nil
		}
		if i := slices.Index(path, s.Name()); i >= 0 {
			return fmt.Errorf("stages need each other in a cycle: %s", strings.Join(append(path[i:], s.Name()), " -> "))
		}
		for _, need := range s.Needs() {
			if byName[need] == nil {
				return fmt.Errorf("stage %s needs %s, which is not a stage", s.Name(), need)
			}
			if err := visit(byName[need], append(path, s.Name())); err != nil {
				return err
			}
		}
		done[s.Name()] = true
		g.stages = append(g.stages, s)
		return nil
	}
	for _, s := range stages {
		if err := visit(s, nil); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Names lists the stages, each after all that it needs.
func (g *Graph) Names() []string {
	names := make([]string, len(g.stages))
	for i, s := range g.stages {
		names[i] = s.Name()
	}
	return names
}

// Choices are what of api.Settings concerns the stage of a name.
func (g *Graph) Choices(stage string) Choices {
	for _, s := range g.stages {
		if s.Name() == stage {
			return choices(s)
		}
	}
	return Choices{}
}

// Up plans to bring stages up: those of opts.Only with all that they need, or
// all; less those of opts.Without and all that need them.
func (g *Graph) Up(opts api.UpOptions) (*Plan, error) {
	for _, name := range slices.Concat(opts.Only, opts.Without) {
		if !slices.Contains(g.Names(), name) {
			return nil, fmt.Errorf("unknown stage %q: the stages are %s: %w",
				name, strings.Join(g.Names(), ", "), errdefs.ErrInvalidArgument)
		}
	}
	wanted := map[string]bool{}
	for _, s := range slices.Backward(g.stages) {
		if len(opts.Only) == 0 || slices.Contains(opts.Only, s.Name()) {
			wanted[s.Name()] = true
		}
		if wanted[s.Name()] {
			for _, need := range s.Needs() {
				wanted[need] = true
			}
		}
	}
	p := &Plan{}
	out := map[string]string{} // stage left out -> the name in opts.Without behind it
	for _, s := range g.stages {
		name := s.Name()
		if slices.Contains(opts.Without, name) {
			out[name] = name
		}
		for _, need := range s.Needs() {
			if out[need] != "" && out[name] == "" {
				out[name] = out[need]
			}
		}
		if out[name] != "" {
			if slices.Contains(opts.Only, name) {
				return nil, fmt.Errorf("stage %s is asked for, but %s is to be left out: %w",
					name, out[name], errdefs.ErrInvalidArgument)
			}
			continue
		}
		if wanted[name] {
			p.Add(name, s.Needs(), s.Up(opts)...)
		}
	}
	if len(p.nodes) == 0 {
		return nil, fmt.Errorf("no stage is left to bring up: %w", errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// Down plans to take all stages down, each after all that need it.
func (g *Graph) Down(opts api.DownOptions) (*Plan, error) {
	p := &Plan{}
	for _, s := range slices.Backward(g.stages) {
		var after []string
		for _, other := range g.stages {
			if slices.Contains(other.Needs(), s.Name()) {
				after = append(after, other.Name())
			}
		}
		p.Add(s.Name(), after, s.Down(opts)...)
	}
	return p, nil
}

// Words of api.StageStatus and api.StatusItem.
const (
	StateUp       = "up"
	StateDown     = "down"
	StateDegraded = "degraded"
	// StateAbsent is what this machine cannot have, and what its stage is up
	// without. It is of an item only.
	StateAbsent = "absent"
)

// Status asks all stages, side by side.
func (g *Graph) Status(ctx context.Context) []api.StageStatus {
	out := make([]api.StageStatus, len(g.stages))
	var wg sync.WaitGroup
	for i, s := range g.stages {
		wg.Go(func() {
			items, err := s.Status(ctx)
			out[i] = api.StageStatus{Name: s.Name(), Status: overall(items), Items: items}
			if err != nil {
				out[i].Status, out[i].Error = StateDegraded, err.Error()
			}
		})
	}
	wg.Wait()
	return out
}

// overall is up or down if all items are, and degraded in between. What is
// absent does not count.
func overall(items []api.StatusItem) string {
	items = slices.DeleteFunc(slices.Clone(items), func(it api.StatusItem) bool { return it.State == StateAbsent })
	if len(items) == 0 {
		return StateDown
	}
	for _, it := range items {
		if it.State != items[0].State {
			return StateDegraded
		}
	}
	return items[0].State
}
