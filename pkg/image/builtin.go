package image

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// EnsureBuiltin imports the archive that travels inside the binary, unless the
// store has its image already. Nothing but the first bytes of f is read to
// know: WriteArchive puts name and manifest digest into the gzip header.
func (s *Store) EnsureBuiltin(ctx context.Context, f fs.File) (Image, error) {
	r := bufio.NewReaderSize(f, 4<<10)
	head, _ := r.Peek(1 << 10) // Import reports what is wrong with f
	if name, want, ok := archiveLabel(head); ok {
		if img, err := s.Resolve(name); err == nil && img.Descriptor.Digest == want && s.complete(img) {
			return img, nil
		}
	}
	images, err := s.Import(ctx, r, ImportOptions{Source: SourceBuiltin})
	if err != nil {
		return Image{}, fmt.Errorf("built-in image: %w", err)
	}
	if len(images) != 1 || images[0].Name == "" {
		return Image{}, fmt.Errorf("built-in image: archive holds %d images, want one with a name: %w", len(images), errdefs.ErrInternal)
	}
	return images[0], nil
}

// complete reports whether the store has every layer of img.
func (s *Store) complete(img Image) bool {
	for _, layer := range img.Manifest.Layers {
		f, err := s.blobFile(layer)
		if err != nil {
			return false
		}
		f.Close()
	}
	return true
}

// archiveLabel reads "NAME@DIGEST" from the comment of a gzip header. It is
// only a hint: what is imported is verified whatever it says.
func archiveLabel(head []byte) (name string, manifest digest.Digest, ok bool) {
	zr, err := gzip.NewReader(bytes.NewReader(head))
	if err != nil {
		return "", "", false
	}
	name, d, ok := strings.Cut(zr.Comment, "@")
	manifest = digest.Digest(d)
	return name, manifest, ok && checkDigest(manifest) == nil
}
