package raw

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// logFiles and logSize bound a container's log: the current file and two
// older ones.
const (
	logFiles = 3
	logSize  = 10 << 20 // bytes
)

// Logs reads what the shim has written to log.jsonl and its predecessors.
func (e *Engine) Logs(ctx context.Context, ref string, opts engine.LogOptions) (engine.LogReader, error) {
	c, err := e.lookup(ref)
	if err != nil {
		return nil, err
	}
	r := &logReader{files: c.files, opts: opts}
	if opts.Follow {
		// Before the files are opened, so that no change goes unseen.
		if r.changes, err = watchDir(c.files.Dir); err != nil {
			return nil, err
		}
	}
	if err := r.open(); err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	r.ctx = ctx
	r.stop = context.AfterFunc(ctx, func() {
		if r.changes != nil {
			_ = r.changes.Close()
		}
	})
	return r, nil
}

// logReader goes through the files of a log, oldest first.
type logReader struct {
	ctx     context.Context //nolint:containedctx // of the call to Logs, whose answer this is
	stop    func() bool
	files   state.Files
	opts    engine.LogOptions
	changes *os.File // inotify; nil without Follow

	mu      sync.Mutex // of what follows; not held while waiting
	queue   []*os.File // still to be read, oldest first; the first is current
	in      *bufio.Reader
	partial []byte // a line that the shim is in the middle of writing
	skip    int    // lines, for Tail
	closed  bool
}

// open opens every file there is. From the newest back: a rotation meanwhile
// can then only show a file twice, never hide one.
func (r *logReader) open() error {
	for i := range logFiles {
		f, err := os.Open(r.files.RotatedLog(i))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if len(r.queue) > 0 && sameFile(f, r.queue[0]) {
			_ = f.Close()
			continue
		}
		r.queue = append([]*os.File{f}, r.queue...)
	}
	if r.opts.Tail >= 0 {
		total := 0
		for _, f := range r.queue {
			n, err := countLines(f)
			if err != nil {
				return err
			}
			total += n
		}
		r.skip = max(total-r.opts.Tail, 0)
	}
	if len(r.queue) > 0 {
		r.in = bufio.NewReaderSize(r.queue[0], 64<<10)
	}
	return nil
}

// Next returns the next line, or io.EOF.
func (r *logReader) Next() (api.LogLine, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if err := r.ctx.Err(); err != nil {
			return api.LogLine{}, err
		}
		raw, err := r.line()
		if err != nil {
			return api.LogLine{}, err
		}
		if r.skip > 0 {
			r.skip--
			continue
		}
		var l api.LogLine
		if json.Unmarshal(raw, &l) != nil {
			continue // cut off by a full disk
		}
		if l.Time.Before(r.opts.Since) {
			continue
		}
		if !r.opts.Until.IsZero() && l.Time.After(r.opts.Until) {
			return api.LogLine{}, io.EOF
		}
		return l, nil
	}
}

// line returns the next whole line of the log.
func (r *logReader) line() ([]byte, error) {
	for {
		if b, err := r.read(); b != nil || err != nil {
			return b, err
		}
		if len(r.queue) > 1 {
			r.advance()
			continue
		}
		if r.changes == nil {
			return nil, io.EOF
		}
		// The end of the newest file. Note whether more can come, then read
		// again: what was written before that was noted is not lost.
		_, err := os.Stat(r.files.Exit())
		ended := err == nil
		next, gone := r.successors()
		if b, err := r.read(); b != nil || err != nil {
			for _, f := range next {
				_ = f.Close()
			}
			return b, err
		}
		switch {
		case len(next) > 0:
			r.queue = append(r.queue, next...)
		case ended || gone:
			return nil, io.EOF
		default:
			if err := r.wait(); err != nil {
				return nil, err
			}
		}
	}
}

// read returns a line of the current file, or nil at its end.
func (r *logReader) read() ([]byte, error) {
	if r.closed {
		return nil, io.EOF
	}
	if r.in == nil {
		return nil, nil
	}
	b, err := r.in.ReadBytes('\n')
	if err == nil {
		if len(r.partial) > 0 {
			b, r.partial = append(r.partial, b...), nil
		}
		return b, nil
	}
	r.partial = append(r.partial, b...)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return nil, err
}

func (r *logReader) advance() {
	_ = r.queue[0].Close()
	r.queue = r.queue[1:]
	r.partial = nil
	r.in.Reset(r.queue[0])
}

// successors opens the files that are newer than the current one, and tells
// whether the whole log has been removed.
func (r *logReader) successors() (next []*os.File, gone bool) {
	found := 0
	for i := range logFiles {
		f, err := os.Open(r.files.RotatedLog(i))
		if err != nil {
			continue
		}
		found++
		if len(r.queue) > 0 && sameFile(f, r.queue[0]) {
			_ = f.Close()
			break
		}
		next = append([]*os.File{f}, next...)
	}
	if len(r.queue) == 0 && len(next) > 0 {
		r.queue, next = next[:1], next[1:]
		r.in = bufio.NewReaderSize(r.queue[0], 64<<10)
	}
	return next, found == 0 && len(r.queue) > 0
}

// wait returns when something has happened to the container's files.
func (r *logReader) wait() error {
	r.mu.Unlock()
	var buf [4096]byte
	_, err := r.changes.Read(buf[:])
	r.mu.Lock()
	switch {
	case r.ctx.Err() != nil:
		return r.ctx.Err()
	case r.closed:
		return io.EOF
	}
	return err
}

// Close ends a Next that waits, too.
func (r *logReader) Close() error {
	if r.stop != nil {
		r.stop()
	}
	if r.changes != nil {
		_ = r.changes.Close()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, f := range r.queue {
		_ = f.Close()
	}
	r.queue, r.in = nil, nil
	return nil
}

// watchDir returns a file that can be read when anything in dir has changed
// (inotify(7)).
func watchDir(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify_init1 (fs.inotify.max_user_instances bounds followers): %w", err)
	}
	const events = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_DELETE_SELF
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("inotify_add_watch %s: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
}

// countLines counts the lines of f from its start, where it leaves the offset.
func countLines(f *os.File) (int, error) {
	n, buf := 0, make([]byte, 64<<10)
	for {
		m, err := f.Read(buf)
		n += bytes.Count(buf[:m], []byte{'\n'})
		if errors.Is(err, io.EOF) {
			_, err = f.Seek(0, io.SeekStart)
			return n, err
		}
		if err != nil {
			return n, err
		}
	}
}
