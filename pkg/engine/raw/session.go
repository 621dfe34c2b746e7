package raw

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
)

// session implements engine.Session over a connection to a shim.
type session struct {
	conn    *protocol.Conn
	c       *container
	process string // as the shim calls it; "" is the container's first
	tty     bool
	// whole waits for the container.
	whole func(context.Context) (api.Exit, error)

	// Of the reader:
	header []byte // of the current frame, still to be handed out
	rest   int    // bytes of the current frame's payload, likewise

	mu   sync.Mutex
	exit *api.Exit // from the stream's last frame
}

// Read returns the process's output: raw for a terminal, otherwise frames. At
// its end it returns io.EOF, and the process has exited.
func (s *session) Read(b []byte) (int, error) {
	for {
		if len(s.header) > 0 {
			n := copy(b, s.header)
			s.header = s.header[n:]
			return n, nil
		}
		if s.rest > 0 {
			n, err := s.conn.Read(b[:min(len(b), s.rest)])
			s.rest -= n
			return n, err
		}
		if len(b) == 0 {
			return 0, nil
		}
		t, n, err := s.conn.ReadHeader()
		if err != nil {
			return 0, err
		}
		switch t {
		case protocol.Stdout, protocol.Stderr:
			s.rest = n
			if !s.tty {
				s.header = binary.BigEndian.AppendUint32([]byte{byte(t), 0, 0, 0}, uint32(n))
			}
		case protocol.Exit:
			return 0, s.readExit(n)
		default:
			return 0, fmt.Errorf("frame of type %d from the shim: %w", t, errdefs.ErrInternal)
		}
	}
}

func (s *session) readExit(n int) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(s.conn, b); err != nil {
		return err
	}
	var e api.Exit
	if err := json.Unmarshal(b, &e); err != nil {
		return fmt.Errorf("decode exit: %w", err)
	}
	s.mu.Lock()
	s.exit = &e
	s.mu.Unlock()
	return io.EOF
}

// Write sends b to the process's stdin.
func (s *session) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		n := min(len(b)-sent, protocol.MaxData)
		if err := s.conn.WriteFrame(protocol.Stdin, b[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// CloseWrite is the end of the process's stdin.
func (s *session) CloseWrite() error { return s.conn.WriteFrame(protocol.CloseStdin, nil) }

// Close leaves the process, which goes on.
func (s *session) Close() error { return s.conn.Close() }

// Resize sets the terminal's size; without a terminal it does nothing.
func (s *session) Resize(rows, cols uint16) error {
	return s.call(protocol.Request{Op: protocol.OpResize, Process: s.process, Rows: rows, Cols: cols})
}

// Signal sends a signal to the process, by name or number.
func (s *session) Signal(name string) error {
	sig, err := parseSignal(name)
	if err != nil {
		return err
	}
	return s.call(protocol.Request{Op: protocol.OpKill, Process: s.process, Signal: int(sig)})
}

func (s *session) call(req protocol.Request) error {
	_, err := s.c.call(context.Background(), req, protocol.Observer{})
	return err
}

// Wait returns the exit code. The output need not have been read.
func (s *session) Wait(ctx context.Context) (int, error) {
	s.mu.Lock()
	exit := s.exit
	s.mu.Unlock()
	if exit != nil {
		return exit.Code, nil
	}
	if s.process != "" {
		rep, err := s.c.call(ctx, protocol.Request{Op: protocol.OpWait, Process: s.process}, protocol.Observer{})
		if errors.Is(err, errExited) {
			// So has everything in it.
			return 128 + int(unix.SIGKILL), nil
		}
		if err != nil {
			return 0, err
		}
		return rep.Exit.Code, nil
	}
	e, err := s.whole(ctx)
	return e.Code, err
}
