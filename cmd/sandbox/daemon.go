package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/cli"
	"github.com/sandboxlabs/sandbox/pkg/daemon"
	"github.com/sandboxlabs/sandbox/pkg/embedded"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/network"
	"github.com/sandboxlabs/sandbox/pkg/host"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/stack/internals"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// toolbox is the name of the built-in image.
const toolbox = "toolbox"

// serve composes the daemon and runs it.
func serve(ctx context.Context, dirs state.Dirs, h *host.Host, opts cli.Serving) error {
	log := newLogger()
	defer func() { _ = log.Sync() }() // of stderr, which a terminal refuses
	images, err := image.Open(dirs)
	if err != nil {
		return err
	}
	defer images.Close()
	links, err := network.New(network.Config{Dirs: dirs, Log: log.Named("network")})
	if err != nil {
		return err
	}
	defer func() { _ = links.Close() }()
	service := newImages(dirs, images, log)
	engine := raw.New(raw.Config{
		Dirs: dirs, Images: images, Network: links, Log: log.Named("engine.raw"), CgroupParent: "/" + host.CgroupParent(dirs),
		Keep: service.Builder.Keep,
	})
	defer func() { _ = engine.Close() }() // only ends its watching
	service.use(engine)
	defer service.Builder.Close()
	endpoint := newRegistry(images, opts, log)
	observed := newObservation(dirs, engine, opts, log)
	containers := newDocker(dirs, service, endpoint, observed, log)
	observed.Discover = discover(engine, containers)
	defer func() { _ = containers.Close() }() // only idle connections
	kubernetes, watch := newCluster(dirs, containers, observed, log)
	graph, err := stack.New(
		internals.New(internals.Config{
			Dirs: dirs, Engine: engine, Preflight: h.Check,
			Runtime: func() (fs.File, error) { return embedded.Open(embedded.Runtime) },
			Network: networkPart(links), Image: imagePart(images), Toolbox: toolbox, Purge: engine.Purge,
		}),
		docker.NewStage(containers),
		kubernetes,
		watch,
		newAWSStage(dirs, containers),
	)
	if err != nil {
		return err
	}
	return daemon.New(daemon.Config{
		Dirs: dirs, Engine: engine, Images: service, Stack: graph, Verify: newWalk(tried{dirs, h, engine, images, containers, kubernetes, watch, observed}, log).Plan,
		Log: log.Named("daemon"), Group: host.Group, Version: daemonVersion(), Services: services(endpoint, observed),
		Alerts: observed.alerts, Exited: observed.exporter.Exited,
		Prepare: func(ctx context.Context) error {
			sweep(ctx, engine, log)
			endpoint.Start(ctx)
			observed.Start(ctx)
			go containers.Resume(ctx)
			return ctx.Err()
		},
	}).Run(ctx)
}

// sweep takes back what a crash has left. A thing that can't be removed is no
// reason not to serve: it is logged, and the next sweep tries again.
func sweep(ctx context.Context, engine *raw.Engine, log *zap.Logger) {
	if err := engine.Sweep(ctx); err != nil {
		log.Error("sweep", zap.Error(err))
	}
}

// newLogger writes JSON lines to stderr, which is the journal, the daemon's log
// file or a terminal. SANDBOX_DEBUG adds the kernel calls.
func newLogger() *zap.Logger {
	level := zapcore.InfoLevel
	if os.Getenv("SANDBOX_DEBUG") != "" {
		level = zapcore.DebugLevel
	}
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoding), zapcore.Lock(os.Stderr), level))
}

func daemonVersion() api.Version {
	v := thisVersion()
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		v.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return v
}

// imagePart is the built-in image as the stage internals sees it.
func imagePart(store *image.Store) internals.Part {
	return internals.Part{
		Ensure: func(ctx context.Context, p stack.Progress) (string, error) {
			f, err := embedded.Open(embedded.Toolbox)
			if err != nil {
				return "", err
			}
			defer f.Close()
			img, err := store.EnsureBuiltin(ctx, f)
			if err != nil {
				return "", err
			}
			p.Image(stack.Image{Name: img.Name, From: img.Source, Source: img.Source})
			return fmt.Sprintf("%s, %s, %d layers", img.Name, img.Source, len(img.Manifest.Layers)), nil
		},
		Status: func(context.Context) (api.StatusItem, error) {
			item := api.StatusItem{What: "image " + toolbox, State: stack.StateDown}
			if img, err := store.Resolve(toolbox); err == nil {
				item.State, item.Note = stack.StateUp, img.Source
			}
			return item, nil
		},
	}
}
