package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// CopyBuffer is how many bytes are read and written at once.
const CopyBuffer = 256 << 10

// The first bytes of compressed streams.
var (
	GzipMagic = []byte{0x1f, 0x8b}
	ZstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

	bzip2Magic = []byte("BZh")
	xzMagic    = []byte("\xfd7zXZ\x00")
)

// IsZstd reports whether bytes are the first of a zstd stream, which may begin
// with a frame to be skipped: a table of contents, or padding.
func IsZstd(magic []byte) bool {
	return bytes.HasPrefix(magic, ZstdMagic) ||
		len(magic) >= 4 && magic[0]&0xf0 == 0x50 && bytes.HasPrefix(magic[1:], []byte{0x2a, 0x4d, 0x18})
}

// DecompressArchive is Decompress, and undoes bzip2 and xz as well, in which
// archives are kept and handed on. No registry has layers of these.
func DecompressArchive(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, CopyBuffer)
	magic, err := br.Peek(len(xzMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, bzip2Magic):
		return io.NopCloser(bzip2.NewReader(br)), nil
	case bytes.HasPrefix(magic, xzMagic):
		// Its dictionary may claim 4 GiB, but takes only as much memory as has
		// come out.
		zr, err := xz.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("xz: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return io.NopCloser(zr), nil
	}
	return Decompress(br)
}

// Decompress undoes gzip or zstd, told apart by their first bytes: media types
// are as good as the tool that wrote them, and archives have none.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, CopyBuffer)
	magic, err := br.Peek(len(ZstdMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, GzipMagic):
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return zr, nil
	case IsZstd(magic):
		// A window over 128 MiB is for archives that are tuned to hurt.
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return zr.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}

// Classify marks errors of a malformed stream, be it compressed or a tar, as
// the archive's fault.
func Classify(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || isCorrupt(err) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// isCorrupt reports whether err says that compressed data are malformed.
func isCorrupt(err error) bool {
	var at flate.CorruptInputError
	if errors.As(err, &at) {
		return true
	}
	if _, ok := errors.AsType[bzip2.StructuralError](err); ok {
		return true
	}
	for _, bad := range []error{
		gzip.ErrHeader, gzip.ErrChecksum,
		zstd.ErrMagicMismatch, zstd.ErrCRCMismatch, zstd.ErrReservedBlockType, zstd.ErrWindowSizeExceeded,
		zstd.ErrWindowSizeTooSmall, zstd.ErrDecoderSizeExceeded, zstd.ErrUnexpectedBlockSize, zstd.ErrBlockTooSmall,
		zstd.ErrUnknownDictionary, zstd.ErrFrameSizeExceeded, zstd.ErrFrameSizeMismatch, zstd.ErrCompressedSizeTooBig,
	} {
		if errors.Is(err, bad) {
			return true
		}
	}
	return false
}

// LimitReader fails, unlike io.LimitReader, which ends, when more than Left
// bytes come.
type LimitReader struct {
	R    io.Reader
	Left int64
	Why  string // of the error
}

func (l *LimitReader) Read(p []byte) (int, error) {
	n, err := l.R.Read(p)
	if l.Left -= int64(n); l.Left < 0 {
		return 0, fmt.Errorf("%s: %w", l.Why, errdefs.ErrInvalidArgument)
	}
	return n, err
}

// CountingReader tells how much has been read.
type CountingReader struct {
	R      io.Reader
	N      int64
	Report func(int64) // may be nil
}

func (c *CountingReader) Read(p []byte) (int, error) {
	n, err := c.R.Read(p)
	c.N += int64(n)
	if c.Report != nil {
		c.Report(c.N)
	}
	return n, err
}

// ReadAhead reads r in a goroutine of its own, and writes what comes to hash,
// unless that is nil, in another, so that decompression and hashing go on while
// the reader's files are written. stop ends both; after that r and hash are no
// longer used. At the end of ahead hash has seen all.
func ReadAhead(r io.Reader, hash io.Writer) (ahead io.Reader, stop func()) {
	// Large enough for goroutines to wait for each other seldom: where there
	// is other work to do, each time they do costs.
	const depth, size = 4, 1 << 20
	a := &aheadReader{
		full: make(chan chunk, depth),
		free: make(chan []byte, depth),
	}
	for range depth {
		a.free <- make([]byte, size)
	}
	quit := make(chan struct{})
	read := a.full
	var workers sync.WaitGroup
	if hash != nil {
		read = make(chan chunk, depth)
		workers.Go(func() {
			for c := range read {
				_, _ = hash.Write(c.data) // of a hash it never fails
				a.full <- c
			}
		})
	}
	workers.Go(func() {
		if hash != nil {
			defer close(read)
		}
		for {
			var buf []byte
			select {
			case buf = <-a.free:
			case <-quit:
				return
			}
			n, err := io.ReadFull(r, buf)
			if errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
				// Either r's own error or a short last chunk: the next read
				// tells which.
				err = nil
			}
			read <- chunk{buf[:n], err} // never blocks: as many chunks as buffers
			if err != nil {
				return
			}
		}
	})
	return a, func() {
		close(quit)
		workers.Wait()
	}
}

type chunk struct {
	data []byte
	err  error
}

type aheadReader struct {
	full chan chunk
	free chan []byte
	cur  chunk
	rest []byte
}

func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.data != nil {
			a.free <- a.cur.data[:cap(a.cur.data)]
		}
		a.cur = <-a.full
		a.rest = a.cur.data
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}
