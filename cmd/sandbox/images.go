package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/cli"
	"github.com/sandboxlabs/sandbox/pkg/daemon"
	"github.com/sandboxlabs/sandbox/pkg/daemon/images"
	"github.com/sandboxlabs/sandbox/pkg/embedded"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
	"github.com/sandboxlabs/sandbox/pkg/recipe/bundle"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"go.uber.org/zap"
)

// imageService is the daemon's images.Service on this machine.
type imageService struct{ *images.Service }

func newImages(dirs state.Dirs, store *image.Store, log *zap.Logger) imageService {
	machine := build.HostFromEnv()
	s := &images.Service{
		Store: store, Dirs: dirs, Env: machine.Env, WireError: daemon.WireError, Log: log.Named("images"),
		Bundled: func(ctx context.Context) (string, error) {
			f, err := embedded.Open(embedded.Recipes)
			if err != nil {
				return "", err
			}
			defer f.Close()
			return bundle.Unpack(ctx, f, dirs.Recipes())
		},
	}
	s.Builder = &build.Builder{Store: store, Dirs: dirs, Host: machine, Pull: s.Base, Log: log.Named("build")}
	return imageService{s}
}

// use gives the service the engine, which needs the service first: its garbage
// collection spares the build cache.
func (s imageService) use(engine *raw.Engine) {
	s.Engine, s.Views, s.Collect = engine, engine, engine.GC
	s.Builder.Engine = engine
}

// newRegistry serves the store to other engines. It does not listen yet.
func newRegistry(store *image.Store, opts cli.Serving, log *zap.Logger) *registry.Server {
	s := &registry.Server{Store: store, Addr: opts.Registry, Log: log.Named("registry")}
	if s.Addr == "" {
		s.Addr = registry.DefaultAddr
	}
	if opts.Upstream {
		s.Upstream = func(ctx context.Context, ref string) (image.Image, error) {
			return store.Pull(ctx, ref, image.PullOptions{})
		}
	}
	return s
}

// services are what status shows below the daemon.
func services(r *registry.Server, o observation) func() []api.StatusItem {
	return func() []api.StatusItem {
		var rows []api.StatusItem
		if item, ok := r.Status(); ok {
			rows = append(rows, item)
		}
		return append(rows, o.rows()...)
	}
}

// lint lists what is wrong with recipes: each of dirs is one, or has them in
// its folders.
func lint(ctx context.Context, dirs []string) ([]api.RecipeProblem, error) {
	var out []api.RecipeProblem
	for _, dir := range dirs {
		recipes, err := recipesIn(dir)
		if err != nil {
			return nil, err
		}
		for _, r := range recipes {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			problems, err := recipe.Lint(r, build.Check)
			if err != nil {
				return nil, err
			}
			for _, p := range problems {
				out = append(out, api.RecipeProblem(p))
			}
		}
	}
	return out, nil
}

// recipesIn is dir itself, or, if it is none, the recipes in its folders.
func recipesIn(dir string) ([]string, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, recipe.FileName)); err == nil {
		return []string{dir}, nil
	}
	names, err := bundle.Names(dir)
	if err != nil || len(names) == 0 {
		return []string{dir}, err // which lint says is no recipe
	}
	for i, name := range names {
		names[i] = filepath.Join(dir, name)
	}
	return names, nil
}
