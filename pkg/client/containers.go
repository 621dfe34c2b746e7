package client

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

func containerPath(ref, verb string) string {
	p := "/containers/" + url.PathEscape(ref)
	if verb != "" {
		p += "/" + verb
	}
	return p
}

// CreateContainer makes a container. If onFrame is not nil every kernel
// operation is explained to it as it is made, and every warning; otherwise
// warnings are only in the result. When ctx ends first, the daemon undoes what
// it has made, and CreateContainer returns when that is done.
func (c *Client) CreateContainer(ctx context.Context, spec api.ContainerSpec, onFrame func(api.Frame)) (api.Container, error) {
	made, err := framed[api.Container](ctx, c, request{method: http.MethodPost, path: "/containers", body: spec}, onFrame)
	if err == nil && ctx.Err() != nil {
		// It was finished before the daemon saw that nobody wants it.
		remove, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return api.Container{}, errors.Join(ctx.Err(), c.RemoveContainer(remove, made.ID, true))
	}
	return made, err
}

// StartContainer starts a created container; onFrame as in CreateContainer.
// After the end of ctx, too, it returns when the daemon has come to an end
// with it; if the container then runs, there is no error.
func (c *Client) StartContainer(ctx context.Context, ref string, onFrame func(api.Frame)) (api.Container, error) {
	return framed[api.Container](ctx, c, request{method: http.MethodPost, path: containerPath(ref, "start")}, onFrame)
}

// SpecGrace leaves it to the container's spec how long a stop waits.
const SpecGrace = time.Duration(math.MinInt64)

// StopContainer sends the stop signal, then KILL after grace: [SpecGrace], or
// a time, which is for ever if negative.
func (c *Client) StopContainer(ctx context.Context, ref string, grace time.Duration) error {
	r := request{method: http.MethodPost, path: containerPath(ref, "stop")}
	if grace != SpecGrace {
		r.query = url.Values{"grace": {grace.String()}}
	}
	return c.call(ctx, r, nil)
}

// KillContainer sends a signal, by name or number, to the first process.
func (c *Client) KillContainer(ctx context.Context, ref, signal string) error {
	return c.call(ctx, request{
		method: http.MethodPost, path: containerPath(ref, "kill"),
		query: url.Values{"signal": {signal}},
	}, nil)
}

// PauseContainer freezes all processes of the container.
func (c *Client) PauseContainer(ctx context.Context, ref string) error {
	return c.call(ctx, request{method: http.MethodPost, path: containerPath(ref, "pause")}, nil)
}

// UnpauseContainer thaws them.
func (c *Client) UnpauseContainer(ctx context.Context, ref string) error {
	return c.call(ctx, request{method: http.MethodPost, path: containerPath(ref, "unpause")}, nil)
}

// RemoveContainer deletes a container that is not running; force kills it
// first.
func (c *Client) RemoveContainer(ctx context.Context, ref string, force bool) error {
	r := request{method: http.MethodDelete, path: containerPath(ref, "")}
	if force {
		r.query = url.Values{"force": {"true"}}
	}
	return c.call(ctx, r, nil)
}

// ListContainers returns all containers, running or not.
func (c *Client) ListContainers(ctx context.Context) ([]api.Container, error) {
	var out []api.Container
	err := c.call(ctx, request{method: http.MethodGet, path: "/containers"}, &out)
	return out, err
}

// InspectContainer returns one container.
func (c *Client) InspectContainer(ctx context.Context, ref string) (api.Container, error) {
	var out api.Container
	err := c.call(ctx, request{method: http.MethodGet, path: containerPath(ref, "")}, &out)
	return out, err
}

// WaitContainer returns when the container has exited and, with AutoRemove,
// is gone. It may be called before the start, and also after such a container
// is gone: its exit is remembered for a while.
func (c *Client) WaitContainer(ctx context.Context, ref string) (api.Exit, error) {
	var out api.Exit
	err := c.call(ctx, request{method: http.MethodPost, path: containerPath(ref, "wait")}, &out)
	return out, err
}

// LogOptions choose log lines.
type LogOptions struct {
	Follow bool
	Tail   int // the last N lines; negative: all
	Since  time.Time
	Until  time.Time
}

// Logs hands the container's output, line by line, to fn.
func (c *Client) Logs(ctx context.Context, ref string, opts LogOptions, fn func(api.LogLine) error) error {
	q := url.Values{}
	if opts.Follow {
		q.Set("follow", "true")
	}
	if opts.Tail >= 0 {
		q.Set("tail", strconv.Itoa(opts.Tail))
	}
	if !opts.Since.IsZero() {
		q.Set("since", opts.Since.Format(time.RFC3339Nano))
	}
	if !opts.Until.IsZero() {
		q.Set("until", opts.Until.Format(time.RFC3339Nano))
	}
	return stream(ctx, c, request{method: http.MethodGet, path: containerPath(ref, "logs"), query: q}, fn)
}

// Stats returns one sample.
func (c *Client) Stats(ctx context.Context, ref string) (api.Stats, error) {
	var out api.Stats
	err := c.call(ctx, request{method: http.MethodGet, path: containerPath(ref, "stats")}, &out)
	return out, err
}

// StreamStats hands a sample a second to fn until the container has exited.
func (c *Client) StreamStats(ctx context.Context, ref string, fn func(api.Stats) error) error {
	return stream(ctx, c, request{
		method: http.MethodGet, path: containerPath(ref, "stats"),
		query: url.Values{"stream": {"true"}},
	}, fn)
}

// Events hands every container event from now on to fn.
func (c *Client) Events(ctx context.Context, fn func(api.Event) error) error {
	return stream(ctx, c, request{method: http.MethodGet, path: "/events"}, fn)
}
