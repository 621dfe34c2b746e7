package stack

import (
	"context"
	"sync"
)

// Image is one that Docker and the nodes of a cluster can pull now.
type Image struct {
	// Ref is what Docker on this host calls it: ADDRESS/NAME:TAG, the address
	// being the registry endpoint's.
	Ref string
	// Name is the store's, and the one that nodes pull, whose containerd has the
	// endpoint as its mirror.
	Name   string
	Digest string // of the manifest
	ID     string // digest of the config
	From   string // "local store", "archive FILE", "registry HOST" or "recipe NAME"
	Source string // how it once came into the store, in the words of api.Image
}

// Images brings images into the store.
type Images interface {
	// Ensure finds the image that a recipe's name stands for, in the order that
	// holds everywhere: local store, archive, upstream registry, recipe; as far
	// as the Sources of ctx go. It is errdefs.ErrNotFound when none has it. p is
	// told which image it is, and where it came from.
	Ensure(ctx context.Context, name string, p Progress) (Image, error)
}

// Sources are where the images of one plan may come from.
type Sources struct {
	// Offline leaves out what is not on this machine: no registry is asked, and
	// nothing is built that needs the network.
	Offline bool

	mu       sync.Mutex
	archived map[string]string // by the image's name in the store, the archive's
}

// Archived says that an image has just come from an archive.
func (s *Sources) Archived(image, archive string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.archived == nil {
		s.archived = map[string]string{}
	}
	s.archived[image] = archive
}

// Archive is what an image has come from in this plan; "" if from none.
func (s *Sources) Archive(image string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.archived[image]
}

// sourcesKey is the context key of a plan's Sources.
type sourcesKey struct{}

// WithSources returns a context for Ensure.
func WithSources(ctx context.Context, s *Sources) context.Context {
	return context.WithValue(ctx, sourcesKey{}, s)
}

// SourcesOf are those of a context: by default, whatever there is.
func SourcesOf(ctx context.Context) *Sources {
	if s, ok := ctx.Value(sourcesKey{}).(*Sources); ok && s != nil {
		return s
	}
	return &Sources{}
}
