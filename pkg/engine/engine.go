// Package engine defines one way to run containers; raw, containerd and
// docker implement it over the project's own runtime and the two daemons.
package engine

import (
	"context"
	"io"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// Engine runs containers. ref is a container's ID, a unique prefix of it, or
// its name. Errors carry an errdefs class.
type Engine interface {
	Name() string
	// Create makes everything but the user's process; trace may be nil.
	Create(ctx context.Context, spec api.ContainerSpec, trace *explain.Tracer) (api.Container, error)
	Start(ctx context.Context, ref string, trace *explain.Tracer) error
	// Stop sends the stop signal, then KILL after grace.
	Stop(ctx context.Context, ref string, grace time.Duration) error
	Kill(ctx context.Context, ref string, signal string) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	// Remove deletes a stopped container; force kills it first.
	Remove(ctx context.Context, ref string, force bool) error
	List(ctx context.Context) ([]api.Container, error)
	Inspect(ctx context.Context, ref string) (api.Container, error)
	// Wait returns when the container has exited.
	Wait(ctx context.Context, ref string) (api.Exit, error)
	Stats(ctx context.Context, ref string) (api.Stats, error)
	Logs(ctx context.Context, ref string, opts LogOptions) (LogReader, error)
	// Attach connects to the container's first process. It may be called
	// before Start, so that no output is missed.
	Attach(ctx context.Context, ref string) (Session, error)
	// Exec starts a further process in the container.
	Exec(ctx context.Context, ref string, spec api.ExecSpec) (Session, error)
}

// LogOptions choose log lines.
type LogOptions struct {
	Follow bool
	Tail   int // last N lines; negative: all
	Since  time.Time
	Until  time.Time
}

// LogReader yields log lines; Next returns io.EOF at the end.
type LogReader interface {
	Next() (api.LogLine, error)
	io.Closer
}

// Session is the stdio of one process. The byte stream is docker's: raw for
// a terminal, otherwise frames of {stream,0,0,0,len32be} (1 stdout, 2 stderr)
// towards the client; stdin is unframed. CloseWrite ends stdin.
type Session interface {
	io.Reader
	io.Writer
	CloseWrite() error
	Close() error
	Resize(rows, cols uint16) error
	Signal(signal string) error
	// Wait returns the process's exit code.
	Wait(ctx context.Context) (int, error)
}
