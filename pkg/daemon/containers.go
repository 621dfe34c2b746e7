package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/undo"
)

const (
	defaultGrace  = 10 * time.Second
	forever       = time.Duration(math.MaxInt64)
	statsInterval = time.Second
)

func (d *Daemon) getContainers(w http.ResponseWriter, r *http.Request) error {
	all, err := d.Engine.List(r.Context())
	if err != nil {
		return err
	}
	if all == nil {
		all = []api.Container{} // [] on the wire, not null
	}
	return respond(w, http.StatusOK, all)
}

func (d *Daemon) getContainer(w http.ResponseWriter, r *http.Request) error {
	c, err := d.Engine.Inspect(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, c)
}

func (d *Daemon) postContainers(w http.ResponseWriter, r *http.Request) error {
	var spec api.ContainerSpec
	if err := decodeBody(w, r, &spec); err != nil {
		return err
	}
	return framed(w, r, http.StatusCreated, func(trace *explain.Tracer) (api.Container, []string, error) {
		c, err := d.Engine.Create(r.Context(), spec, trace)
		if err != nil {
			return c, nil, err
		}
		if r.Context().Err() != nil {
			// Nobody is there to learn the ID: as if it had not been made.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), undo.Timeout)
			defer cancel()
			return c, nil, errors.Join(context.Cause(r.Context()), d.Engine.Remove(ctx, c.ID, true))
		}
		d.events.publish(api.EventCreate, c)
		return c, c.Warnings, nil
	})
}

func (d *Daemon) postStart(w http.ResponseWriter, r *http.Request) error {
	before, err := d.Engine.Inspect(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	return framed(w, r, http.StatusOK, func(trace *explain.Tracer) (api.Container, []string, error) {
		err := d.keeper.start(r.Context(), before, func() error {
			return d.Engine.Start(r.Context(), before.ID, trace)
		})
		if err != nil {
			return before, nil, err
		}
		after, err := d.Engine.Inspect(r.Context(), before.ID)
		if errdefs.IsNotFound(err) {
			// It was so quick that it has been removed already.
			return before, nil, nil
		}
		// The create has told of the warnings up to then.
		news := after.Warnings[min(len(before.Warnings), len(after.Warnings)):]
		return after, news, err
	})
}

// framed answers with the container that do makes: alone, or, for a client
// that accepts a stream, after frames of what do does.
func framed(w http.ResponseWriter, r *http.Request, status int, do func(*explain.Tracer) (api.Container, []string, error)) error {
	if !wantsStream(r) {
		c, _, err := do(nil)
		if err != nil {
			return err
		}
		return respond(w, status, c)
	}
	f := newFrames(w)
	defer f.end() // also when do panics
	c, warnings, err := do(f.tracer())
	if err != nil {
		e, _ := wireError(err)
		f.send(api.Frame{Error: e})
		return nil
	}
	for _, warning := range warnings {
		f.send(api.Frame{Warning: warning})
	}
	result, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode container: %w", err)
	}
	f.send(api.Frame{Result: result})
	return nil
}

