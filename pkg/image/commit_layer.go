package image

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image/layer"
	"golang.org/x/sys/unix"
)

// How layers are compressed. Both are part of every digest: pgzip compresses
// blocks of this size on their own, however many processors there are. Of
// Go's tree a processor packs 194 MB a second into 32.9 % with level 2, 111 MB
// into 30.1 % with level 5, 12 MB into 28.8 % with level 9.
const (
	packLevel = 2
	packBlock = 1 << 20 // bytes
)

// What Commit's progress says of a layer; Done counts bytes of its tar.
const (
	CommitPacking = "packing"
	CommitDone    = "done"
)

// pack stages the folder upper as a layer: one pass reads the files, hashes
// the tar, compresses it, and hashes and writes the result. The caller, who
// may pack several at a time, counts the blob among t's.
func (t *staging) pack(ctx context.Context, upper string, epoch time.Time, report func(api.ImageProgress)) (l PackedLayer, err error) {
	f, err := os.CreateTemp(t.dir, "layer-*")
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	blob := &tally{w: f, hash: digest.SHA256.Digester()}
	zw, err := pgzip.NewWriterLevel(blob, packLevel)
	if err != nil {
		return l, err
	}
	zw.ModTime = time.Unix(0, 0) // which gzip writes as "none"
	if err := zw.SetConcurrency(packBlock, runtime.GOMAXPROCS(0)); err != nil {
		return l, err
	}
	content := &tally{w: zw, hash: digest.SHA256.Digester(), report: func(n int64) {
		report(api.ImageProgress{Status: CommitPacking, Done: n})
	}}
	err = layer.Pack(ctx, content, upper, epoch)
	// Its goroutines end with it, whatever came before.
	if cerr := zw.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return l, err
	}
	if err := f.Sync(); err != nil {
		return l, err
	}
	l = PackedLayer{
		Descriptor: ispec.Descriptor{MediaType: ispec.MediaTypeImageLayerGzip, Digest: blob.hash.Digest(), Size: blob.n},
		DiffID:     content.hash.Digest(),
	}
	report(api.ImageProgress{Status: CommitDone, Done: content.n, Total: content.n})
	return l, os.Rename(f.Name(), t.path(l.Descriptor.Digest))
}

// tally hashes and counts what passes it on the way to w.
type tally struct {
	w      io.Writer
	hash   digest.Digester
	n      int64
	report func(int64) // told now and then; may be nil
	told   int64
}

func (t *tally) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.hash.Hash().Write(p[:n])
	t.n += int64(n)
	if t.report != nil && t.n-t.told >= 1<<20 {
		t.told = t.n
		t.report(t.n)
	}
	return n, err
}

// adopt renames a folder that was packed to where Unpack would have made it,
// by the same steps; see unpackLayer.
func (s *Store) adopt(ctx context.Context, upper string, l PackedLayer) error {
	dir := s.layerDir(l.DiffID)
	lock, err := lockFile(ctx, filepath.Join(dir, layerLock))
	if err != nil {
		return err
	}
	defer lock.Close()
	if s.unpacked(dir) {
		return discard(upper, dir)
	}
	if err := clearLayer(dir); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, layerPending), []byte(s.boot), 0o600); err != nil {
		return err
	}
	err = os.Rename(upper, filepath.Join(dir, layerFS))
	if errors.Is(err, unix.EXDEV) { // the folder is on another file system
		if err := s.unpackLocked(ctx, l.Descriptor, l.DiffID, dir); err != nil {
			return err
		}
		return os.RemoveAll(upper)
	}
	if err != nil {
		return errors.Join(err, clearLayer(dir))
	}
	return nil
}

// discard removes a folder. It loses its name first, so that a kill leaves
// none that is half there; in dir, GC finds it.
func discard(upper, dir string) error {
	err := os.Rename(upper, filepath.Join(dir, "unpack-discarded"))
	if errors.Is(err, unix.EXDEV) {
		return os.RemoveAll(upper)
	}
	return errors.Join(err, sweepLayer(dir))
}

// named is desc with a name.
func named(desc ispec.Descriptor, name string) ispec.Descriptor {
	desc.Annotations = maps.Clone(desc.Annotations)
	if desc.Annotations == nil {
		desc.Annotations = map[string]string{}
	}
	desc.Annotations[ispec.AnnotationRefName] = name
	return desc
}
