// Package client is the typed client of the daemon's HTTP API on its unix
// socket.
//
// An error that the daemon answered is an [*api.Error]; one of not reaching it
// is a [*ConnectError].
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// maxErrorBody bounds how much of an unexpected answer is read, in bytes.
const maxErrorBody = 64 << 10

// Client talks to one daemon. It is safe for concurrent use and holds nothing
// but idle connections.
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client of the daemon at socket. It does not connect yet.
func New(socket string) *Client {
	var d net.Dialer
	return &Client{
		socket: socket,
		http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := d.DialContext(ctx, "unix", socket)
				if err != nil {
					return nil, connectError(socket, err)
				}
				return conn, nil
			},
			// A proxy from the environment is never meant for a unix socket.
			Proxy:              nil,
			DisableCompression: true,
		}},
	}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// What stands between the client and the daemon; see [ConnectError].
var (
	ErrNotRunning = errors.New("daemon is not running")
	ErrPermission = errors.New("no permission to use the daemon's socket")
)

// ConnectError is the failure to reach the daemon. It matches [ErrNotRunning]
// or [ErrPermission] by errors.Is where one of them is the reason.
type ConnectError struct {
	Socket string
	Hint   string // what the user can do; empty if unknown
	reason error
	err    error
}

func (e *ConnectError) Error() string {
	switch e.reason {
	case ErrNotRunning:
		return "the sandbox daemon is not running at " + e.Socket
	case ErrPermission:
		return "permission denied on " + e.Socket + ": it is for root and the group sandbox"
	}
	return fmt.Sprintf("connect to the sandbox daemon at %s: %v", e.Socket, e.err)
}

func (e *ConnectError) Unwrap() []error {
	if e.reason == nil {
		return []error{e.err}
	}
	return []error{e.reason, e.err}
}

func connectError(socket string, err error) error {
	e := &ConnectError{Socket: socket, err: err}
	switch {
	// No socket file, or one that a killed daemon left behind.
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		e.reason, e.Hint = ErrNotRunning, "start it with: sudo sandbox up"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		e.reason = ErrPermission
		e.Hint = "run with sudo, or join the group: sudo usermod -aG sandbox $USER, then log in again (the group is equal to root)"
	}
	return e
}

// request is one call, before it is sent.
type request struct {
	method, path string
	query        url.Values
	body         any         // sent as JSON unless nil
	stream       io.Reader   // sent as it is, in place of body
	header       http.Header // may be nil
	last         bool        // the connection is not used again
}

// send sends r and returns the answer if its status is 2xx or 101; its body is
// the caller's to close.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	body := r.stream
	if r.body != nil {
		b, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("encode the body of %s %s: %w", r.method, r.path, err)
		}
		body = bytes.NewReader(b)
	}
	u := "http://" + api.Host + api.Prefix + r.path
	if len(r.query) > 0 {
		u += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u, body)
	if err != nil {
		return nil, err
	}
	if r.header != nil {
		req.Header = r.header
	}
	switch {
	case r.body != nil:
		req.Header.Set("Content-Type", "application/json")
	case r.stream != nil:
		req.Header.Set("Content-Type", api.TarType)
	}
	req.Close = r.last
	resp, err := c.http.Do(req)
	if err != nil {
		// What url.Error adds, the method and a URL with an invented host,
		// tells the user nothing.
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		if _, ok := errors.AsType[*ConnectError](err); ok || ctx.Err() != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s %s: the daemon's answer: %w", r.method, r.path, err)
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, decodeError(resp)
}

// decodeError reads the api.Error of an answer that is not 2xx.
func decodeError(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return fmt.Errorf("read the daemon's error (%s): %w", resp.Status, err)
	}
	var e api.Error
	if json.Unmarshal(b, &e) != nil || e.Message == "" {
		e = api.Error{
			Class:   api.ClassInternal,
			Message: fmt.Sprintf("the daemon answered %s: %s", resp.Status, strings.TrimSpace(string(b))),
		}
	}
	return &e
}

// call sends r and decodes the answer into out, unless out is nil.
func (c *Client) call(ctx context.Context, r request, out any) error {
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	} else {
		err = json.NewDecoder(resp.Body).Decode(out)
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s %s: read the daemon's answer: %w", r.method, r.path, err)
	}
	return nil
}

// stream sends r and hands each line of the answer, decoded, to fn until the
// stream ends, ctx is done or fn fails.
func stream[T any](ctx context.Context, c *Client, r request, fn func(T) error) error {
	if r.header == nil {
		r.header = http.Header{}
	}
	r.header.Set("Accept", api.NDJSON)
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var v T
		if err := dec.Decode(&v); err == io.EOF {
			return nil
		} else if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s %s: read the daemon's stream: %w", r.method, r.path, err)
		}
		if err := fn(v); err != nil {
			return err
		}
	}
}
