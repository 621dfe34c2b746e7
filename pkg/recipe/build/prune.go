package build

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build/filecopy"
)

func (c *cache) caches() string { return filepath.Join(c.root, "cache") }

// usage is what a Builder remembers from one build to the next.
type usage struct {
	once  sync.Once
	cache *filecopy.Cache
}

// digests are those of files of build contexts, valid as long as the files are
// not changed.
func (u *usage) digests() *filecopy.Cache {
	u.once.Do(func() { u.cache = &filecopy.Cache{} })
	return u.cache
}

// volatile is a folder below Run, in memory, for the time of the instruction.
func (r *run) volatile(x *execution) (string, error) {
	dir := filepath.Join(x.b.volatileRoot(), filepath.Base(r.dir))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	r.later(func() error { return os.RemoveAll(dir) })
	return dir, nil
}

func (b *Builder) volatileRoot() string { return filepath.Join(b.Dirs.Run, "build") }

// sweepVolatile removes what killed builds have left in memory: they belong to
// layers that are no more.
func (b *Builder) sweepVolatile(c *cache) error {
	entries, err := os.ReadDir(b.volatileRoot())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		if _, err := os.Lstat(filepath.Join(c.layers(), e.Name())); errors.Is(err, os.ErrNotExist) {
			errs = append(errs, os.RemoveAll(filepath.Join(b.volatileRoot(), e.Name())))
		}
	}
	return errors.Join(append(errs, err)...)
}

// Keep lists what the build cache needs of the store, as Store.GC takes it:
// without that, instructions would run again.
func (b *Builder) Keep() []string {
	c, err := b.cache()
	if err != nil {
		return nil
	}
	var keep []string
	for _, l := range c.all() {
		if packed := l.record().Packed; packed != nil {
			keep = append(keep, packed.Descriptor.Digest.String(), packed.DiffID.String())
		}
	}
	return keep
}

// all are the layers that keys lead to.
func (c *cache) all() (layers []*layer) {
	keys, err := os.ReadDir(c.steps())
	if err != nil {
		return nil
	}
	for _, key := range keys {
		if l := c.lookup(keyOf(key.Name())); l != nil {
			layers = append(layers, l)
		}
	}
	return layers
}

// Prune forgets layers that no build has used for that long, and, with caches,
// what cache mounts of the same age keep. What a running build needs stays. The
// layers that images have stay in the store.
func (b *Builder) Prune(ctx context.Context, olderThan time.Duration, caches bool) (image.Reclaimed, error) {
	var got image.Reclaimed
	c, err := b.cache()
	if err != nil {
		return got, err
	}
	before := time.Now().Add(-olderThan)
	errs := []error{c.sweep(), b.sweepVolatile(c)}
	keys, err := os.ReadDir(c.steps())
	if err != nil {
		return got, err
	}
	for _, key := range keys {
		if err := context.Cause(ctx); err != nil {
			return got, errors.Join(append(errs, err)...)
		}
		errs = append(errs, c.forget(keyOf(key.Name()), before, &got))
	}
	if caches {
		errs = append(errs, c.pruneCaches(ctx, before, &got))
	}
	return got, errors.Join(append(errs, c.pruneLocks())...)
}

func keyOf(name string) digest.Digest { return digest.NewDigestFromEncoded(digest.SHA256, name) }

// forget removes a key and its layer, if nobody has used it since, and nobody
// does now.
func (c *cache) forget(key digest.Digest, before time.Time, got *image.Reclaimed) error {
	dir, err := c.target(key)
	if err != nil {
		return nil // another prune was quicker, or it is no link
	}
	if st, err := os.Lstat(filepath.Join(dir, layerRecord)); err == nil && st.ModTime().After(before) {
		return nil
	}
	use, err := tryLock(filepath.Join(dir, layerUse), exclusive)
	if err != nil || use == nil && exists(dir) {
		return err
	}
	if use != nil {
		defer use.Close()
	}
	if err := os.Remove(c.step(key)); err != nil {
		return err
	}
	if use == nil {
		return nil
	}
	got.Layers++
	got.Bytes += diskUsage(dir)
	return removeLayer(dir)
}

func (c *cache) pruneCaches(ctx context.Context, before time.Time, got *image.Reclaimed) error {
	entries, err := os.ReadDir(c.caches())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if err := context.Cause(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, c.pruneCache(e.Name(), before, got))
	}
	return errors.Join(errs...)
}

func (c *cache) pruneCache(name string, before time.Time, got *image.Reclaimed) error {
	path := filepath.Join(c.locks(), "cache-"+name)
	held, err := tryLock(path, exclusive)
	if held == nil || err != nil {
		return err // it is mounted
	}
	defer held.Close()
	if st, err := held.Stat(); err != nil || st.ModTime().After(before) {
		return err
	}
	dir := filepath.Join(c.caches(), name)
	size := diskUsage(dir)
	// The folder loses its name first: half a cache is worse than none.
	gone, err := os.MkdirTemp(c.root, "pruned-")
	if err != nil {
		return err
	}
	err = os.Rename(dir, filepath.Join(gone, "fs"))
	if err = errors.Join(err, os.RemoveAll(gone)); err != nil {
		return err
	}
	got.Bytes += size
	return os.Remove(path)
}

// pruneLocks removes the locks of keys that are no more, and what a prune that
// was killed has left.
func (c *cache) pruneLocks() error {
	entries, err := os.ReadDir(c.locks())
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		key := keyOf(e.Name())
		if key.Validate() != nil || exists(c.step(key)) {
			continue
		}
		path := filepath.Join(c.locks(), e.Name())
		held, err := tryLock(path, exclusive)
		if held != nil {
			err = errors.Join(os.Remove(path), held.Close())
		}
		errs = append(errs, err)
	}
	pruned, _ := filepath.Glob(filepath.Join(c.root, "pruned-*"))
	for _, dir := range pruned {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// diskUsage is how many bytes the files at and below path occupy. It is for
// people to read: what cannot be read counts nothing.
func diskUsage(path string) (total int64) {
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
