package filecopy

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/image"
)

// archive opens m, if it is a tar; else it returns nil.
func (w *writer) archive(m match) (*os.File, error) {
	if m.st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, nil
	}
	fd, err := w.src.open(m.rel, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open: %w", classify(err))
	}
	f := os.NewFile(uintptr(fd), m.rel)
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() && isTar(f) {
		if _, err = f.Seek(0, io.SeekStart); err == nil {
			return f, nil
		}
	}
	return nil, errors.Join(err, f.Close())
}

// extract unpacks m when it is a tar; done says that it was. Chmod is not for
// what is in it.
func (w *writer) extract(ctx context.Context, m match, to destination) (done bool, err error) {
	f, err := w.archive(m)
	if f == nil || err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	stream, err := decompress(f)
	if err != nil {
		return false, err
	}
	defer stream.Close()
	rel, err := w.mkdirAll(to.path, 0o755)
	if err != nil {
		return false, err
	}
	at, err := w.dst.open(rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false, fmt.Errorf("open /%s: %w", rel, classify(err))
	}
	dir := os.NewFile(uintptr(at), path.Join("/", rel))
	defer dir.Close()
	opts := image.ExtractOptions{Limits: image.DefaultLimits(), Size: info.Size(), Epoch: w.opts.Epoch}
	if w.owner != nil {
		opts.Owner = &[2]int{w.owner.uid, w.owner.gid}
	}
	if err := image.Extract(ctx, stream, dir, opts); err != nil {
		return false, fmt.Errorf("unpack: %w", err)
	}
	return true, nil
}

// isTar reports whether a file, compressed or not, starts as a tar does. It
// need not be whole: then its unpacking says what is wrong.
func isTar(f io.Reader) bool {
	stream, err := decompress(f)
	if err != nil {
		return false
	}
	defer stream.Close()
	_, err = tar.NewReader(stream).Next()
	return err == nil
}

// decompress undoes what the first bytes say.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	magic, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var zr io.Reader = br
	switch {
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		zr, err = gzip.NewReader(br)
	case bytes.HasPrefix(magic, []byte("BZh")):
		zr, err = bzip2.NewReader(br), nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		// Its dictionary may claim 4 GiB, but takes only as much memory as has come
		// out, and that is limited.
		zr, err = xz.NewReader(br)
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		// A window over 128 MiB is for archives that are tuned to hurt.
		d, derr := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if derr == nil {
			return d.IOReadCloser(), nil
		}
		err = derr
	default:
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("decompress: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return io.NopCloser(zr), nil
}
