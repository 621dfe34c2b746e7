package daemon

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/client"
)

// running creates and starts a container.
func (d *daemonTest) running(spec api.ContainerSpec) api.Container {
	d.t.Helper()
	c, err := d.CreateContainer(d.t.Context(), spec, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if c, err = d.StartContainer(d.t.Context(), c.ID, nil); err != nil {
		d.t.Fatal(err)
	}
	return c
}

func TestLifecycle(t *testing.T) {
	d := start(t)
	ctx := t.Context()
	events := make(chan api.Event, 32)
	listening, stopListening := context.WithCancel(ctx)
	listened := make(chan error, 1)
	go func() {
		listened <- d.Events(listening, func(e api.Event) error { events <- e; return nil })
	}()
	time.Sleep(100 * time.Millisecond) // subscribed

	spec := api.ContainerSpec{Name: "web", Image: "sleep"}
	c, err := d.CreateContainer(ctx, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Status != api.StatusCreated || len(c.Warnings) != 1 {
		t.Errorf("created: %+v", c)
	}
	_, err = d.CreateContainer(ctx, spec, nil)
	wantClass(t, err, api.ClassAlreadyExists, "web")
	_, err = d.CreateContainer(ctx, api.ContainerSpec{Image: "unknown"}, nil)
	wantClass(t, err, api.ClassNotFound, "unknown")

	if c, err = d.StartContainer(ctx, "web", nil); err != nil || c.Status != api.StatusRunning {
		t.Fatalf("started: %+v, %v", c, err)
	}
	_, err = d.StartContainer(ctx, "web", nil)
	wantClass(t, err, api.ClassFailedPrecondition, "running")
	if err := d.PauseContainer(ctx, "web"); err != nil {
		t.Error(err)
	}
	if c, err := d.InspectContainer(ctx, "web"); err != nil || c.Status != api.StatusPaused {
		t.Errorf("paused: %+v, %v", c, err)
	}
	if err := d.UnpauseContainer(ctx, "web"); err != nil {
		t.Error(err)
	}
	stats, err := d.Stats(ctx, "web")
	if err != nil || stats.Name != "web" {
		t.Errorf("stats: %+v, %v", stats, err)
	}
	wantClass(t, d.RemoveContainer(ctx, "web", false), api.ClassFailedPrecondition, "running")
	if err := d.StopContainer(ctx, "web", time.Second); err != nil {
		t.Error(err)
	}
	if exit, err := d.WaitContainer(ctx, "web"); err != nil || exit.Code != 143 {
		t.Errorf("exit: %+v, %v", exit, err)
	}
	if err := d.RemoveContainer(ctx, "web", false); err != nil {
		t.Error(err)
	}
	_, err = d.InspectContainer(ctx, "web")
	wantClass(t, err, api.ClassNotFound, "web")
	_, err = d.WaitContainer(ctx, "web")
	wantClass(t, err, api.ClassNotFound, "web")
	if all, err := d.ListContainers(ctx); err != nil || all == nil || len(all) != 0 {
		t.Errorf("list: %v, %v", all, err)
	}
	if images, err := d.Images(ctx); err != nil || len(images) != 1 {
		t.Errorf("images: %v, %v", images, err)
	}
	if st, err := d.Status(ctx); err != nil || st.PID == 0 || st.Since.IsZero() {
		t.Errorf("status: %+v, %v", st, err)
	}

	for _, want := range []string{"create", "start", "pause", "unpause", "exit", "remove"} {
		select {
		case got := <-events:
			if got.Action != want || got.ID != c.ID || got.Name != "web" {
				t.Errorf("event %+v, want %s", got, want)
			}
			if want == "exit" && (got.Exit == nil || got.Exit.Code != 143) {
				t.Errorf("event %+v", got)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no event %s", want)
		}
	}
	stopListening()
	if err := <-listened; !errors.Is(err, context.Canceled) {
		t.Errorf("events: %v", err)
	}
}

func TestExplainFrames(t *testing.T) {
	d := start(t)
	var got []string
	onFrame := func(f api.Frame) {
		switch {
		case f.Explain != nil:
			got = append(got, f.Explain.Actor+" "+f.Explain.Op)
		case f.Warning != "":
			got = append(got, f.Warning)
		}
	}
	c, err := d.CreateContainer(t.Context(), api.ContainerSpec{Image: "exit:0"}, onFrame)
	if err != nil || c.ID == "" {
		t.Fatalf("%+v, %v", c, err)
	}
	if c, err = d.StartContainer(t.Context(), c.ID, onFrame); err != nil || c.PID == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	want := "engine mkdir|no controller io|engine execve|no swap accounting"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("frames: %s\nwant:   %s", s, want)
	}
	_, err = d.CreateContainer(t.Context(), api.ContainerSpec{Image: "unknown"}, onFrame)
	wantClass(t, err, api.ClassNotFound, "unknown")
}

func TestAutoRemove(t *testing.T) {
	d := start(t)
	ctx := t.Context()
	for range 50 {
		c, err := d.CreateContainer(ctx, api.ContainerSpec{Name: "once", Image: "exit:9", AutoRemove: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		early := make(chan api.Exit, 1)
		go func() {
			exit, err := d.WaitContainer(ctx, c.ID)
			if err != nil {
				t.Errorf("early wait: %v", err)
			}
			early <- exit
		}()
		if _, err := d.StartContainer(ctx, c.ID, nil); err != nil {
			t.Fatal(err)
		}
		if exit := <-early; exit.Code != 9 {
			t.Errorf("early wait: %+v", exit)
		}
		// It is gone when the wait returns, so the name is free again.
		if all, err := d.ListContainers(ctx); err != nil || len(all) != 0 {
			t.Fatalf("after the wait: %v, %v", all, err)
		}
		if exit, err := d.WaitContainer(ctx, c.ID); err != nil || exit.Code != 9 {
			t.Errorf("late wait: %+v, %v", exit, err)
		}
	}
}

func TestLogs(t *testing.T) {
	d := start(t)
	c := d.running(api.ContainerSpec{Image: "sleep"})
	n := 0
	count := func(l api.LogLine) error { n++; return nil }
	if err := d.Logs(t.Context(), c.ID, client.LogOptions{Tail: -1}, count); err != nil || n != 1000 {
		t.Errorf("all: %d lines, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n = 0
	err := d.Logs(ctx, c.ID, client.LogOptions{Follow: true, Tail: 3}, func(l api.LogLine) error {
		if n++; n == 3 {
			cancel() // the lines arrive although the stream goes on
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n != 3 {
		t.Errorf("follow: %d lines, %v", n, err)
	}
	wantClass(t, d.Logs(t.Context(), "nobody", client.LogOptions{}, count), api.ClassNotFound, "nobody")
}

func TestStatsStream(t *testing.T) {
	d := start(t)
	c := d.running(api.ContainerSpec{Image: "sleep"})
	n := 0
	err := d.StreamStats(t.Context(), c.ID, func(s api.Stats) error {
		if n++; n == 2 {
			if s.CPU.Percent < 40 || s.CPU.Percent > 60 {
				t.Errorf("percent is %v, want about 50", s.CPU.Percent)
			}
			return d.KillContainer(t.Context(), c.ID, "KILL") // ends the stream
		}
		return nil
	})
	if err != nil || n < 2 {
		t.Errorf("%d samples, %v", n, err)
	}
}

// TestDisconnect: a create whose client goes away is undone, whether the
// engine is still at it or has just finished.
func TestDisconnect(t *testing.T) {
	for name, finish := range map[string]bool{"cancelled": false, "too late": true} {
		t.Run(name, func(t *testing.T) {
			d := start(t)
			begun, told := make(chan struct{}), make(chan error, 1)
			d.engine.onCreate = func(ctx context.Context, _ api.ContainerSpec) error {
				close(begun)
				<-ctx.Done()
				told <- ctx.Err()
				if finish {
					return nil
				}
				return ctx.Err()
			}
			ctx, cancel := context.WithCancel(t.Context())
			created := make(chan error, 1)
			go func() {
				_, err := d.CreateContainer(ctx, api.ContainerSpec{Image: "sleep"}, nil)
				created <- err
			}()
			<-begun
			cancel()
			if err := <-created; !errors.Is(err, context.Canceled) {
				t.Errorf("create: %v", err)
			}
			select {
			case <-told:
			case <-time.After(5 * time.Second):
				t.Fatal("the engine is not told")
			}
			d.end() // waits for the handler
			if all, _ := d.engine.List(t.Context()); len(all) != 0 {
				t.Errorf("left: %+v", all)
			}
		})
	}
}

// TestMany runs twenty clients side by side through whole lives.
func TestMany(t *testing.T) {
	d := start(t)
	var ok atomic.Int32
	done := make(chan struct{})
	for range 20 {
		go func() {
			defer func() { done <- struct{}{} }()
			c, err := d.CreateContainer(t.Context(), api.ContainerSpec{Image: "chatty", AutoRemove: true}, func(api.Frame) {})
			if err != nil {
				t.Error(err)
				return
			}
			s, err := d.Attach(t.Context(), c.ID)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if _, err := d.StartContainer(t.Context(), c.ID, func(api.Frame) {}); err != nil {
				t.Error(err)
				return
			}
			var out bytes.Buffer
			if err := s.CopyOutput(&out, &out); err != nil || out.Len() != 20 {
				t.Errorf("%q, %v", &out, err)
				return
			}
			if exit, err := s.Wait(t.Context()); err == nil && exit.Code == 3 {
				ok.Add(1)
			} else {
				t.Errorf("%+v, %v", exit, err)
			}
		}()
	}
	for range 20 {
		<-done
	}
	if ok.Load() != 20 {
		t.Errorf("%d of 20", ok.Load())
	}
}

func TestGrace(t *testing.T) {
	second, seven, never := time.Second, 7, -1
	for _, tc := range []struct {
		asked *time.Duration
		spec  *int
		want  time.Duration
	}{
		{nil, nil, 10 * time.Second},
		{nil, &seven, 7 * time.Second},
		{&second, &seven, time.Second},
		{nil, &never, forever},
	} {
		if got := graceOf(tc.asked, tc.spec); got != tc.want {
			t.Errorf("%v %v: %v, want %v", tc.asked, tc.spec, got, tc.want)
		}
	}
}
