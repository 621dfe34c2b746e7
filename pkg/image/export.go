package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/api"
)

// The formats of Export.
const (
	// FormatOCI is a tar of an OCI image layout. What refers to the images
	// comes along.
	FormatOCI = "oci"
	// FormatDocker is what every `docker load` takes, and containerd too: an
	// image layout that also has Docker's manifest.json, as `docker save` has
	// written it since version 25. Docker before 23 cannot read layers that are
	// compressed by zstd: these are written plain, and then there is no layout,
	// since their digests are others.
	FormatDocker = "docker"
)

// ExportOptions are the choices of Export.
type ExportOptions struct {
	Format   string                  // FormatOCI when empty
	Progress func(api.ImageProgress) // by file of the archive; may be nil
}

// Export writes images, which are found as Resolve finds them, as one archive.
// The same images give the same bytes. Whatever becomes of the images
// meanwhile, the archive is whole, or there is an error.
func (s *Store) Export(ctx context.Context, w io.Writer, names []string, opts ExportOptions) error {
	format := cmpOr(opts.Format, FormatOCI)
	switch {
	case format != FormatOCI && format != FormatDocker:
		return fmt.Errorf("export images: format %q, want %q or %q: %w", format, FormatOCI, FormatDocker, errdefs.ErrInvalidArgument)
	case len(names) == 0:
		return fmt.Errorf("export images: no image is named: %w", errdefs.ErrInvalidArgument)
	}
	x := &exporter{store: s, files: map[string]*exportFile{}}
	defer x.close()
	images, err := x.resolve(names)
	if err == nil && format == FormatDocker {
		err = x.docker(ctx, images)
	} else if err == nil {
		err = x.layout(images, true)
	}
	if err == nil {
		err = x.write(ctx, w, opts.Progress)
	}
	if err != nil {
		return fmt.Errorf("export images: %w", err)
	}
	return nil
}

// exporter gathers the files of an archive.
type exporter struct {
	store *Store
	files map[string]*exportFile
}

// resolve finds every image once under each of its names.
func (x *exporter) resolve(names []string) ([]Image, error) {
	var images []Image
	for _, name := range names {
		img, err := x.store.Resolve(name)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(images, func(have Image) bool {
			return have.Name == img.Name && have.Descriptor.Digest == img.Descriptor.Digest
		}) {
			images = append(images, img)
		}
	}
	return images, nil
}

// layout adds an OCI image layout of images.
func (x *exporter) layout(images []Image, referrers bool) error {
	index := ispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageIndex}
	for _, img := range images {
		index.Manifests = append(index.Manifests, exportDescriptor(img))
		if err := errors.Join(x.blob(img.Descriptor, orderDocument), x.blob(img.Manifest.Config, orderDocument)); err != nil {
			return err
		}
		for _, l := range img.Manifest.Layers {
			if err := x.blob(l, orderLayer); err != nil {
				return err
			}
		}
	}
	if referrers {
		if err := x.referrers(images, &index); err != nil {
			return err
		}
	}
	return errors.Join(
		x.document(ispec.ImageLayoutFile, ispec.ImageLayout{Version: ispec.ImageLayoutVersion}),
		x.document(ispec.ImageIndexFile, index))
}

// exportDescriptor names an image in both ways that there are: tools that
// read layouts go by the first, containerd and Docker by the second.
func exportDescriptor(img Image) ispec.Descriptor {
	desc := ispec.Descriptor{
		MediaType: img.Descriptor.MediaType, Digest: img.Descriptor.Digest, Size: img.Descriptor.Size,
		Platform: &ispec.Platform{OS: img.Config.OS, Architecture: img.Config.Architecture, Variant: img.Config.Variant},
	}
	if named, err := reference.ParseNormalizedNamed(img.Name); err == nil {
		desc.Annotations = map[string]string{ispec.AnnotationRefName: img.Name, annotationContainerdName: named.String()}
	}
	return desc
}

// referrers adds what refers to images, and to what does.
func (x *exporter) referrers(images []Image, index *ispec.Index) error {
	all, err := x.store.readIndex()
	if err != nil {
		return err
	}
	candidates, err := x.store.referrers(all)
	if err != nil {
		return err
	}
	alive := map[digest.Digest]bool{}
	for _, img := range images {
		alive[img.Descriptor.Digest] = true
	}
	for _, r := range livingReferrers(candidates, alive) {
		addReferrer(index, r.desc, r.desc.ArtifactType)
		if err := errors.Join(x.blob(r.desc, orderDocument), x.blob(r.manifest.Config, orderDocument)); err != nil {
			return err
		}
		for _, l := range r.manifest.Layers {
			if err := x.blob(l, orderLayer); err != nil {
				return err
			}
		}
	}
	return nil
}

// docker adds a Docker archive of images.
func (x *exporter) docker(ctx context.Context, images []Image) error {
	plain := false
	var entries []*dockerImage
	byManifest := map[digest.Digest]*dockerImage{}
	for _, img := range images {
		entry := byManifest[img.Descriptor.Digest]
		if entry == nil {
			entry = &dockerImage{Config: blobName(img.ID)}
			byManifest[img.Descriptor.Digest] = entry
			entries = append(entries, entry)
			if err := x.blob(img.Manifest.Config, orderDocument); err != nil {
				return err
			}
			for i, l := range img.Manifest.Layers {
				name, err := x.dockerLayer(ctx, l, img.Config.RootFS.DiffIDs[i])
				if err != nil {
					return err
				}
				plain = plain || name != blobName(l.Digest)
				entry.Layers = append(entry.Layers, name)
			}
		}
		if ref, err := reference.ParseNormalizedNamed(img.Name); err == nil {
			if tagged, ok := ref.(reference.NamedTagged); ok {
				entry.RepoTags = append(entry.RepoTags, reference.FamiliarName(tagged)+":"+tagged.Tag())
			}
		}
	}
	if err := x.document(dockerManifestFile, entries); err != nil || plain {
		return err
	}
	return x.layout(images, false)
}

// dockerLayer adds a layer as Docker can read it, and returns its file's name.
func (x *exporter) dockerLayer(ctx context.Context, l ispec.Descriptor, diffID digest.Digest) (string, error) {
	if isZstd(l.MediaType) {
		return blobName(diffID), x.decompressed(ctx, l, diffID)
	}
	return blobName(l.Digest), x.blob(l, orderLayer)
}
