package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

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
	Progress func(bytes int64) // told how much of the archive has been read; may be nil
}

// Import reads an OCI archive (a tar of an OCI image layout, plain or
// compressed by gzip or zstd) into the store, and returns its images for this
// machine. Nothing of an archive with a fault is kept. Errors of the archive
// are errdefs.ErrInvalidArgument.
func (s *Store) Import(ctx context.Context, r io.Reader, opts ImportOptions) (images []Image, err error) {
	stage, err := s.newStaging()
	if err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	defer func() { err = errors.Join(err, stage.close()) }()

	index, err := s.readArchive(ctx, r, stage, opts.Progress)
	if err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	if opts.Name != "" && len(index.Manifests) != 1 {
		return nil, fmt.Errorf("import image as %s: the archive holds %d images: %w", opts.Name, len(index.Manifests), errdefs.ErrInvalidArgument)
	}
	open := s.opener(stage)
	for _, desc := range index.Manifests {
		img, err := readImage(open, desc)
		if err != nil {
			return nil, fmt.Errorf("import image: %w", err)
		}
		for _, layer := range img.Manifest.Layers {
			f, err := open(layer)
			if err != nil {
				return nil, fmt.Errorf("import image: %w", err)
			}
			f.Close()
		}
		if img.Name, err = archiveName(desc, opts.Name); err != nil {
			return nil, fmt.Errorf("import image: %w", err)
		}
		img.Source = cmpOr(opts.Source, SourceArchive)
		images = append(images, img)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	if err := s.publish(ctx, stage, images); err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	return images, nil
}

// publish moves the images' blobs into the store and gives them their names,
// as one step in the eyes of GC.
func (s *Store) publish(ctx context.Context, stage *staging, images []Image) error {
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

// archiveName is the name that an archive's image gets in the store; none is
// no error.
func archiveName(desc ispec.Descriptor, override string) (string, error) {
	if override != "" {
		return familiar(override)
	}
	if name := desc.Annotations[annotationContainerdName]; name != "" {
		return familiar(name)
	}
	if name := desc.Annotations[ispec.AnnotationRefName]; name != "" {
		return familiar(name)
	}
	return "", nil
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

// readArchive stages every blob of the archive and returns its index.
func (s *Store) readArchive(ctx context.Context, r io.Reader, stage *staging, progress func(int64)) (ispec.Index, error) {
	var index ispec.Index
	stream, err := decompress(&countingReader{r: untilDone(ctx, r), report: progress})
	if err != nil {
		return index, err
	}
	defer stream.Close()
	var (
		layout ispec.ImageLayout
		seen   = map[string]bool{}
		left   = s.limits.Archive
		tr     = tar.NewReader(&limitReader{r: stream, left: s.limits.Archive + int64(s.limits.Files)<<11, why: "archive is too large"})
	)
	for files := 0; ; files++ {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return index, fmt.Errorf("read archive: %w", classifyTar(err))
		}
		if files >= s.limits.Files {
			return index, fmt.Errorf("archive has more than %d files: %w", s.limits.Files, errdefs.ErrInvalidArgument)
		}
		name, err := entryPath(hdr.Name)
		if err != nil {
			return index, fmt.Errorf("archive entry %q: %w", hdr.Name, err)
		}
		if hdr.Typeflag == tar.TypeDir {
			continue
		}
		if seen[name] {
			return index, fmt.Errorf("archive entry %q comes twice: %w", hdr.Name, errdefs.ErrInvalidArgument)
		}
		seen[name] = true
		if hdr.Typeflag != tar.TypeReg {
			continue // a layout has only files; docker's old links into it are not for us
		}
		if left -= hdr.Size; left < 0 {
			return index, fmt.Errorf("archive entry %q: archive holds more than %d bytes: %w", hdr.Name, s.limits.Archive, errdefs.ErrInvalidArgument)
		}
		switch dir, base := path.Split(name); {
		case name == ispec.ImageLayoutFile:
			err = s.readJSON(tr, hdr, &layout)
		case name == ispec.ImageIndexFile:
			err = s.readJSON(tr, hdr, &index)
		case dir == ispec.ImageBlobsDir+"/sha256/":
			d := digest.NewDigestFromEncoded(digest.SHA256, base)
			if err = checkDigest(d); err == nil {
				err = stage.add(d, tr)
			}
		}
		if err != nil {
			return index, fmt.Errorf("archive entry %q: %w", hdr.Name, classifyTar(err))
		}
	}
	switch {
	case !seen[ispec.ImageLayoutFile] && seen["manifest.json"]:
		return index, fmt.Errorf("this is a docker archive of an engine before 25, only OCI archives can be imported: %w", errdefs.ErrNotImplemented)
	case !seen[ispec.ImageLayoutFile] || !seen[ispec.ImageIndexFile]:
		return index, fmt.Errorf("this is no OCI archive: it lacks oci-layout or index.json: %w", errdefs.ErrInvalidArgument)
	case layout.Version != ispec.ImageLayoutVersion:
		return index, fmt.Errorf("OCI archive of layout version %q, want %s: %w", layout.Version, ispec.ImageLayoutVersion, errdefs.ErrNotImplemented)
	case len(index.Manifests) == 0:
		return index, fmt.Errorf("OCI archive holds no image: %w", errdefs.ErrInvalidArgument)
	}
	return index, nil
}

func (s *Store) readJSON(r io.Reader, hdr *tar.Header, v any) error {
	if hdr.Size > s.limits.Document {
		return fmt.Errorf("%d bytes, at most %d are allowed: %w", hdr.Size, s.limits.Document, errdefs.ErrInvalidArgument)
	}
	if err := json.NewDecoder(r).Decode(v); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// entryPath is the cleaned name of a tar entry, relative to the root that it
// is unpacked to; "." is the root itself. Absolute names and names with ".."
// are refused even where they would lead back inside: no honest tool writes
// them.
func entryPath(name string) (string, error) {
	switch {
	case name == "/":
		return ".", nil
	case strings.HasPrefix(name, "/"):
		return "", fmt.Errorf("absolute path: %w", errdefs.ErrInvalidArgument)
	case strings.IndexByte(name, 0) >= 0:
		return "", fmt.Errorf("path with a NUL byte: %w", errdefs.ErrInvalidArgument)
	case name == "":
		return "", fmt.Errorf("empty path: %w", errdefs.ErrInvalidArgument)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("path with \"..\": %w", errdefs.ErrInvalidArgument)
		}
	}
	return path.Clean(name), nil
}

// classifyTar marks errors of a malformed stream as the archive's fault.
func classifyTar(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || isCorrupt(err) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}
