package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Names within the folder of one layer.
const (
	layerFS   = "fs"
	layerLock = "lock"
	layerTemp = "unpack-*"
)

// Unpack makes every layer of img a directory, as overlayfs wants it for
// lowerdir, and returns the directories top layer first. What is unpacked
// already is shared; a layer that another process unpacks is waited for.
func (s *Store) Unpack(ctx context.Context, img Image) ([]string, error) {
	dirs := make([]string, len(img.Manifest.Layers))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, layer := range img.Manifest.Layers {
		diffID := img.Config.RootFS.DiffIDs[i]
		dirs[i] = filepath.Join(s.layerDir(diffID), layerFS)
		if unpacked(dirs[i]) || slices.Contains(dirs[:i], dirs[i]) {
			continue // an empty layer may well occur twice
		}
		group.Go(func() error {
			if err := s.unpackLayer(ctx, layer, diffID); err != nil {
				return fmt.Errorf("unpack layer %s of image %s: %w", layer.Digest, cmpOr(img.Name, img.ID.String()), err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.Reverse(dirs)
	return dirs, nil
}

func (s *Store) layerDir(diffID digest.Digest) string {
	return filepath.Join(s.layers, diffID.Encoded())
}

// unpacked: fs gets its name when its content is complete and on disk.
func unpacked(dir string) bool {
	_, err := os.Lstat(dir)
	return err == nil
}

func (s *Store) unpackLayer(ctx context.Context, layer ispec.Descriptor, diffID digest.Digest) (err error) {
	dir := s.layerDir(diffID)
	lock, err := lockFile(ctx, filepath.Join(dir, layerLock))
	if err != nil {
		return err
	}
	defer lock.Close()
	final := filepath.Join(dir, layerFS)
	if unpacked(final) {
		return nil
	}
	if err := sweepLayer(dir); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(dir, layerTemp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	if err := s.extractLayer(ctx, layer, diffID, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, final); err != nil {
		return err
	}
	return syncDir(dir)
}

// extractLayer unpacks a layer into root, checks it against its diffID, and
// returns when the disk has it all.
func (s *Store) extractLayer(ctx context.Context, layer ispec.Descriptor, diffID digest.Digest, root string) error {
	blob, err := s.blobFile(layer)
	if err != nil {
		return err
	}
	defer blob.Close()
	stream, err := decompress(ctxReader{ctx, blob})
	if err != nil {
		return err
	}
	defer stream.Close()

	limit, words := s.limits.unpacked(layer.Size)
	verifier := diffID.Verifier()
	ahead, stop := readAhead(io.TeeReader(&limitReader{
		r: stream, left: limit, why: "it unpacks to more than " + words,
	}, verifier))
	defer stop()

	x, err := newExtractor(root, extractLimits{files: s.limits.Files, bytes: limit, words: words})
	if err != nil {
		return err
	}
	defer x.close()
	if err := x.extract(ahead); err != nil {
		return err
	}
	// A tar reader stops at the end marker; the digest is of all that comes.
	if _, err := io.Copy(io.Discard, ahead); err != nil {
		return classifyTar(err)
	}
	if !verifier.Verified() {
		return fmt.Errorf("its content is not that of diff ID %s: %w", diffID, errdefs.ErrDataLoss)
	}
	// One syncfs(2), not an fsync for each of thousands of files, comes before
	// the rename that declares the layer whole.
	if err := unix.Syncfs(x.root); err != nil {
		return fmt.Errorf("syncfs %s: %w", root, err)
	}
	return nil
}

// sweepLayer removes what a killed process left of a layer; call it with the
// layer's lock held.
func sweepLayer(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != layerFS && e.Name() != layerLock {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// removeLayer deletes a layer; call it with the layer's lock held. The rename
// comes first, so that a kill never leaves a partial fs.
func removeLayer(dir string) error {
	err := os.Rename(filepath.Join(dir, layerFS), filepath.Join(dir, "removed"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := sweepLayer(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
