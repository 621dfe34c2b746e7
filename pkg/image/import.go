package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationContainerdName is where containerd, nerdctl and buildx put an
// image's whole name; their org.opencontainers.image.ref.name is a bare tag.
const annotationContainerdName = "io.containerd.image.name"

// ImportOptions are the choices of Import.
type ImportOptions struct {
	Name     string            // instead of the archive's own; only for an archive of one image
	Source   string            // SourceArchive when empty
	Missing  bool              // leave out images whose names the store has
	Progress func(bytes int64) // told how much of the archive has been read; may be nil
}

// Import reads an archive, plain or compressed by gzip, zstd, bzip2 or xz, into
// the store, and returns its images for this machine, one for each name. An archive is a
// tar of an OCI image layout, with what refers to its images, or one that
// `docker save` of any engine since 1.10, or its like, has written; of one
// that is both the layout counts. Blobs are kept as they came: the layers of
// Docker's archives often are not compressed.
//
// Nothing of an archive with a fault is kept. Errors of the archive are
// errdefs.ErrInvalidArgument.
func (s *Store) Import(ctx context.Context, r io.Reader, opts ImportOptions) (images []Image, err error) {
	defer func() {
		if err != nil {
			images, err = nil, fmt.Errorf("import image: %w", err)
		}
	}()
	stage, err := s.newStaging()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stage.close()) }()

	content, err := s.readArchive(ctx, r, stage, opts.Progress)
	if err != nil {
		return nil, err
	}
	if opts.Name != "" {
		if err := content.rename(opts.Name); err != nil {
			return nil, err
		}
	}
	open := s.opener(stage)
	for _, entry := range content.images {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		img, err := readImage(open, entry.desc)
		if err != nil {
			return nil, err
		}
		for _, layer := range img.Manifest.Layers {
			f, err := open(layer)
			if err != nil {
				return nil, err
			}
			f.Close()
		}
		if entry.name != "" {
			if img.Name, err = familiar(entry.name); err != nil {
				return nil, err
			}
		}
		if opts.Missing {
			if have, err := s.has(img); err != nil {
				return nil, err
			} else if have {
				continue
			}
		}
		img.Source = cmpOr(opts.Source, SourceArchive)
		images = append(images, img)
	}
	referrers, err := content.living(open, images)
	if err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return images, s.publish(ctx, stage, images, referrers)
}

// has reports whether the store has an image of the same name, or, of one
// without a name, the image.
func (s *Store) has(img Image) (bool, error) {
	_, err := s.Resolve(cmpOr(img.Name, img.Descriptor.Digest.String()))
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// publish moves the blobs of images and of what refers to them into the store,
// and gives the images their names, as one step in the eyes of GC.
func (s *Store) publish(ctx context.Context, stage *staging, images []Image, referrers []referrer) error {
	if err := stage.flush.Wait(); err != nil { // before others have to wait
		return err
	}
	return s.update(ctx, func(index *ispec.Index) error {
		open := s.opener(stage)
		for _, img := range images {
			// Once more under the lock: a blob that was in the store may have
			// gone since.
			blobs, err := reachable(open, img.Descriptor)
			if err != nil {
				return err
			}
			if err := s.commit(stage, blobs); err != nil {
				return err
			}
			for _, layer := range img.Manifest.Layers {
				f, err := s.blobFile(layer)
				if err != nil {
					return err
				}
				f.Close()
			}
			desc := img.Descriptor
			desc.Annotations = map[string]string{annotationSource: img.Source}
			if img.Name != "" {
				desc.Annotations[ispec.AnnotationRefName] = img.Name
			}
			setName(index, desc)
		}
		for _, r := range referrers {
			if err := s.commit(stage, r.blobs()); err != nil {
				return err
			}
			addReferrer(index, r.desc, r.desc.ArtifactType)
		}
		return nil
	})
}

// opener opens blobs of stage, and for the rest those of the store.
func (s *Store) opener(stage *staging) opener {
	return func(desc ispec.Descriptor) (*os.File, error) {
		return openBlob(func(d digest.Digest) string {
			if _, staged := stage.blobs[d]; staged {
				return stage.path(d)
			}
			return s.blobPath(d)
		}, desc)
	}
}

// familiar is the one spelling under which the store keeps a name: tagged,
// and without the parts that docker leaves out.
func familiar(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	return reference.FamiliarString(reference.TagNameOnly(named)), nil
}
