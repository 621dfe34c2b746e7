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
	"github.com/sandboxlabs/sandbox/pkg/image/layer"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Names within the folder of one layer.
const (
	layerFS      = "fs"
	layerLock    = "lock"
	layerTemp    = "unpack-*"
	layerPending = "pending" // holds the ID of the boot that unpacked the layer
)

// Unpack makes every layer of img a directory, as overlayfs wants it for
// lowerdir, and returns the directories top layer first. What is unpacked
// already is shared; a layer that another process unpacks is waited for. A
// layer that the image has twice, as an empty one often is, is returned once,
// in its upper place, where it hides the lower one: overlayfs takes no
// directory twice.
//
// It does not wait until the disk has it all, which takes longer than all the
// rest and depends on what else is being written: see Store.settle.
func (s *Store) Unpack(ctx context.Context, img Image) ([]string, error) {
	dirs := make([]string, len(img.Manifest.Layers))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, layer := range img.Manifest.Layers {
		diffID := img.Config.RootFS.DiffIDs[i]
		dirs[i] = filepath.Join(s.layerDir(diffID), layerFS)
		if s.unpacked(s.layerDir(diffID)) || slices.Contains(dirs[:i], dirs[i]) {
			continue
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
	s.settle(dirs)
	return stack(dirs), nil
}

// stack turns directories, bottom first, into a lowerdir: top first, and each
// once. An opaque root hides all that is below it; overlayfs has no regard for
// that, so that what is hidden must not be mounted.
func stack(dirs []string) []string {
	var lower []string
	for _, dir := range slices.Backward(dirs) {
		if !slices.Contains(lower, dir) {
			lower = append(lower, dir)
		}
		if isOpaque(dir) {
			break
		}
	}
	return lower
}

func (s *Store) layerDir(diffID digest.Digest) string {
	return filepath.Join(s.layers, diffID.Encoded())
}

// unpacked reports whether the layer of this folder is whole: fs gets its name
// when its content is complete, but after a power failure a content that was
// still pending may be anything.
func (s *Store) unpacked(dir string) bool {
	if _, err := os.Lstat(filepath.Join(dir, layerFS)); err != nil {
		return false
	}
	boot, err := os.ReadFile(filepath.Join(dir, layerPending))
	return errors.Is(err, fs.ErrNotExist) || err == nil && string(boot) == s.boot
}

// settle brings layers that are pending onto the disk, in the background: one
// syncfs(2) for all of them. Close waits for it. When it fails, or the process
// ends before, the marks stay, and the next Unpack tries again.
func (s *Store) settle(dirs []string) {
	pending := map[string]fs.FileInfo{}
	for _, dir := range dirs {
		mark := filepath.Join(filepath.Dir(dir), layerPending)
		if info, err := os.Lstat(mark); err == nil {
			pending[mark] = info
		}
	}
	if len(pending) == 0 {
		return
	}
	s.background.Go(func() {
		root, err := os.Open(s.layers)
		if err != nil {
			return
		}
		defer root.Close()
		if unix.Syncfs(int(root.Fd())) != nil {
			return
		}
		for mark, before := range pending {
			// Meanwhile the layer may have been removed, and unpacked anew.
			now, err := os.Lstat(mark)
			if err == nil && os.SameFile(now, before) && now.ModTime().Equal(before.ModTime()) {
				_ = os.Remove(mark)
			}
		}
	})
}

func (s *Store) unpackLayer(ctx context.Context, desc ispec.Descriptor, diffID digest.Digest) error {
	dir := s.layerDir(diffID)
	lock, err := lockFile(ctx, filepath.Join(dir, layerLock))
	if err != nil {
		return err
	}
	defer lock.Close()
	if s.unpacked(dir) {
		return nil
	}
	return s.unpackLocked(ctx, desc, diffID, dir)
}

// unpackLocked is unpackLayer with the lock of the layer's folder dir held.
func (s *Store) unpackLocked(ctx context.Context, desc ispec.Descriptor, diffID digest.Digest, dir string) error {
	if err := clearLayer(dir); err != nil {
		return err
	}
	// A file system journals its changes in their order: no crash shows fs
	// and not this.
	if err := os.WriteFile(filepath.Join(dir, layerPending), []byte(s.boot), 0o600); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(dir, layerTemp)
	if err != nil {
		return err
	}
	if err := s.extractLayer(ctx, desc, diffID, temp); err != nil {
		return errors.Join(err, clearLayer(dir))
	}
	return os.Rename(temp, filepath.Join(dir, layerFS))
}

// extractLayer unpacks a layer into root and checks it against its diffID.
func (s *Store) extractLayer(ctx context.Context, desc ispec.Descriptor, diffID digest.Digest, root string) error {
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
	verifier := diffID.Verifier()
	ahead, stop := layer.ReadAhead(&layer.LimitReader{
		R: stream, Left: limit, Why: "it unpacks to more than " + words,
	}, verifier)
	defer stop()
	// ctx also ends the writing of what was read ahead.
	ahead = untilDone(ctx, ahead)
	if err := layer.Extract(root, ahead, layer.Limits{Files: s.limits.Files, Bytes: limit, Words: words}); err != nil {
		return err
	}
	// A tar reader stops at the end marker; the digest is of all that comes.
	if _, err := io.Copy(io.Discard, ahead); err != nil {
		return layer.Classify(err)
	}
	if !verifier.Verified() {
		return fmt.Errorf("its content is not that of diff ID %s: %w", diffID, errdefs.ErrDataLoss)
	}
	return nil
}

// sweepLayer removes what a killed process left beside a layer; call it with
// the layer's lock held.
func sweepLayer(dir string) error {
	temps, err := filepath.Glob(filepath.Join(dir, layerTemp))
	if err != nil {
		return err
	}
	var errs []error
	for _, temp := range temps {
		errs = append(errs, os.RemoveAll(temp))
	}
	return errors.Join(errs...)
}

// clearLayer removes everything but the lock; call it with the lock held. The
// rename comes first, so that a kill never leaves a partial fs.
func clearLayer(dir string) error {
	err := os.Rename(filepath.Join(dir, layerFS), filepath.Join(dir, "unpack-removed"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = os.Remove(filepath.Join(dir, layerPending))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return sweepLayer(dir)
}

// removeLayer deletes a layer with its folder; call it with the lock held.
func removeLayer(dir string) error {
	if err := clearLayer(dir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, layerLock)); err != nil {
		return err
	}
	// Somebody who wants the layer may have made a new lock already.
	if err := os.Remove(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}
