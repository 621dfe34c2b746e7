package recipe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"go.yaml.in/yaml/v3"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Build is one image to build: what a recipe asks of package build.
type Build struct {
	Recipe   *Recipe
	Name     string            // of the image
	Contexts map[string]string // name -> absolute folder, or "image:REF"
	NoCache  bool
	Trace    *explain.Tracer // may be nil
}

// Maker builds recipes, with all that they need, in order.
type Maker struct {
	Catalogue *Catalogue
	Dirs      state.Dirs
	// Build builds one image; package build does.
	Build func(ctx context.Context, b Build, emit func(api.BuildEvent)) (image.Image, error)
	// Describe attaches to an image what there is to know of it, such as the
	// list of what is in it. It may be called again for the same image; may be nil.
	Describe func(ctx context.Context, r *Recipe, img image.Image) error
	// Engine runs the smoke tests. Without one there are none.
	Engine engine.Engine
	// Env is what downloads need of the host: proxies, as KEY=VALUE.
	Env []string
	// Parallel is how many recipes are built at a time. Default: 2.
	Parallel int
	NoCache  bool
	Trace    *explain.Tracer // is told of the kernel operations of builds; may be nil
}

// Result is what has become of one recipe.
type Result struct {
	Recipe *Recipe
	Image  image.Image   // zero for one that is upstream's only, or failed
	Took   time.Duration // without waiting for other recipes
	Smoked time.Duration // of it, for the smoke tests
	Err    error
}

// Slowest returns the n results that took longest, the slowest first.
func Slowest(results []Result, n int) []Result {
	sorted := slices.Clone(results)
	slices.SortStableFunc(sorted, func(a, b Result) int { return int(b.Took - a.Took) })
	return sorted[:min(n, len(sorted))]
}

// Make builds the named recipes and what they need; without names, all of
// them. What does not need a recipe that failed is built nevertheless. The
// results are in the order of building; their errors are also returned joined.
// emit is called by one goroutine at a time.
func (m *Maker) Make(ctx context.Context, names []string, emit func(api.BuildEvent)) ([]Result, error) {
	order, err := m.Catalogue.Order(names...)
	if err != nil {
		return nil, err
	}
	var emitting sync.Mutex
	tell := func(ev api.BuildEvent) {
		emitting.Lock()
		defer emitting.Unlock()
		if emit != nil {
			emit(ev)
		}
	}
	parallel := m.Parallel
	if parallel <= 0 {
		parallel = 2
	}
	places := make(chan struct{}, parallel)
	results := make([]Result, len(order))
	done := map[string]chan struct{}{}
	index := map[string]int{}
	for i, r := range order {
		done[r.Name], index[r.Name] = make(chan struct{}), i
	}
	var all sync.WaitGroup
	for i, r := range order {
		all.Go(func() {
			defer close(done[r.Name])
			results[i].Recipe = r
			for _, need := range r.Needs {
				<-done[need] // it comes before r in order, so none waits for another in a circle
				if results[index[need]].Err != nil {
					results[i].Err = fmt.Errorf("recipe %s: it needs %s, which has failed: %w", r.Name, need, errdefs.ErrFailedPrecondition)
					return
				}
			}
			select {
			case places <- struct{}{}:
				defer func() { <-places }()
			case <-ctx.Done():
				results[i].Err = context.Cause(ctx)
				return
			}
			if ctx.Err() != nil {
				results[i].Err = context.Cause(ctx)
				return
			}
			m.one(ctx, &results[i], func(ev api.BuildEvent) {
				ev.Recipe = r.Name
				tell(ev)
			})
		})
	}
	all.Wait()
	errs := make([]error, len(results))
	for i := range results {
		errs[i] = results[i].Err
	}
	return results, errors.Join(errs...)
}

