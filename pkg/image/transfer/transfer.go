// Package transfer moves images, as archives, between this program and the
// other engines of a machine: a Docker engine, by its API, and a namespace of
// containerd, by ctr.
package transfer

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// Engine is another engine, as the user of this process reaches it.
type Engine interface {
	// Save writes an archive of images to w. Missing ones are
	// errdefs.ErrNotFound, before anything is written.
	Save(ctx context.Context, names []string, w io.Writer) error
	// Load reads an archive in docker's format, and returns the names of what
	// the engine has then.
	Load(ctx context.Context, r io.Reader) ([]string, error)
}

// Open understands docker, docker:HOST, containerd and containerd:NAMESPACE.
// It does not connect yet.
func Open(engine string) (Engine, error) {
	kind, where, given := strings.Cut(engine, ":")
	switch {
	case given && where == "":
	case kind == "docker":
		return openDocker(where)
	case kind == "containerd":
		return &containerd{namespace: where}, nil
	}
	return nil, fmt.Errorf("%q is no engine: docker, docker:HOST, containerd or containerd:NAMESPACE: %w", engine, errdefs.ErrInvalidArgument)
}

// hinted is an error with what the user can do.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// Hint is what the user can do.
func (e *hinted) Hint() string { return e.hint }

// whole is a name with all that docker leaves out.
func whole(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	return reference.TagNameOnly(named).String(), nil
}
