package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image/layer"
)

// dockerImage is one image of manifest.json (Docker's image specification,
// v1.2, "Combined Image JSON + Filesystem Changeset Format").
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string // bottom first
}

// dockerImages makes the images of manifest.json images of an OCI layout: the
// configuration stays, and with it the image's ID; a manifest is added. The
// same archive always gives the same one.
func (a *archiveReader) dockerImages(ctx context.Context) ([]archiveImage, error) {
	var images []archiveImage
	if len(a.docker) > a.store.limits.Images {
		return nil, a.tooMany()
	}
	for i, entry := range a.docker {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		desc, err := a.dockerImage(entry)
		if err != nil {
			return nil, fmt.Errorf("image %d of manifest.json: %w", i, err)
		}
		if len(entry.RepoTags) == 0 {
			images = append(images, archiveImage{desc, ""})
		}
		for _, name := range entry.RepoTags {
			images = append(images, archiveImage{desc, name})
		}
	}
	return images, nil
}

func (a *archiveReader) dockerImage(entry dockerImage) (ispec.Descriptor, error) {
	open := a.store.opener(a.stage)
	config, err := a.file(entry.Config)
	if err != nil {
		return config, fmt.Errorf("config: %w", err)
	}
	config.MediaType = ispec.MediaTypeImageConfig
	var img ispec.Image
	if err := readDocument(open, config, &img); err != nil {
		return config, fmt.Errorf("config: %w", err)
	}
	if layers, ids := len(entry.Layers), len(img.RootFS.DiffIDs); layers != ids {
		return config, fmt.Errorf("it has %d layers, its config %d diff IDs: %w", layers, ids, errdefs.ErrInvalidArgument)
	}
	manifest := ispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ispec.MediaTypeImageManifest,
		Config:    config,
	}
	for i, name := range entry.Layers {
		layer, err := a.file(name)
		if err != nil {
			return config, fmt.Errorf("layer %d: %w", i, err)
		}
		if layer.MediaType, err = sniffLayer(open, layer); err != nil {
			return config, fmt.Errorf("layer %d: %w", i, err)
		}
		if layer.MediaType == ispec.MediaTypeImageLayer && layer.Digest != img.RootFS.DiffIDs[i] {
			return config, fmt.Errorf("layer %d: file %q has the digest %s, its diff ID is %s: %w",
				i, name, layer.Digest, img.RootFS.DiffIDs[i], errdefs.ErrInvalidArgument)
		}
		manifest.Layers = append(manifest.Layers, layer)
	}
	return a.stage.document(ispec.MediaTypeImageManifest, manifest)
}

// sniffLayer finds the media type of a layer by its first bytes.
func sniffLayer(open opener, desc ispec.Descriptor) (string, error) {
	f, err := open(desc)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return layerType(f)
}

func layerType(f *os.File) (string, error) {
	magic := make([]byte, len(layer.ZstdMagic))
	n, err := f.ReadAt(magic, 0)
	if err != nil && err != io.EOF {
		return "", err
	}
	switch magic = magic[:n]; {
	case bytes.HasPrefix(magic, layer.GzipMagic):
		return ispec.MediaTypeImageLayerGzip, nil
	case layer.IsZstd(magic):
		return ispec.MediaTypeImageLayerZstd, nil
	}
	return ispec.MediaTypeImageLayer, nil
}
