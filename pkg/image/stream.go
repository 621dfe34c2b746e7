package image

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const copyBuffer = 256 << 10 // bytes

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// decompress undoes gzip or zstd, told apart by their first bytes: media types
// are as good as the tool that wrote them, and archives have none.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, copyBuffer)
	magic, err := br.Peek(len(zstdMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return zr, nil
	case bytes.HasPrefix(magic, zstdMagic):
		// A window over 128 MiB is for archives that are tuned to hurt.
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return zr.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}

// isCorrupt reports whether err says that compressed data are malformed.
func isCorrupt(err error) bool {
	var at flate.CorruptInputError
	if errors.As(err, &at) {
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

// limitReader fails, unlike io.LimitReader, which ends, when more than left
// bytes come.
type limitReader struct {
	r    io.Reader
	left int64
	why  string
}

func (l *limitReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("%s: %w", l.why, errdefs.ErrInvalidArgument)
	}
	return n, err
}

type countingReader struct {
	r      io.Reader
	n      int64
	report func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.report != nil {
		c.report(c.n)
	}
	return n, err
}

// readAhead reads r in a goroutine of its own, so that decompression and
// hashing go on while the reader's files are written. stop ends it; after
// that r is no longer used.
func readAhead(r io.Reader) (ahead io.Reader, stop func()) {
	const depth = 4
	a := &aheadReader{
		full: make(chan chunk, depth),
		free: make(chan []byte, depth),
		quit: make(chan struct{}),
	}
	for range depth {
		a.free <- make([]byte, copyBuffer)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			var buf []byte
			select {
			case buf = <-a.free:
			case <-a.quit:
				return
			}
			n, err := io.ReadFull(r, buf)
			if errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
				// Either r's own error or a short last chunk: the next read
				// tells which.
				err = nil
			}
			a.full <- chunk{buf[:n], err} // never blocks: as many chunks as buffers
			if err != nil {
				return
			}
		}
	}()
	return a, func() {
		close(a.quit)
		<-done
	}
}

type chunk struct {
	data []byte
	err  error
}

type aheadReader struct {
	full chan chunk
	free chan []byte
	quit chan struct{}
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
