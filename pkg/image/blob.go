package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image/layer"
	"golang.org/x/sync/errgroup"
)

var emptyDigest = digest.FromBytes(nil)

// Docker's media types, older than OCI's and of the same content (image-spec,
// media-types.md, "Compatibility Matrix").
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerLayer        = "application/vnd.docker.image.rootfs.diff.tar" // or with .gzip, .zstd
)

// checkDigest refuses all that is not a sha256 digest, so that a digest can
// be used as a file name.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %s: only sha256 is supported: %w", d, errdefs.ErrNotImplemented)
	}
	return nil
}

// blobFile opens a blob of the store; its size must be what desc says.
func (s *Store) blobFile(desc ispec.Descriptor) (*os.File, error) {
	return openBlob(s.blobPath, desc)
}

func openBlob(path func(digest.Digest) string, desc ispec.Descriptor) (*os.File, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, err
	}
	f, err := os.Open(path(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s is missing: %w", desc.Digest, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if info.Size() != desc.Size {
		f.Close()
		return nil, fmt.Errorf("blob %s: %d bytes, its descriptor says %d: %w",
			desc.Digest, info.Size(), desc.Size, errdefs.ErrDataLoss)
	}
	return f, nil
}

// readDocument decodes a JSON blob into v, after checking its digest: such
// blobs are small, and a manifest decides what else is trusted.
func readDocument(open func(ispec.Descriptor) (*os.File, error), desc ispec.Descriptor, v any) error {
	if limit := DefaultLimits().Document; desc.Size > limit {
		return fmt.Errorf("blob %s: %d bytes is more than a %s may have (%d): %w",
			desc.Digest, desc.Size, desc.MediaType, limit, errdefs.ErrInvalidArgument)
	}
	f, err := open(desc)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, desc.Size))
	if err != nil {
		return fmt.Errorf("read blob %s: %w", desc.Digest, err)
	}
	if have := digest.FromBytes(data); have != desc.Digest {
		return fmt.Errorf("blob %s: its content has the digest %s: %w", desc.Digest, have, errdefs.ErrDataLoss)
	}
	if err := checkKind(data, desc.MediaType); err != nil {
		return fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode blob %s (%s): %w: %w", desc.Digest, desc.MediaType, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkKind refuses a document that is a manifest in the eyes of one tool, and
// an index in those of another: what a digest names must be the same for all.
func checkKind(data []byte, mediaType string) error {
	var doc struct {
		MediaType string          `json:"mediaType"`
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
		Manifests json.RawMessage `json:"manifests"`
		FSLayers  json.RawMessage `json:"fsLayers"`
	}
	if !isManifest(mediaType) && !isIndex(mediaType) || json.Unmarshal(data, &doc) != nil {
		return nil // not of these, or not even JSON, as its reader will say
	}
	switch {
	case doc.FSLayers != nil:
		return fmt.Errorf("it has the fsLayers of Docker's first format, of before 2016: %w", errdefs.ErrNotImplemented)
	case isManifest(mediaType) && (doc.Manifests != nil || isIndex(doc.MediaType)):
		return fmt.Errorf("an index, and not the manifest that it is said to be: %w", errdefs.ErrInvalidArgument)
	case isIndex(mediaType) && (doc.Config != nil || doc.Layers != nil || isManifest(doc.MediaType)):
		return fmt.Errorf("a manifest, and not the index that it is said to be: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// staging is a folder of blobs on their way into the store. A blob reaches
// the store only with the whole of its image, so what fails leaves nothing.
type staging struct {
	dir   string
	lock  *os.File // dir+".lock" tells the sweep that somebody is at work
	blobs map[digest.Digest]int64
	// flush brings blobs to the disk while others come; commit waits for it.
	flush errgroup.Group
}

const stagingLock = ".lock"

// newStaging makes the lock before the folder, and close removes it after:
// a folder without lock is always a leftover.
func (s *Store) newStaging() (*staging, error) {
	for {
		f, err := os.CreateTemp(s.ingestDir(), "*"+stagingLock)
		if err != nil {
			return nil, err
		}
		f.Close()
		lock, err := tryLockFile(f.Name(), os.O_RDWR)
		if err != nil {
			return nil, err
		}
		if lock == nil {
			continue // a sweep was faster
		}
		dir := strings.TrimSuffix(f.Name(), stagingLock)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, errors.Join(err, os.Remove(f.Name()), lock.Close())
		}
		t := &staging{dir: dir, lock: lock, blobs: map[digest.Digest]int64{}}
		t.flush.SetLimit(4) // open files
		return t, nil
	}
}

func (t *staging) close() error {
	_ = t.flush.Wait() // who cares has committed
	return errors.Join(os.RemoveAll(t.dir), os.Remove(t.lock.Name()), t.lock.Close())
}

func (t *staging) path(d digest.Digest) string { return filepath.Join(t.dir, d.Encoded()) }

// add writes a blob and checks its digest as it streams by.
func (t *staging) add(d digest.Digest, r io.Reader) error {
	desc, err := t.put(r)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	if desc.Digest != d {
		delete(t.blobs, desc.Digest)
		return fmt.Errorf("blob %s: its content has another digest: %w", d, errdefs.ErrInvalidArgument)
	}
	return nil
}

// put writes a blob of whatever digest its content has.
func (t *staging) put(r io.Reader) (desc ispec.Descriptor, err error) {
	f, err := os.CreateTemp(t.dir, "blob-*")
	if err != nil {
		return desc, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	content := &tally{w: f, hash: digest.SHA256.Digester()}
	if _, err := io.CopyBuffer(content, struct{ io.Reader }{r}, make([]byte, layer.CopyBuffer)); err != nil {
		return desc, err
	}
	desc = ispec.Descriptor{Digest: content.hash.Digest(), Size: content.n}
	if err := os.Rename(f.Name(), t.path(desc.Digest)); err != nil {
		return desc, err
	}
	t.blobs[desc.Digest] = desc.Size
	t.flush.Go(func() error { return errors.Join(f.Sync(), f.Close()) })
	return desc, nil
}

// commit moves the named blobs into the store; call it with the store locked.
func (s *Store) commit(t *staging, blobs []digest.Digest) error {
	if err := t.flush.Wait(); err != nil {
		return err
	}
	for _, d := range blobs {
		if _, staged := t.blobs[d]; !staged {
			continue // it was in the store before
		}
		if err := os.Rename(t.path(d), s.blobPath(d)); err != nil {
			return err
		}
		delete(t.blobs, d)
	}
	return syncDir(filepath.Dir(s.blobPath(emptyDigest)))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