// one builds, weighs and tests one recipe.
func (m *Maker) one(ctx context.Context, res *Result, emit func(api.BuildEvent)) {
	r := res.Recipe
	if r.UpstreamOnly {
		return
	}
	begun := time.Now()
	defer func() {
		res.Took = time.Since(begun)
		if res.Err != nil {
			res.Err = fmt.Errorf("recipe %s: %w", r.Name, res.Err)
			emit(api.BuildEvent{Status: "failed", Error: res.Err.Error(), Took: res.Took})
		}
	}()
	contexts, err := m.contexts(ctx, r, emit)
	if err != nil {
		res.Err = err
		return
	}
	img, err := m.Build(ctx, Build{Recipe: r, Name: r.ImageName(), Contexts: contexts, NoCache: m.NoCache, Trace: m.Trace}, emit)
	if err != nil {
		res.Err = err
		return
	}
	budget, err := r.Budget()
	if err == nil && budget > 0 && img.Size() > budget {
		err = fmt.Errorf("the image has %.1f MB, its budget is %s: %w", float64(img.Size())/1e6, r.Size, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		res.Err = err
		return
	}
	if m.Describe != nil {
		if err := m.Describe(ctx, r, img); err != nil {
			res.Err = err
			return
		}
	}
	if res.Smoked, err = m.smoke(ctx, r, img, emit); err != nil {
		res.Err = err
		return
	}
	res.Image = img
}

// smoke tests an image, unless this very image has passed these very tests: a
// file named after both remembers it. It returns how long it took.
func (m *Maker) smoke(ctx context.Context, r *Recipe, img image.Image, emit func(api.BuildEvent)) (time.Duration, error) {
	if m.Engine == nil || len(r.Smoke) == 0 {
		return 0, nil
	}
	tests, err := yaml.Marshal(r.Smoke)
	if err != nil {
		return 0, err
	}
	passed := filepath.Join(m.Dirs.Build(), "smoke", digest.FromString(m.Engine.Name()+img.ID.String()+string(tests)).Encoded())
	if _, err := os.Lstat(passed); err == nil && !m.NoCache {
		return 0, nil
	}
	emit(api.BuildEvent{Instruction: "smoke test", Status: "testing"})
	begun := time.Now()
	if err := RunSmoke(ctx, m.Engine, img.Name, r); err != nil {
		return time.Since(begun), err
	}
	emit(api.BuildEvent{Instruction: "smoke test", Status: "done", Took: time.Since(begun)})
	return time.Since(begun), state.WriteFile(passed, nil, 0o600)
}

// contexts makes a recipe's contexts: folders and names of images.
func (m *Maker) contexts(ctx context.Context, r *Recipe, emit func(api.BuildEvent)) (map[string]string, error) {
	contexts := map[string]string{}
	for _, name := range sortedKeys(r.Contexts) {
		c := r.Contexts[name]
		switch {
		case c.kinds() != 1:
			return nil, fmt.Errorf("context %s has %d sources instead of one: %w", name, c.kinds(), errdefs.ErrInvalidArgument)
		case c.Recipe != "":
			contexts[name] = "image:" + c.Recipe + ":latest"
		case c.Dir != "":
			if !filepath.IsLocal(c.Dir) {
				return nil, fmt.Errorf("context %s: folder %q is outside of the recipe's: %w", name, c.Dir, errdefs.ErrInvalidArgument)
			}
			contexts[name] = filepath.Join(r.Dir, c.Dir)
		default:
			begun := time.Now()
			instruction := "context " + name + ": Debian " + c.Debian.Suite
			dir, err := DebianRoot(ctx, m.Dirs, *c.Debian, r.Created, m.Env, func(line string) {
				emit(api.BuildEvent{Stage: name, Instruction: instruction, Stream: "stderr", Output: line})
			})
			if err != nil {
				return nil, fmt.Errorf("context %s: %w", name, err)
			}
			emit(api.BuildEvent{Stage: name, Instruction: instruction, Status: "done", Took: time.Since(begun)})
			contexts[name] = dir
		}
	}
	return contexts, nil
}
