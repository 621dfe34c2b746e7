package build

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Names within the folder of one layer; see the package's comment.
const (
	layerRecord  = "record.json"
	layerFS      = "fs"
	layerUse     = "use"
	layerPack    = "pack"
	layerPending = "pending"
)

// record is what is known of a layer that was built.
type record struct {
	Key         digest.Digest `json:"key"`
	Stage       string        `json:"stage"`
	Instruction string        `json:"instruction"`
	Created     time.Time     `json:"created"`
	// Empty is a layer without files: the instruction has changed none.
	Empty  bool               `json:"empty,omitempty"`
	Packed *image.PackedLayer `json:"packed,omitempty"` // once an image has it
	Change api.ImageLayer     `json:"change"`
	// Device is the path of a device node, if there is one: such a layer can be
	// built on, and be in no image.
	Device string `json:"device,omitempty"`
}

// layer is one layer of a stage's stack.
type layer struct {
	// Of a layer that was built:
	step *step
	dir  string // its folder
	mu   sync.Mutex
	rec  record
	// Of an image's:
	image  *image.Image
	packed *image.PackedLayer
}

// cache is what builds have left for each other.
type cache struct {
	root  string
	store *image.Store
	boot  string // ID of this boot
}

func (b *Builder) cache() (*cache, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	c := &cache{root: b.Dirs.Build(), store: b.Store, boot: string(boot)}
	for _, dir := range []string{c.steps(), c.locks(), c.layers()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *cache) steps() string  { return filepath.Join(c.root, "steps") }
func (c *cache) locks() string  { return filepath.Join(c.root, "locks") }
func (c *cache) layers() string { return filepath.Join(c.root, "layers") }

func (c *cache) lockOf(key digest.Digest) string { return filepath.Join(c.locks(), key.Encoded()) }

func (c *cache) step(key digest.Digest) string { return filepath.Join(c.steps(), key.Encoded()) }

// lookup finds the layer of a key, if it is whole.
func (c *cache) lookup(key digest.Digest) *layer {
	dir, err := c.target(key)
	if err != nil {
		return nil
	}
	l := &layer{dir: dir}
	if state.ReadJSON(filepath.Join(dir, layerRecord), &l.rec) != nil || l.rec.Key != key || !c.whole(l) {
		return nil
	}
	return l
}

// target is the folder that a key's link leads to.
func (c *cache) target(key digest.Digest) (string, error) {
	name, err := os.Readlink(c.step(key))
	return filepath.Join(c.layers(), filepath.Base(name)), err
}

// whole reports whether a layer's files are there, and all of them.
func (c *cache) whole(l *layer) bool {
	// After a power failure, what was still pending may be anything.
	boot, err := os.ReadFile(filepath.Join(l.dir, layerPending))
	if !errors.Is(err, fs.ErrNotExist) && (err != nil || string(boot) != c.boot) {
		return false
	}
	if l.rec.Empty {
		return true
	}
	if l.rec.Packed != nil { // the blob is enough: the files can be unpacked from it
		f, err := c.store.OpenBlob(l.rec.Packed.Descriptor.Digest)
		if err == nil {
			_ = f.Close()
		}
		return err == nil
	}
	_, err = os.Lstat(filepath.Join(l.dir, layerFS))
	return err == nil
}

// hold finds the layer of a key and keeps it from being removed until the file
// is closed.
func (c *cache) hold(ctx context.Context, key digest.Digest) (*layer, *os.File, error) {
	l := c.lookup(key)
	if l == nil {
		var err error
		if l, err = c.packed(ctx, key); l == nil || err != nil {
			return nil, nil, err
		}
	}
	use, err := lock(ctx, filepath.Join(l.dir, layerUse), shared)
	if err != nil {
		return nil, nil, err
	}
	if again := c.lookup(key); again == nil || again.dir != l.dir {
		_ = use.Close()
		// Its lock may be all that is left of it.
		return nil, nil, c.discardIfDead(l.dir)
	}
	now := time.Now()
	_ = os.Chtimes(filepath.Join(l.dir, layerRecord), now, now) // when it was last used; see Prune
	return l, use, nil
}

// packed looks for a layer again when nobody packs it: to whom packs it, its files
// are the store's for a moment before its record says so.
func (c *cache) packed(ctx context.Context, key digest.Digest) (*layer, error) {
	dir, err := c.target(key)
	if err != nil {
		return nil, nil //nolint:nilerr // there is no such layer
	}
	pack, err := openLock(filepath.Join(dir, layerPack))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := acquire(ctx, pack, shared); err != nil {
		return nil, err
	}
	return c.lookup(key), pack.Close()
}

// begin makes the folder of a new layer.
func (c *cache) begin(ctx context.Context) (dir string, use *os.File, err error) {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	dir = filepath.Join(c.layers(), hex.EncodeToString(id[:]))
	if use, err = lock(ctx, filepath.Join(dir, layerUse), shared); err != nil {
		return dir, nil, err
	}
	// A file system journals its changes in their order: no crash shows the
	// record and not this.
	if err := os.WriteFile(filepath.Join(dir, layerPending), []byte(c.boot), 0o600); err != nil {
		return dir, nil, errors.Join(err, os.RemoveAll(dir), use.Close())
	}
	return dir, use, nil
}

// finish makes a layer the one of its key.
func (c *cache) finish(l *layer) error {
	if err := c.write(l); err != nil {
		return err
	}
	link := filepath.Join(l.dir, "link") // a name of its own for each layer
	if err := os.Symlink(filepath.Join("..", "layers", filepath.Base(l.dir)), link); err != nil {
		return err
	}
	return os.Rename(link, c.step(l.rec.Key))
}

// write replaces a layer's record. It is on the disk with the layer, later.
func (c *cache) write(l *layer) error {
	return state.ReplaceJSON(filepath.Join(l.dir, layerRecord), l.rec)
}

func (l *layer) record() record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rec
}

// refresh reads a layer's record again, which another build may have changed;
// call it with the layer's pack lock held.
func (l *layer) refresh() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := state.ReadJSON(filepath.Join(l.dir, layerRecord), &l.rec); err != nil {
		return fmt.Errorf("layer of %s: %w", firstLine(l.rec.Instruction), err)
	}
	return nil
}

// sweep removes layers that no key leads to and no build works on.
func (c *cache) sweep() error {
	entries, err := os.ReadDir(c.layers())
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, c.discardIfDead(filepath.Join(c.layers(), e.Name())))
	}
	return errors.Join(errs...)
}

// discardIfDead removes a layer's folder if no key leads to it and nobody is at
// work in it.
func (c *cache) discardIfDead(dir string) error {
	if c.alive(dir) {
		return nil
	}
	use, err := tryLock(filepath.Join(dir, layerUse), exclusive)
	if use == nil || err != nil {
		return err
	}
	defer use.Close()
	if c.alive(dir) { // it was finished just now
		return nil
	}
	return removeLayer(dir)
}

// alive reports whether a key leads to a layer.
func (c *cache) alive(dir string) bool {
	var rec record
	if state.ReadJSON(filepath.Join(dir, layerRecord), &rec) != nil {
		return false
	}
	target, err := c.target(rec.Key)
	return err == nil && target == dir
}

// removeLayer removes a layer's folder; call it with the use lock held
// exclusively. The lock goes last: while it is there, the rest is somebody's.
func removeLayer(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == layerUse {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}
