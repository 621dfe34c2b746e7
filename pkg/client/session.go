package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Session is the stdio of one process in a container. Read yields the stream
// as the daemon sends it; [Session.CopyOutput] takes it apart.
type Session struct {
	ID  string
	TTY bool // the output is one raw stream

	c      *Client
	conn   upgraded
	cancel context.CancelFunc // of the upgraded request
	wait   string             // path that answers with the exit
}

// Attach connects to the container's first process. Called before the start,
// it misses no output.
func (c *Client) Attach(ctx context.Context, ref string) (*Session, error) {
	s, err := c.upgrade(ctx, request{method: http.MethodPost, path: containerPath(ref, "attach")})
	if err != nil {
		return nil, err
	}
	s.wait = containerPath(ref, "wait")
	return s, nil
}

// Exec starts a further process in the container, connected to the session.
func (c *Client) Exec(ctx context.Context, ref string, spec api.ExecSpec) (*Session, error) {
	s, err := c.upgrade(ctx, request{method: http.MethodPost, path: containerPath(ref, "exec"), body: spec})
	if err != nil {
		return nil, err
	}
	s.wait = s.path("wait")
	return s, nil
}

// ExecDetached starts a further process whose output nobody reads and returns
// its session's ID.
func (c *Client) ExecDetached(ctx context.Context, ref string, spec api.ExecSpec) (string, error) {
	var out api.Session
	err := c.call(ctx, request{method: http.MethodPost, path: containerPath(ref, "exec"), body: spec}, &out)
	return out.ID, err
}

// upgrade turns a request's connection into a session's stream. ctx bounds
// only the making of it.
func (c *Client) upgrade(ctx context.Context, r request) (*Session, error) {
	r.header = http.Header{
		"Connection": {"Upgrade"},
		"Upgrade":    {api.StreamProtocol},
	}
	// The transport ties a body to its request's context for as long as it is
	// open; the session must outlive ctx.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	resp, err := c.send(own, r)
	if err != nil {
		stop()
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	conn, ok := resp.Body.(upgraded)
	if !stop() || !ok || resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body.Close()
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%s %s: the daemon answered %s instead of switching to a stream", r.method, r.path, resp.Status)
	}
	return &Session{
		ID:  resp.Header.Get(api.SessionHeader),
		TTY: resp.Header.Get("Content-Type") == api.StreamRaw,
		c:   c, conn: conn, cancel: cancel,
	}, nil
}

// upgraded is the connection of an upgraded request: an http.Transport gives it
// as the answer's body.
type upgraded interface {
	io.ReadWriteCloser
	CloseWrite() error
}

func (s *Session) path(verb string) string {
	return "/sessions/" + url.PathEscape(s.ID) + "/" + verb
}

// Read reads the output stream; io.EOF is the end of the process's output.
func (s *Session) Read(p []byte) (int, error) { return s.conn.Read(p) }

// Write writes to the process's stdin.
func (s *Session) Write(p []byte) (int, error) { return s.conn.Write(p) }

// CloseWrite ends stdin; output goes on.
func (s *Session) CloseWrite() error { return s.conn.CloseWrite() }

// Close ends the session. The process it was attached to runs on.
func (s *Session) Close() error {
	defer s.cancel()
	return s.conn.Close()
}

// CopyOutput copies the process's output to stdout and stderr until its end.
// A terminal has only one stream, stdout.
func (s *Session) CopyOutput(stdout, stderr io.Writer) error {
	if s.TTY {
		_, err := io.Copy(stdout, s.conn)
		return err
	}
	return demux(s.conn, stdout, stderr)
}

// demux takes frames of {stream,0,0,0,len32be} apart.
func demux(r io.Reader, stdout, stderr io.Writer) error {
	br := bufio.NewReaderSize(r, 32<<10)
	var header [8]byte
	for {
		if _, err := io.ReadFull(br, header[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the header of an output frame: %w", err)
		}
		var w io.Writer
		switch header[0] {
		case 1:
			w = stdout
		case 2:
			w = stderr
		default:
			return fmt.Errorf("output frame of unknown stream %d", header[0])
		}
		n := int64(binary.BigEndian.Uint32(header[4:]))
		if copied, err := io.CopyN(w, br, n); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("copy output (%d of %d bytes): %w", copied, n, err)
		}
	}
}

// Resize sets the terminal's window size.
func (s *Session) Resize(ctx context.Context, rows, cols uint16) error {
	return s.c.call(ctx, request{
		method: http.MethodPost, path: s.path("resize"),
		query: url.Values{
			"rows": {strconv.Itoa(int(rows))},
			"cols": {strconv.Itoa(int(cols))},
		},
	}, nil)
}

// Signal sends a signal, by name or number, to the process.
func (s *Session) Signal(ctx context.Context, signal string) error {
	return s.c.call(ctx, request{
		method: http.MethodPost, path: s.path("kill"),
		query: url.Values{"signal": {signal}},
	}, nil)
}

// Wait returns how the process ended. After an attach to a container with
// AutoRemove it returns when the container is gone.
func (s *Session) Wait(ctx context.Context) (api.Exit, error) {
	var out api.Exit
	err := s.c.call(ctx, request{method: http.MethodPost, path: s.wait}, &out)
	return out, err
}
