package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Reclaimed is what a GC removed.
type Reclaimed struct {
	Blobs  int
	Layers int
	Bytes  int64 // of disk space
}

// Add makes r the sum of both.
func (r *Reclaimed) Add(other Reclaimed) {
	r.Blobs += other.Blobs
	r.Layers += other.Layers
	r.Bytes += other.Bytes
}

// GC removes blobs and unpacked layers that no image has, and leftovers of
// imports and unpackings that were killed. What keep names stays, whatever
// became of its image: directories, as Unpack and LayerDir return them, that
// containers or builds still use, and digests, of blobs or of unpacked layers
// (diff IDs). The caller sees to it that no container is being created.
func (s *Store) GC(ctx context.Context, keep []string) (Reclaimed, error) {
	var got Reclaimed
	lock, err := lockFile(ctx, s.lockPath())
	if err != nil {
		return got, fmt.Errorf("collect garbage: %w", err)
	}
	defer lock.Close()
	blobs, layers, err := s.needed()
	if err != nil {
		return got, fmt.Errorf("collect garbage: %w", err)
	}
	for _, name := range keep {
		if d := digest.Digest(name); checkDigest(d) == nil {
			blobs[d.Encoded()], layers[d.Encoded()] = true, true
		} else {
			layers[filepath.Base(filepath.Dir(name))] = true
		}
	}
	err = errors.Join(s.sweepIngest(ctx), s.sweepBlobs(ctx, blobs, &got), s.sweepLayers(ctx, layers, &got))
	if err != nil {
		return got, fmt.Errorf("collect garbage: %w", err)
	}
	return got, nil
}

// needed returns what the images have, and forgets referrers whose subject is
// gone; call it with the store locked. An image that cannot be read ends it:
// what it needs is not known.
func (s *Store) needed() (blobs, layers map[string]bool, err error) {
	images, err := s.List()
	if err != nil {
		return nil, nil, err
	}
	blobs, layers = map[string]bool{}, map[string]bool{}
	alive := map[digest.Digest]bool{}
	for _, img := range images {
		alive[img.Descriptor.Digest] = true
		blobs[img.Descriptor.Digest.Encoded()] = true
		blobs[img.ID.Encoded()] = true
		for i, layer := range img.Manifest.Layers {
			blobs[layer.Digest.Encoded()] = true
			layers[img.Config.RootFS.DiffIDs[i].Encoded()] = true
		}
	}
	index, err := s.readIndex()
	if err != nil {
		return nil, nil, err
	}
	for _, desc := range imagesOf(index) {
		if root := indexDigest(desc); root != "" {
			alive[root] = true
			blobs[root.Encoded()] = true
		}
	}
	candidates, err := s.referrers(index)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range livingReferrers(candidates, alive) {
		for _, d := range r.blobs() {
			blobs[d.Encoded()] = true
		}
	}
	before := len(index.Manifests)
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d ispec.Descriptor) bool { return isReferrer(d) && !alive[d.Digest] })
	if len(index.Manifests) < before {
		err = s.writeIndex(index)
	}
	return blobs, layers, err
}

func (s *Store) sweepBlobs(ctx context.Context, keep map[string]bool, got *Reclaimed) error {
	dir := filepath.Dir(s.blobPath(emptyDigest))
	return eachEntry(ctx, dir, func(path string) error {
		if keep[filepath.Base(path)] {
			return nil
		}
		size := diskUsage(path)
		if err := os.Remove(path); err != nil {
			return err
		}
		got.Blobs++
		got.Bytes += size
		return nil
	})
}

func (s *Store) sweepLayers(ctx context.Context, keep map[string]bool, got *Reclaimed) error {
	return eachEntry(ctx, s.layers, func(path string) error {
		if checkDigest(digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(path))) != nil {
			return nil // not ours
		}
		lock, err := tryLockFile(filepath.Join(path, layerLock), lockFlags)
		if lock == nil || err != nil {
			return err // being unpacked: not garbage
		}
		defer lock.Close()
		if keep[filepath.Base(path)] {
			return sweepLayer(path)
		}
		size := diskUsage(path)
		if err := removeLayer(path); err != nil {
			return err
		}
		got.Layers++
		got.Bytes += size
		return nil
	})
}

func (s *Store) sweepIngest(ctx context.Context) error {
	return eachEntry(ctx, s.ingestDir(), func(path string) error {
		if filepath.Base(path) == partialDir {
			return s.sweepPartials(ctx, false)
		}
		dir, isLock := strings.CutSuffix(path, stagingLock)
		if !isLock {
			if _, err := os.Lstat(path + stagingLock); err == nil {
				return nil // see to it with its lock
			}
			return os.RemoveAll(path)
		}
		lock, err := tryLockFile(path, os.O_RDWR)
		if lock == nil || err != nil {
			return err // an import is under way, or has ended
		}
		return errors.Join(os.RemoveAll(dir), os.Remove(path), lock.Close())
	})
}

// eachEntry calls do for every entry of dir, past failures, and joins those.
func eachEntry(ctx context.Context, dir string, do func(path string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if err := context.Cause(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, do(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// diskUsage is how many bytes the files at and below path occupy. It is for
// people to read: what cannot be read counts nothing.
func diskUsage(path string) int64 {
	var total int64
	seen := map[uint64]bool{} // hard links count once
	_ = filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || unix.Lstat(p, &st) != nil || seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = true
		total += st.Blocks * 512 // stat(2): st_blocks counts 512-byte units
		return nil
	})
	return total
}
