package image

import (
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// opener opens the blob of a descriptor, in the store or on its way there.
type opener func(ispec.Descriptor) (*os.File, error)

// readImage reads a manifest, or of an index the manifest for this machine,
// with its config, and checks that they fit together.
func readImage(open opener, desc ispec.Descriptor) (Image, error) {
	desc, err := choose(open, desc, 0)
	if err != nil {
		return Image{}, err
	}
	img := Image{Descriptor: desc}
	if err := readDocument(open, desc, &img.Manifest); err != nil {
		return Image{}, err
	}
	var config dockerspec.DockerOCIImage
	if err := readDocument(open, img.Manifest.Config, &config); err != nil {
		return Image{}, err
	}
	img.Config, img.Docker = config.Image, config.Config.DockerOCIImageConfigExt
	img.Config.Config = config.Config.ImageConfig
	img.Config.Platform = completed(img.Config.Platform)
	img.ID = img.Manifest.Config.Digest
	if err := validate(img); err != nil {
		return Image{}, err
	}
	img.ChainIDs = chainIDs(img.Config.RootFS.DiffIDs)
	return img, nil
}

func validate(img Image) error {
	m, c := img.Manifest, img.Config
	if m.SchemaVersion != 2 {
		return fmt.Errorf("manifest %s: schema version %d, want 2: %w", img.Descriptor.Digest, m.SchemaVersion, errdefs.ErrInvalidArgument)
	}
	if c.RootFS.Type != "layers" {
		return fmt.Errorf("config %s: rootfs type %q, want \"layers\": %w", img.ID, c.RootFS.Type, errdefs.ErrInvalidArgument)
	}
	if host := hostPlatform(); c.OS != host.OS || c.Architecture != host.Architecture {
		return fmt.Errorf("image is for %s/%s, this machine is %s/%s: %w",
			c.OS, c.Architecture, host.OS, host.Architecture, errdefs.ErrFailedPrecondition)
	}
	layers, ids := len(m.Layers), len(c.RootFS.DiffIDs)
	if layers != ids {
		return fmt.Errorf("manifest %s has %d layers, its config %d diff IDs: %w", img.Descriptor.Digest, layers, ids, errdefs.ErrInvalidArgument)
	}
	if limit := DefaultLimits().Layers; layers == 0 || layers > limit {
		return fmt.Errorf("manifest %s has %d layers, not 1 to %d: %w", img.Descriptor.Digest, layers, limit, errdefs.ErrInvalidArgument)
	}
	for i, l := range m.Layers {
		if err := checkDigest(l.Digest); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		if err := checkDigest(c.RootFS.DiffIDs[i]); err != nil {
			return fmt.Errorf("diff ID %d: %w", i, err)
		}
		if !slices.Contains(layerTypes, l.MediaType) {
			return fmt.Errorf("layer %s has the media type %q: %w", l.Digest, l.MediaType, errdefs.ErrNotImplemented)
		}
	}
	return nil
}

var layerTypes = []string{
	ispec.MediaTypeImageLayer,
	ispec.MediaTypeImageLayerGzip,
	ispec.MediaTypeImageLayerZstd,
	dockerLayer,
	dockerLayer + ".gzip",
	dockerLayer + ".zstd",
}

// reachable returns every blob that desc needs on this machine: indexes and
// manifest on the way, config, layers.
func reachable(open opener, desc ispec.Descriptor) ([]digest.Digest, error) {
	img, err := readImage(open, desc)
	if err != nil {
		return nil, err
	}
	blobs := []digest.Digest{img.Descriptor.Digest, img.ID}
	for _, l := range img.Manifest.Layers {
		blobs = append(blobs, l.Digest)
	}
	return blobs, nil
}
