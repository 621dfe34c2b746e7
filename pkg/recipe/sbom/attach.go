package sbom

import (
	"context"
	"errors"
	"fmt"

	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
)

// Of returns the document of an image, encoded: the one that is attached to it,
// or else one that is made now of its files, and attached as an OCI referrer.
func Of(ctx context.Context, images *image.Store, layers engine.LayerEngine, img image.Image, about About) ([]byte, error) {
	attached, err := images.Referrers(img.Descriptor.Digest, MediaType)
	if err != nil {
		return nil, err
	}
	for _, desc := range attached {
		data, err := images.ReadReferrer(desc)
		if err == nil {
			return data, nil
		}
	}
	about.Digest = img.Descriptor.Digest
	if about.Created.IsZero() && img.Config.Created != nil {
		about.Created = *img.Config.Created
	}
	doc, err := scanImage(ctx, images, layers, img, about)
	if err != nil {
		return nil, fmt.Errorf("list what is in image %s: %w", img.Name, err)
	}
	data := doc.SPDX()
	_, err = images.AddReferrer(ctx, img, MediaType, data, nil)
	return data, err
}

// scanImage scans the image's layers as the one tree that a container sees.
func scanImage(ctx context.Context, images *image.Store, layers engine.LayerEngine, img image.Image, about About) (doc Document, err error) {
	lower, err := images.Unpack(ctx, img)
	if err != nil {
		return doc, err
	}
	view, err := layers.MountLayers(ctx, lower, "", nil)
	if err != nil {
		return doc, err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	return Scan(ctx, view.Path(), about)
}

// Describer is what recipe.Maker calls to attach a document to each image.
func Describer(images *image.Store, layers engine.LayerEngine) func(context.Context, *recipe.Recipe, image.Image) error {
	return func(ctx context.Context, r *recipe.Recipe, img image.Image) error {
		_, err := Of(ctx, images, layers, img, About{Name: r.Name, Version: r.Version, Licence: r.Licence, Created: r.Created})
		return err
	}
}
