// Package build turns Dockerfiles into images without Docker: it reads them
// with BuildKit's own parser, and lets an engine run each instruction over the
// layers of those before it, so that every instruction that changes files
// becomes one overlayfs layer.
//
// A build has two halves. The first one, plan, runs nothing: it follows every
// instruction that the target needs and gives each a key, a digest of all that
// its result depends on. The second one makes the layers whose keys nobody has
// yet. An unchanged Dockerfile therefore costs look-ups only.
//
//	build/steps/KEY          symbolic link to the layer of this key
//	build/locks/KEY          held while that layer is made
//	build/layers/ID/record.json  what the layer is; without it, a leftover
//	build/layers/ID/fs       its files, as overlayfs' upper folder, until an
//	                         image has the layer: then the store has them
//	build/layers/ID/use      locked, shared, by builds that need the layer
//	build/layers/ID/pack     locked, shared, by who has fs mounted; exclusively
//	                         by who gives it to the store
//	build/layers/ID/pending  there until the disk has all of it
//	build/cache/ID           what cache mounts keep
//	build/trust/             the host's CA bundle as Java wants it
package build

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Builder builds images. Its methods may be called concurrently, and by several
// processes at once.
type Builder struct {
	Store  *image.Store
	Engine engine.LayerEngine
	Dirs   state.Dirs
	Host   Host
	// Pull fetches an image that the store lacks; without it that is an error.
	Pull func(ctx context.Context, ref string) (image.Image, error)
	// Parallel is how many instructions of one build run at a time. Default: as
	// many as there are CPUs.
	Parallel int
	Log      *zap.Logger

	// background waits for layers to reach the disk.
	background sync.WaitGroup
	usage      usage
}

// Close waits until every layer that was built is on the disk.
func (b *Builder) Close() { b.background.Wait() }

// Options are one build.
type Options struct {
	Dockerfile []byte
	// ContextDir is the folder that COPY takes files from. Without one there is
	// nothing to copy.
	ContextDir string
	// IgnoreFile is the Dockerfile's path, beside which NAME.dockerignore is
	// looked for. Default: ContextDir's Dockerfile.
	IgnoreFile string
	// Contexts are further sources of files by name: an absolute folder,
	// "rootfs:" and a folder whose owners are meant as they are, or "image:" and
	// the name of an image.
	Contexts map[string]string
	Args     map[string]string // values of ARGs
	Names    []string          // of the image
	Target   string            // the stage to build. Default: the last
	// Epoch is the time that everything built claims to be from: nothing is
	// newer. Without it SOURCE_DATE_EPOCH says so, of Args or of an ARG before the
	// first FROM; else the image has the time of its build.
	Epoch   time.Time
	NoCache bool // make every layer anew
	// Secrets are the files of secrets by their ID. They are lent in memory; one
	// that a RUN wants as a variable is in the engine's record of that process, too,
	// which root alone can read, as long as it runs.
	Secrets map[string]string
	Source  string // one of image.Source…
	// Annotations are the manifest's; Labels are added to the image's.
	Annotations, Labels map[string]string
	Trace               *explain.Tracer
	// Emit is told of every step, by one goroutine at a time: that it is
	// "running", what it writes, that it is "done", "cached", "failed" or, for the
	// failure of another, "cancelled"; and which layers are "packed". It may be nil.
	Emit func(api.BuildEvent)
}

// Build builds an image and gives it its names. What is wrong with the
// Dockerfile is found before anything runs; see Check. What fails later is an
// *Error. A build that is interrupted, in whatever way, leaves layers that are
// whole, for the next one to go on with, and nothing else that lasts.
func (b *Builder) Build(ctx context.Context, o Options) (image.Image, error) {
	if err := checkNames(o.Names); err != nil {
		return image.Image{}, fmt.Errorf("build image: %w", err)
	}
	p, err := b.plan(ctx, &o)
	if err != nil {
		return image.Image{}, fmt.Errorf("build image %s: %w", o.Names[0], err)
	}
	x, err := b.newExecution(ctx, &o)
	if err != nil {
		return image.Image{}, fmt.Errorf("build image %s: %w", o.Names[0], err)
	}
	defer x.close()
	img, err := x.build(p)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		return image.Image{}, fmt.Errorf("build image %s: %w", o.Names[0], err)
	}
	if b.Log != nil {
		b.Log.Info("image built", zap.String("name", img.Name), zap.Stringer("digest", img.Descriptor.Digest))
	}
	return img, nil
}

// checkNames finds before the build what its end would fail for.
func checkNames(names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("it has no name: %w", errdefs.ErrInvalidArgument)
	}
	for _, name := range names {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return fmt.Errorf("name %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
		if _, ok := ref.(reference.Digested); ok {
			return fmt.Errorf("name %q: the digest is what the build is to find: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func (b *Builder) parallel() int {
	if b.Parallel > 0 {
		return b.Parallel
	}
	return runtime.GOMAXPROCS(0)
}
