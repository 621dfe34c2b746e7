package main

import (
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
// there is none. No file in it is newer than created.
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
	if err := archive.WriteDiff(ctx, io.MultiWriter(packer, plain.Hash()), below, top, archive.WithSourceDateEpoch(&created)); err != nil {
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
