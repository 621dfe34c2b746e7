package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A referrer is a manifest that says something about another, its subject: an
// SBOM, a licence list, a signature (image-spec, manifest.md, "Guidelines for
// Artifact Usage"). In index.json it is an entry with an artifact type and
// without a name, as oras finds it in an image layout. It lives as long as
// its subject.

// AddReferrer attaches content to an image of the store, as a manifest of one
// layer that has artifactType for its media type. The same arguments again
// change nothing.
func (s *Store) AddReferrer(ctx context.Context, subject Image, artifactType string, content []byte, annotations map[string]string) (desc ispec.Descriptor, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("add %s to image %s: %w", cmpOr(artifactType, "referrer"), cmpOr(subject.Name, subject.ID.String()), err)
		}
	}()
	if artifactType == "" {
		return desc, fmt.Errorf("a referrer needs an artifact type: %w", errdefs.ErrInvalidArgument)
	}
	if size := int64(len(content)); size > s.limits.Artifact {
		return desc, fmt.Errorf("%d bytes, at most %d are allowed: %w", size, s.limits.Artifact, errdefs.ErrInvalidArgument)
	}
	stage, err := s.newStaging()
	if err != nil {
		return desc, err
	}
	defer func() { err = errors.Join(err, stage.close()) }()
	layer := ispec.Descriptor{MediaType: artifactType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	empty := ispec.DescriptorEmptyJSON
	if err := errors.Join(stage.add(layer.Digest, bytes.NewReader(content)), stage.add(empty.Digest, bytes.NewReader(empty.Data))); err != nil {
		return desc, err
	}
	about := subject.Descriptor
	desc, err = stage.document(ispec.MediaTypeImageManifest, ispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       empty,
		Layers:       []ispec.Descriptor{layer},
		Subject:      &ispec.Descriptor{MediaType: about.MediaType, Digest: about.Digest, Size: about.Size},
		Annotations:  annotations,
	})
	if err != nil {
		return desc, err
	}
	err = s.update(ctx, func(index *ispec.Index) error {
		if !slices.ContainsFunc(index.Manifests, func(d ispec.Descriptor) bool { return d.Digest == about.Digest && !isReferrer(d) }) {
			return notFound(cmpOr(subject.Name, about.Digest.String()))
		}
		if err := s.commit(stage, []digest.Digest{layer.Digest, empty.Digest, desc.Digest}); err != nil {
			return err
		}
		addReferrer(index, desc, artifactType)
		return nil
	})
	desc.ArtifactType, desc.Annotations = artifactType, annotations
	return desc, err
}

// Referrers returns the manifests that refer to subject, of one artifact type
// or all (""), in the order in which they came; each with artifact type and
// annotations, as a registry lists them (distribution-spec, "Listing
// Referrers").
func (s *Store) Referrers(subject digest.Digest, artifactType string) ([]ispec.Descriptor, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	all, err := s.referrers(index)
	if err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", subject, err)
	}
	var found []ispec.Descriptor
	for _, r := range all {
		if r.manifest.Subject.Digest == subject && (artifactType == "" || r.desc.ArtifactType == artifactType) {
			r.desc.Annotations = r.manifest.Annotations
			found = append(found, r.desc)
		}
	}
	return found, nil
}

// ReadReferrer returns the content of a referrer of one layer, which is what
// AddReferrer was given.
func (s *Store) ReadReferrer(desc ispec.Descriptor) ([]byte, error) {
	m, err := readReferrer(s.blobFile, desc)
	if err != nil {
		return nil, fmt.Errorf("read referrer: %w", err)
	}
	if len(m.Layers) != 1 {
		return nil, fmt.Errorf("referrer %s has %d layers, want one: %w", desc.Digest, len(m.Layers), errdefs.ErrInvalidArgument)
	}
	layer := m.Layers[0]
	if layer.Size > s.limits.Artifact {
		return nil, fmt.Errorf("referrer %s: %d bytes, at most %d are allowed: %w", desc.Digest, layer.Size, s.limits.Artifact, errdefs.ErrInvalidArgument)
	}
	f, err := s.blobFile(layer)
	if err != nil {
		return nil, fmt.Errorf("referrer %s: %w", desc.Digest, err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("referrer %s: %w", desc.Digest, err)
	}
	if digest.FromBytes(data) != layer.Digest {
		return nil, fmt.Errorf("referrer %s: its content has another digest than %s: %w", desc.Digest, layer.Digest, errdefs.ErrDataLoss)
	}
	return data, nil
}

// isReferrer tells the entries of index.json apart: images have no artifact
// type there, see setName.
func isReferrer(desc ispec.Descriptor) bool { return desc.ArtifactType != "" }

// imagesOf returns the entries of index.json that are images.
func imagesOf(index ispec.Index) []ispec.Descriptor {
	return slices.DeleteFunc(slices.Clone(index.Manifests), isReferrer)
}

func addReferrer(index *ispec.Index, desc ispec.Descriptor, artifactType string) {
	entry := ispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size, ArtifactType: artifactType}
	if !slices.ContainsFunc(index.Manifests, func(d ispec.Descriptor) bool { return d.Digest == entry.Digest && isReferrer(d) }) {
		index.Manifests = append(index.Manifests, entry)
	}
}

// readReferrer reads the manifest of a referrer, and checks that it is one.
func readReferrer(open opener, desc ispec.Descriptor) (ispec.Manifest, error) {
	var m ispec.Manifest
	if err := readDocument(open, desc, &m); err != nil {
		return m, err
	}
	switch {
	case m.SchemaVersion != 2:
		return m, fmt.Errorf("manifest %s: schema version %d, want 2: %w", desc.Digest, m.SchemaVersion, errdefs.ErrInvalidArgument)
	case m.Subject == nil:
		return m, fmt.Errorf("manifest %s of %s refers to nothing: %w", desc.Digest, desc.ArtifactType, errdefs.ErrInvalidArgument)
	}
	for _, d := range append([]ispec.Descriptor{*m.Subject, m.Config}, m.Layers...) {
		if err := checkDigest(d.Digest); err != nil {
			return m, fmt.Errorf("manifest %s: %w", desc.Digest, err)
		}
	}
	return m, nil
}

// referrer is one with its manifest.
type referrer struct {
	desc     ispec.Descriptor
	manifest ispec.Manifest
}

// referrers reads those of index. One that is damaged, or gone, is none.
func (s *Store) referrers(index ispec.Index) ([]referrer, error) {
	var all []referrer
	for _, desc := range index.Manifests {
		if !isReferrer(desc) {
			continue
		}
		m, err := readReferrer(s.blobFile, desc)
		if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) || errdefs.IsInvalidArgument(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, referrer{desc, m})
	}
	return all, nil
}

// blobs are all that a referrer needs.
func (r referrer) blobs() []digest.Digest {
	blobs := []digest.Digest{r.desc.Digest, r.manifest.Config.Digest}
	for _, l := range r.manifest.Layers {
		blobs = append(blobs, l.Digest)
	}
	return blobs
}

// livingReferrers returns those of candidates that refer to one of subjects,
// or to a referrer that does: an SBOM may have a signature. alive has the
// subjects' digests, and gets theirs.
func livingReferrers(candidates []referrer, alive map[digest.Digest]bool) []referrer {
	var living []referrer
	for {
		before := len(living)
		for _, r := range candidates {
			if !alive[r.desc.Digest] && alive[r.manifest.Subject.Digest] {
				alive[r.desc.Digest] = true
				living = append(living, r)
			}
		}
		if len(living) == before {
			return living
		}
	}
}
