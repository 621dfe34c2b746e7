package dockertest

import (
	"context"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// Images is a store with its endpoint, as stages see it: stack.Images.
type Images struct {
	Store    *image.Store
	Endpoint *registry.Server
}

// Ensure implements stack.Images by what is in the store.
func (i Images) Ensure(_ context.Context, name string, p stack.Progress) (stack.Image, error) {
	img, err := i.Store.Resolve(name)
	if err != nil {
		return stack.Image{}, err
	}
	found := stack.Image{
		Ref: i.Endpoint.Address() + "/" + img.Name, Name: img.Name, Digest: img.Descriptor.Digest.String(), ID: img.ID.String(), From: "local store",
	}
	p.Image(found)
	return found, nil
}
