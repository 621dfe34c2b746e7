package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image/layer"
)

// partialAge is how long an interrupted download waits to be resumed.
const partialAge = 7 * 24 * time.Hour

// partialDir is the folder of interrupted downloads within ingest/: one file
// per digest, which holds what has come so far, and while somebody works on
// it, a lock beside it. A file that is whole is never written to again: it is
// linked into the staging folders of all pulls that wanted it.
const partialDir = "partial"

func (s *Store) partialPath(d digest.Digest) string {
	return filepath.Join(s.ingestDir(), partialDir, d.Encoded())
}

// partial is one download on its way, locked against other pulls of the same
// blob, in this process and in others.
type partial struct {
	desc ispec.Descriptor
	path string
	lock *os.File
	file *os.File
	hash hash.Hash
	have int64 // bytes in file, which hash has seen
}

// openPartial waits until nobody else works on the blob, and hashes what an
// earlier pull has left of it.
func (s *Store) openPartial(ctx context.Context, desc ispec.Descriptor) (_ *partial, err error) {
	p := &partial{desc: desc, path: s.partialPath(desc.Digest), hash: digest.SHA256.Hash()}
	if p.lock, err = lockFile(ctx, p.path+stagingLock); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.file, err = os.OpenFile(p.path, lockFlags, 0o600); err != nil {
		return nil, err
	}
	p.have, err = io.CopyBuffer(p.hash, struct{ io.Reader }{untilDone(ctx, p.file)}, make([]byte, layer.CopyBuffer))
	if err == nil && p.have > desc.Size {
		err = p.restart()
	}
	return p, err
}

// Write appends.
func (p *partial) Write(data []byte) (int, error) {
	n, err := p.file.Write(data)
	p.hash.Write(data[:n])
	p.have += int64(n)
	return n, err
}

// restart forgets what there is. The old file may be linked from a staging
// folder, so it is replaced and not truncated.
func (p *partial) restart() error {
	if err := os.Remove(p.path); err != nil {
		return err
	}
	f, err := os.OpenFile(p.path, lockFlags|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	p.file.Close()
	p.file, p.have = f, 0
	p.hash.Reset()
	return nil
}

func (p *partial) whole() bool { return p.have == p.desc.Size }

// verify removes content that has another digest: there is nothing to resume.
func (p *partial) verify() error {
	have := digest.NewDigest(digest.SHA256, p.hash)
	if have == p.desc.Digest {
		return nil
	}
	return errors.Join(fmt.Errorf("blob %s: its content has the digest %s: %w", p.desc.Digest, have, errdefs.ErrDataLoss), p.restart())
}

// stage links the blob, whole and verified, into a staging folder.
func (p *partial) stage(t *staging) error {
	if err := p.file.Sync(); err != nil {
		return err
	}
	if err := t.link(p.path, p.desc); err != nil {
		return err
	}
	// It was still in use today: the sweep counts from now.
	now := time.Now()
	return os.Chtimes(p.path, now, now)
}

// close lets others at the blob. What there is stays, unless it is nothing.
func (p *partial) close() error {
	var errs []error
	if p.file != nil {
		if p.have == 0 {
			errs = append(errs, os.Remove(p.path))
		}
		errs = append(errs, p.file.Close())
	}
	return errors.Join(append(errs, os.Remove(p.lock.Name()), p.lock.Close())...)
}

// link stages a file that is known to be what desc says. Nothing can take a
// staged blob away, and so not one of the store that an image is to share.
func (t *staging) link(path string, desc ispec.Descriptor) error {
	if err := os.Link(path, t.path(desc.Digest)); err != nil {
		return err
	}
	t.blobs[desc.Digest] = desc.Size
	return nil
}

// dropPartial removes the download of a blob that the store has by now.
// Whoever waits for it looks into the store first.
func (s *Store) dropPartial(d digest.Digest) error {
	return removePartial(s.partialPath(d), func(os.FileInfo) bool { return true })
}

// sweepPartials removes downloads that nobody works on: those that were left
// alone for partialAge, or all.
func (s *Store) sweepPartials(ctx context.Context, all bool) error {
	dir := filepath.Join(s.ingestDir(), partialDir)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := eachEntry(ctx, dir, func(path string) error {
		return removePartial(strings.TrimSuffix(path, stagingLock), func(info os.FileInfo) bool {
			return all || time.Since(info.ModTime()) > partialAge
		})
	})
	s.removePartialDir()
	return err
}

// removePartialDir fails when the folder is in use, and that is well.
func (s *Store) removePartialDir() { _ = os.Remove(filepath.Join(s.ingestDir(), partialDir)) }

// removePartial removes a download, if nobody works on it, and a lock that a
// killed process has left.
func removePartial(path string, ripe func(os.FileInfo) bool) error {
	lock, err := tryLockFile(path+stagingLock, lockFlags)
	if lock == nil || err != nil {
		return err
	}
	var errs []error
	if info, err := os.Lstat(path); err == nil && ripe(info) {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(append(errs, os.Remove(lock.Name()), lock.Close())...)
}
