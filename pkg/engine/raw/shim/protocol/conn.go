package protocol

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

const headerSize = 8

// Conn is one end of a connection. It is built on os.File, not on package net,
// whose start-up every container would pay for.
type Conn struct {
	f  *os.File
	r  *bufio.Reader
	wm sync.Mutex // one frame at a time
	w  []byte
}

// NewConn takes over fd, a connected unix stream socket.
func NewConn(fd int) (*Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set socket non-blocking: %w", err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	return &Conn{f: f, r: bufio.NewReaderSize(f, 16<<10)}, nil
}

// Pair returns a connection and the file to hand to a child as its other end.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	c, err := NewConn(fds[0])
	if err != nil {
		_ = unix.Close(fds[1])
		return nil, nil, err
	}
	return c, os.NewFile(uintptr(fds[1]), "socket"), nil
}

// shortPath returns a name for a socket that fits into sun_path (108 bytes,
// unix(7)), going through a descriptor of its folder where it must. The caller
// closes the folder after use.
func shortPath(path string) (string, *os.File, error) {
	if len(path) < 108 {
		return path, nil, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path), dir, nil
}

// Dial connects to the shim that listens at path. A shim that is not there is
// errdefs.ErrUnavailable.
func Dial(ctx context.Context, path string) (*Conn, error) {
	short, dir, err := shortPath(path)
	if err != nil {
		return nil, fmt.Errorf("connect to shim: %w: %w", err, errdefs.ErrUnavailable)
	}
	if dir != nil {
		defer dir.Close()
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	for {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: short})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
		// EAGAIN: the backlog is full. unix(7) offers no way to wait for it.
		select {
		case <-ctx.Done():
			_ = unix.Close(fd)
			return nil, fmt.Errorf("connect to shim %s: %w", path, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("connect to shim %s: %w: %w", path, err, errdefs.ErrUnavailable)
	}
	return NewConn(fd)
}

// Close closes the connection; reads and writes under way return.
func (c *Conn) Close() error { return c.f.Close() }

// SetReadDeadline bounds reads; the zero time means no bound.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.f.SetReadDeadline(t) }

// SetWriteDeadline bounds writes; the zero time means no bound.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.f.SetWriteDeadline(t) }

// WriteFrame sends one frame. It may be called by several goroutines.
func (c *Conn) WriteFrame(t Type, payload []byte) error {
	c.wm.Lock()
	defer c.wm.Unlock()
	c.w = AppendFrame(c.w[:0], t, payload)
	_, err := c.f.Write(c.w)
	if cap(c.w) > MaxData+headerSize {
		c.w = nil
	}
	return err
}

// WriteFrames sends bytes that AppendFrame made.
func (c *Conn) WriteFrames(b []byte) error {
	c.wm.Lock()
	defer c.wm.Unlock()
	_, err := c.f.Write(b)
	return err
}

// AppendFrame appends one frame to b.
func AppendFrame(b []byte, t Type, payload []byte) []byte {
	b = append(b, byte(t), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// ReadHeader reads the type and the length of the next frame, whose payload
// the caller then reads with Read.
func (c *Conn) ReadHeader() (Type, int, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return 0, 0, err
	}
	t, n := Type(h[0]), binary.BigEndian.Uint32(h[4:])
	limit := uint32(MaxData)
	if t == Requested || t == Replied {
		limit = MaxJSON
	}
	if n > limit {
		return 0, 0, fmt.Errorf("frame of type %d has %d bytes, more than %d: %w", t, n, limit, errdefs.ErrInvalidArgument)
	}
	return t, int(n), nil
}

// Read reads payload bytes.
func (c *Conn) Read(b []byte) (int, error) { return c.r.Read(b) }

// ReadJSON reads one frame, which must be of type want, into v.
func (c *Conn) ReadJSON(want Type, v any) error {
	t, n, err := c.ReadHeader()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("frame of type %d where %d was expected: %w", t, want, errdefs.ErrInvalidArgument)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode frame: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// WriteJSON sends v as one frame.
func (c *Conn) WriteJSON(t Type, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	if len(b) > MaxJSON {
		return fmt.Errorf("frame has %d bytes, more than %d: %w", len(b), MaxJSON, errdefs.ErrInvalidArgument)
	}
	return c.WriteFrame(t, b)
}

// Observer is told what precedes a final reply. Its fields may be nil.
type Observer struct {
	Event   func(explain.Event)
	Warning func(string)
}

// Send sends a request whose reply is to be had from Await.
func (c *Conn) Send(req Request) error { return c.WriteJSON(Requested, req) }

// Await waits for the final reply to the request op. An error that the shim
// reports is returned as *Error; a shim that goes away is
// errdefs.ErrUnavailable.
func (c *Conn) Await(ctx context.Context, op string, obs Observer) (Reply, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		var rep Reply
		if err := c.ReadJSON(Replied, &rep); err != nil {
			return Reply{}, c.callError(ctx, op, err)
		}
		switch {
		case rep.Event != nil:
			if obs.Event != nil {
				obs.Event(*rep.Event)
			}
		case rep.Warning != "":
			if obs.Warning != nil {
				obs.Warning(rep.Warning)
			}
		case rep.Error != nil:
			return rep, rep.Error
		case rep.Final:
			return rep, nil
		}
	}
}

// Call is Send and Await.
func (c *Conn) Call(ctx context.Context, req Request, obs Observer) (Reply, error) {
	req.Explain = req.Explain || obs.Event != nil
	if err := c.Send(req); err != nil {
		return Reply{}, c.callError(ctx, req.Op, err)
	}
	return c.Await(ctx, req.Op, obs)
}

func (c *Conn) callError(ctx context.Context, op string, err error) error {
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("%s by shim: %w", op, cause)
	}
	if errors.Is(err, errdefs.ErrInvalidArgument) {
		return fmt.Errorf("%s by shim: %w", op, err)
	}
	return fmt.Errorf("%s: the shim has gone away (%w): %w", op, err, errdefs.ErrUnavailable)
}
