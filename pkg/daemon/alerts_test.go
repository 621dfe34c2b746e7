package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/daemon/alerts"
)

func TestAlerts(t *testing.T) {
	store := &alerts.Store{Path: filepath.Join(t.TempDir(), "alerts.json")}
	d := start(t, func(c *Config) { c.Alerts = store })
	list, err := d.Alerts(t.Context())
	if err != nil || list == nil || len(list) != 0 {
		t.Errorf("none yet: %v, %v", list, err)
	}
	add := func(name string) {
		t.Helper()
		now := time.Now().UTC()
		if err := store.Add([]api.Alert{{Status: api.AlertFiring, Name: name, Fingerprint: name, StartsAt: now, Received: now}}); err != nil {
			t.Fatal(err)
		}
	}
	add("first")
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := make(chan string, 8), make(chan error, 1)
	go func() {
		ended <- d.FollowAlerts(ctx, func(a api.Alert) error { got <- a.Name; return nil })
	}()
	if name := <-got; name != "first" {
		t.Errorf("followed: %s", name)
	}
	add("second")
	if name := <-got; name != "second" {
		t.Errorf("followed: %s", name)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("following ended with %v", err)
	}
	if list, err = d.Alerts(t.Context()); err != nil || len(list) != 2 || list[1].Name != "second" {
		t.Errorf("%+v, %v", list, err)
	}
	// Whoever follows does not hold up the daemon's end.
	go func() { ended <- d.FollowAlerts(context.Background(), func(api.Alert) error { return nil }) }()
	time.Sleep(50 * time.Millisecond)
	begun := time.Now()
	d.end()
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
	<-ended
}

func TestNoAlerts(t *testing.T) {
	d := start(t)
	_, err := d.Alerts(t.Context())
	wantClass(t, err, api.ClassNotImplemented, "receives no alerts")
}

// TestExited: each end of a container is told once.
func TestExited(t *testing.T) {
	var count, code atomic.Int64
	d := start(t, func(c *Config) {
		c.Exited = func(ct api.Container, exit api.Exit) {
			count.Add(1)
			code.Store(int64(exit.Code))
		}
	})
	c, err := d.CreateContainer(t.Context(), api.ContainerSpec{Image: "exit:5", AutoRemove: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.StartContainer(t.Context(), c.ID, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WaitContainer(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if count.Load() != 1 || code.Load() != 5 {
		t.Errorf("told %d times, of code %d", count.Load(), code.Load())
	}
}
