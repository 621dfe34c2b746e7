package engine

import (
	"context"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// LayerEngine is an engine that can also work on layers themselves, as image
// builds need it.
type LayerEngine interface {
	// RunLayer runs a process over run.LowerDirs, waits for it, and leaves what
	// it has written in run.UpperDir, in overlayfs' own form. Mount points that
	// were made for the run alone are not left there. When ctx ends the process
	// is killed; on return nothing of it is alive.
	RunLayer(ctx context.Context, run LayerRun, trace *explain.Tracer) (api.Exit, error)
	// MountLayers shows layers, top first, as one tree. Without upper it is
	// read-only; otherwise what is written through the view lands in upper.
	MountLayers(ctx context.Context, lower []string, upper string, trace *explain.Tracer) (LayerView, error)
}

// LayerRun is one process over layers.
type LayerRun struct {
	LowerDirs []string // top first; may be empty
	// UpperDir is made when it is missing. UpperDir+".work" is used beside it
	// while the process runs.
	UpperDir string
	// Spec says what runs and how. Image, Name and Entrypoint are not used: Command,
	// Env, User and WorkDir are complete as they are.
	Spec   api.ContainerSpec
	Output func(stream string, data []byte) // "stdout" or "stderr", as it comes; may be nil
}

// LayerView is a mounted tree.
type LayerView interface {
	Path() string
	Close() error
}
