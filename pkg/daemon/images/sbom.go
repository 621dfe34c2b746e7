package images

import (
	"context"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/recipe/sbom"
)

// SBOM returns the list of what is in an image: the one that is attached to it,
// or one that is made now.
func (s *Service) SBOM(ctx context.Context, ref string) (api.ImageSBOM, error) {
	img, err := s.Store.Resolve(ref)
	if err != nil {
		return api.ImageSBOM{}, err
	}
	data, err := sbom.Of(ctx, s.Store, s.Views, img, sbom.About{Name: img.Name})
	if err != nil {
		return api.ImageSBOM{}, err
	}
	doc, err := sbom.Parse(data)
	if err != nil {
		return api.ImageSBOM{}, err
	}
	out := api.ImageSBOM{MediaType: sbom.MediaType, Document: data, Licences: doc.ByLicence()}
	if attached, err := s.Store.Referrers(img.Descriptor.Digest, sbom.MediaType); err == nil && len(attached) > 0 {
		out.Digest = attached[0].Digest.String()
	}
	return out, nil
}