// act makes one change to a container, answers with nothing and publishes what
// was done.
func (d *Daemon) act(w http.ResponseWriter, r *http.Request, action string, do func(api.Container) error, more ...func(*api.Event)) error {
	c, err := d.Engine.Inspect(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	if err := do(c); err != nil {
		return err
	}
	if action != "" {
		d.events.publish(action, c, more...)
	}
	return respond(w, http.StatusNoContent, nil)
}

func (d *Daemon) deleteContainer(w http.ResponseWriter, r *http.Request) error {
	force, err := queryBool(r, "force")
	if err != nil {
		return err
	}
	return d.act(w, r, api.EventRemove, func(c api.Container) error {
		return d.keeper.removeNow(r.Context(), c, force)
	})
}

// postStop waits as long as it is told to before it kills, or else as long as
// the container's spec says.
func (d *Daemon) postStop(w http.ResponseWriter, r *http.Request) error {
	grace, err := query(r, "grace", nil, parseGrace)
	if err != nil {
		return err
	}
	// Its event is the exit.
	return d.act(w, r, "", func(c api.Container) error {
		return d.Engine.Stop(r.Context(), c.ID, graceOf(grace, c.Spec.StopTimeout))
	})
}

// graceOf chooses between what a stop asks for, what the container's spec says
// in seconds, and the default. A negative grace is for ever.
func graceOf(asked *time.Duration, spec *int) time.Duration {
	grace := defaultGrace
	switch {
	case asked != nil:
		grace = *asked
	case spec != nil:
		grace = time.Duration(*spec) * time.Second
	}
	if grace < 0 {
		return forever
	}
	return grace
}

func (d *Daemon) postKill(w http.ResponseWriter, r *http.Request) error {
	signal := signalOf(r)
	return d.act(w, r, api.EventKill,
		func(c api.Container) error { return d.Engine.Kill(r.Context(), c.ID, signal) },
		func(e *api.Event) { e.Signal = signal })
}

// signalOf is the signal that a kill asks for, KILL if it names none.
func signalOf(r *http.Request) string {
	if s := r.URL.Query().Get("signal"); s != "" {
		return s
	}
	return "KILL"
}

func (d *Daemon) postPause(w http.ResponseWriter, r *http.Request) error {
	return d.act(w, r, api.EventPause, func(c api.Container) error { return d.Engine.Pause(r.Context(), c.ID) })
}

func (d *Daemon) postUnpause(w http.ResponseWriter, r *http.Request) error {
	return d.act(w, r, api.EventUnpause, func(c api.Container) error { return d.Engine.Unpause(r.Context(), c.ID) })
}

func (d *Daemon) postWait(w http.ResponseWriter, r *http.Request) error {
	exit, err := d.keeper.wait(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, exit)
}

func (d *Daemon) getLogs(w http.ResponseWriter, r *http.Request) error {
	opts := engine.LogOptions{}
	var err error
	if opts.Follow, err = queryBool(r, "follow"); err != nil {
		return err
	}
	if opts.Tail, err = query(r, "tail", -1, strconv.Atoi); err != nil {
		return err
	}
	if opts.Since, err = queryTime(r, "since"); err != nil {
		return err
	}
	if opts.Until, err = queryTime(r, "until"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	logs, err := d.Engine.Logs(ctx, r.PathValue("ref"), opts)
	if err != nil {
		return err
	}
	out := newLines(w)
	if err := out.begin(); err != nil {
		return errors.Join(err, logs.Close())
	}
	in, failed := make(chan api.LogLine, 64), make(chan error, 1)
	go func() {
		defer close(in)
		for {
			line, err := logs.Next()
			if err != nil {
				failed <- errors.Join(err, logs.Close())
				return
			}
			select {
			case in <- line:
			case <-ctx.Done():
				failed <- logs.Close()
				return
			}
		}
	}()
	err = copyLines(out, in)
	cancel()
	if readErr := <-failed; !errors.Is(readErr, io.EOF) {
		err = errors.Join(err, readErr)
	}
	return err
}

func (d *Daemon) getStats(w http.ResponseWriter, r *http.Request) error {
	stream, err := queryBool(r, "stream")
	if err != nil {
		return err
	}
	ref := r.PathValue("ref")
	last, err := d.Engine.Stats(r.Context(), ref)
	if err != nil {
		return err
	}
	if !stream {
		return respond(w, http.StatusOK, last)
	}
	out := newLines(w)
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	for {
		if err := errors.Join(out.put(last), out.flush()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return nil
		}
		// By ID: the name may belong to another container by now.
		next, err := d.Engine.Stats(r.Context(), last.ID)
		if err != nil {
			return err // most likely it has exited, which ends the stream
		}
		if next.CPU != nil && last.CPU != nil && next.CPU.UsageUsec >= last.CPU.UsageUsec {
			used := time.Duration(next.CPU.UsageUsec-last.CPU.UsageUsec) * time.Microsecond
			next.CPU.Percent = 100 * used.Seconds() / next.Time.Sub(last.Time).Seconds()
		}
		last = next
	}
}

func (d *Daemon) getEvents(w http.ResponseWriter, r *http.Request) error {
	ch, cancel := d.events.subscribe()
	defer cancel()
	out := newLines(w)
	if err := out.begin(); err != nil {
		return err
	}
	for {
		select {
		case ev, ok := <-ch:
			if !ok {
				return errors.New("the subscriber fell behind")
			}
			if err := errors.Join(out.put(ev), out.flush()); err != nil {
				return err
			}
		case <-r.Context().Done():
			return nil
		}
	}
}
