package images

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// artifactSPDX is the artifact type of an SBOM among an image's referrers.
const artifactSPDX = "application/spdx+json"

// SBOM returns the document that is attached to an image.
func (s *Service) SBOM(ctx context.Context, ref string) (api.ImageSBOM, error) {
	img, err := s.Store.Resolve(ref)
	if err != nil {
		return api.ImageSBOM{}, err
	}
	found, err := s.Store.Referrers(img.Descriptor.Digest, artifactSPDX)
	if err != nil {
		return api.ImageSBOM{}, err
	}
	if len(found) == 0 {
		return api.ImageSBOM{}, &hinted{
			fmt.Errorf("image %s has no SBOM: %w", ref, errdefs.ErrNotFound),
			"images that are built from recipes have one",
		}
	}
	last := found[len(found)-1]
	b, err := s.Store.ReadReferrer(last)
	if err != nil {
		return api.ImageSBOM{}, err
	}
	return api.ImageSBOM{MediaType: artifactSPDX, Digest: last.Digest.String(), Document: b}, nil
}
