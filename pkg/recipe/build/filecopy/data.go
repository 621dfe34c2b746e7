package filecopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// chunk is how many bytes are copied between two looks at the context.
const chunk = 64 << 20

// copier copies the content of files, also of several at once. What the two file
// systems cannot do together is tried once.
type copier struct {
	noRange, noSend atomic.Bool
	buffers         sync.Pool // of *[buffer]byte
}

const buffer = 256 << 10 // bytes

// copy copies all of from, which had size bytes a moment ago.
//
// copy_file_range(2) shares the blocks where a file system can do that, which
// is what FICLONE does, and else copies within the kernel, if both files are of
// one file system. sendfile(2) copies once, read and write twice.
func (c *copier) copy(ctx context.Context, to, from int, size int64) error {
	if size == 0 {
		// Files of /proc claim to be empty, and are not.
		return c.readWrite(ctx, to, from)
	}
	for left := size; left > 0; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := c.some(to, from, int(min(left, chunk)))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("copy content: %w", err)
		}
		if n == 0 {
			break // it has become shorter
		}
		left -= int64(n)
	}
	// It may have become longer.
	return c.readWrite(ctx, to, from)
}

func (c *copier) some(to, from, n int) (int, error) {
	if !c.noRange.Load() {
		m, err := unix.CopyFileRange(from, nil, to, nil, n, 0)
		if !unsupported(err) {
			return m, err
		}
		c.noRange.Store(true)
	}
	if !c.noSend.Load() {
		m, err := unix.Sendfile(to, from, nil, n)
		if !unsupported(err) {
			return m, err
		}
		c.noSend.Store(true)
	}
	return 0, nil // the rest is for readWrite
}

// unsupported are the errors for which another way is tried: see copy_file_range(2)
// and sendfile(2).
func unsupported(err error) bool {
	for _, e := range []error{unix.EXDEV, unix.ENOSYS, unix.EOPNOTSUPP, unix.EINVAL, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// readWrite copies from where the files stand to the end.
func (c *copier) readWrite(ctx context.Context, to, from int) error {
	buf, ok := c.buffers.Get().(*[buffer]byte)
	if !ok {
		buf = new([buffer]byte)
	}
	defer c.buffers.Put(buf)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := unix.Read(from, buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			return nil
		}
		if err := writeAll(to, buf[:n]); err != nil {
			return err
		}
	}
}

func writeAll(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p[:min(len(p), math.MaxInt32)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		p = p[n:]
	}
	return nil
}
