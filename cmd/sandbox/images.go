package main

import (
	"context"

	"github.com/sandboxlabs/sandbox/pkg/daemon"
	"github.com/sandboxlabs/sandbox/pkg/daemon/images"
	"github.com/sandboxlabs/sandbox/pkg/embedded"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw"
	"github.com/sandboxlabs/sandbox/pkg/image"
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
