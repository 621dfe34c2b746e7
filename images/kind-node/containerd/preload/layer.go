package main

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layer is one that is in the store.
type layer struct {
	desc   ispec.Descriptor
	diffID digest.Digest
}

// writeLayer stores what a tree changes in the one below it: everything, if
// there is none. Everything in it is from the time created.
//
// Layers are compressed although the node image is, too: they are copied into
// every node's volume, and zstd unpacks faster than the disk writes.
func writeLayer(ctx context.Context, cs content.Ingester, dir string, trees []string, created time.Time) (layer, error) {
	name := strings.Join(trees, "+")
	below, top := "", filepath.Join(dir, trees[len(trees)-1])
	if len(trees) > 1 {
		below = filepath.Join(dir, trees[len(trees)-2])
	}
	for _, tree := range []string{below, top} {
		if fi, err := os.Stat(tree); tree != "" && (err != nil || !fi.IsDir()) {
			return layer{}, fmt.Errorf("layer %s: %s is no folder", name, tree)
		}
	}
	cw, err := content.OpenWriter(ctx, cs, content.WithRef("layer-"+name))
	if err != nil {
		return layer{}, fmt.Errorf("open layer %s: %w", name, err)
	}
	defer cw.Close()
	// One goroutine: what several compress depends on how they are scheduled.
	// The other processors have other layers.
	packer, err := zstd.NewWriter(cw, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return layer{}, fmt.Errorf("compress layer %s: %w", name, err)
	}
	plain := digest.Canonical.Digester()
	if err := writeDiff(ctx, io.MultiWriter(packer, plain.Hash()), below, top, created); err != nil {
		return layer{}, fmt.Errorf("write layer %s: %w", name, err)
	}
	if err := packer.Close(); err != nil {
		return layer{}, fmt.Errorf("compress layer %s: %w", name, err)
	}
	st, err := cw.Status()
	if err != nil {
		return layer{}, fmt.Errorf("write layer %s: %w", name, err)
	}
	l := layer{
		desc:   ispec.Descriptor{MediaType: ispec.MediaTypeImageLayerZstd, Digest: cw.Digest(), Size: st.Offset},
		diffID: plain.Digest(),
	}
	if err := cw.Commit(ctx, l.desc.Size, l.desc.Digest); err != nil {
		return layer{}, fmt.Errorf("commit layer %s: %w", name, err)
	}
	return l, nil
}

// writeDiff writes an archive of what the folder top changes in below. Times
// become all the same: those of the folders that a build makes on its way are
// whatever its builder thinks right.
func writeDiff(ctx context.Context, w io.Writer, below, top string, created time.Time) error {
	r, diff := io.Pipe()
	defer r.Close() // ends the goroutine, if this ends early
	go func() { diff.CloseWithError(archive.WriteDiff(ctx, diff, below, top)) }()
	from, to := tar.NewReader(r), tar.NewWriter(w)
	for {
		header, err := from.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		header.ModTime = created
		if err := to.WriteHeader(header); err != nil {
			return fmt.Errorf("%s: %w", header.Name, err)
		}
		if _, err := io.Copy(to, from); err != nil {
			return fmt.Errorf("%s: %w", header.Name, err)
		}
	}
	// What follows the archive's end has to be read, too, and an error with it.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	return to.Close()
}
