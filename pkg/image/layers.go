package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image/layer"
)

// Layers tells what each instruction of an image's history did, the first
// first: from the layers' tars as they stream by, nothing is unpacked. With
// tree every entry of each layer is listed. The files that a layer removes
// are listed with it, as they were.
func (s *Store) Layers(ctx context.Context, img Image, tree bool) ([]api.ImageLayer, error) {
	rows, filled := instructions(img)
	view := &layersView{root: &viewNode{dir: true}, limit: s.limits.Files}
	for i, layer := range img.Manifest.Layers {
		row := filled[i]
		row.Digest, row.DiffID, row.Size = layer.Digest.String(), img.Config.RootFS.DiffIDs[i].String(), layer.Size
		if err := s.viewLayer(ctx, view, layer, row); err != nil {
			return nil, fmt.Errorf("layer %s of image %s: %w", layer.Digest, cmpOr(img.Name, img.ID.String()), err)
		}
	}
	out := make([]api.ImageLayer, len(rows))
	for i, row := range rows {
		row.finish(tree)
		out[i] = row.ImageLayer
	}
	return out, nil
}

// viewLayer streams one layer's tar through the view.
func (s *Store) viewLayer(ctx context.Context, view *layersView, desc ispec.Descriptor, row *viewLayer) error {
	blob, err := s.blobFile(desc)
	if err != nil {
		return err
	}
	defer blob.Close()
	stream, err := layer.Decompress(untilDone(ctx, blob))
	if err != nil {
		return err
	}
	defer stream.Close()
	limit, words := s.limits.unpacked(desc.Size)
	ahead, stop := layer.ReadAhead(&layer.LimitReader{R: stream, Left: limit, Why: "it unpacks to more than " + words}, nil)
	defer stop()
	view.begin(row)
	tr := tar.NewReader(untilDone(ctx, ahead))
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", layer.Classify(err))
		}
		if err := view.entry(hdr); err != nil {
			return fmt.Errorf("entry %q: %w", hdr.Name, err)
		}
	}
}

// instructions returns a row for each entry of the history, and those of them
// that have a layer, by layer. A history is optional, and may be wrong: every
// layer has a row nevertheless.
func instructions(img Image) (rows, filled []*viewLayer) {
	for _, h := range img.Config.History {
		row := &viewLayer{}
		row.Instruction = instruction(h)
		row.Empty = h.EmptyLayer || len(filled) == len(img.Manifest.Layers)
		rows = append(rows, row)
		if !row.Empty {
			filled = append(filled, row)
		}
	}
	for len(filled) < len(img.Manifest.Layers) {
		row := &viewLayer{}
		rows, filled = append(rows, row), append(filled, row)
	}
	return rows, filled
}

// instruction is what a Dockerfile would say. Docker's classic builder
// recorded the command that it ran, with a mark for those that ran nothing;
// BuildKit adds its name.
func instruction(h ispec.History) string {
	by := strings.TrimSuffix(h.CreatedBy, " # buildkit")
	if by == "" {
		return h.Comment
	}
	if _, nop, ok := strings.Cut(by, "#(nop)"); ok {
		return strings.TrimSpace(nop)
	}
	if command, ok := strings.CutPrefix(by, "/bin/sh -c "); ok {
		return "RUN " + command
	}
	return by
}
