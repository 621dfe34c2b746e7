package stack

import "context"

// Image is one that Docker and the nodes of a cluster can pull now.
type Image struct {
	// Ref is what Docker on this host calls it: ADDRESS/NAME:TAG, the address
	// being the registry endpoint's.
	Ref string
	// Name is the store's, and the one that nodes pull, whose containerd has the
	// endpoint as its mirror.
	Name   string
	Digest string // of the manifest
	From   string // "local store", "registry HOST" or "recipe NAME"
}

// Images brings images into the store.
type Images interface {
	// Ensure finds the image that a recipe's name stands for, in the order that
	// holds everywhere: local store, archive, upstream registry, recipe. It is
	// errdefs.ErrNotFound when none has it.
	Ensure(ctx context.Context, name string, p Progress) (Image, error)
}
