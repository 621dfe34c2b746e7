package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// event is one line of `events`, in runc's form.
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

// events prints statistics at an interval, and a line for each OOM kill, until
// the container ends.
func events(ctx context.Context, g *global, args []string) (int, error) {
	fs := flags("events")
	once := fs.Bool("stats", false, "print statistics once")
	interval := fs.Duration("interval", 5*time.Second, "time between statistics")
	args, err := parse(fs, args, 1, 1)
	if err != nil {
		return 2, err
	}
	if *interval <= 0 {
		return 2, fmt.Errorf("%w: --interval %s is not positive", errUsage, *interval)
	}
	r, done, err := g.runtime()
	if err != nil {
		return 1, err
	}
	defer done()
	id := args[0]
	var mu sync.Mutex
	enc := json.NewEncoder(os.Stdout)
	print := func(typ string, data any) error {
		mu.Lock()
		defer mu.Unlock()
		return enc.Encode(event{typ, id, data})
	}
	stats, err := r.Stats(id)
	if err != nil {
		return 1, err
	}
	if *once {
		return 0, print("stats", newStats(stats))
	}
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer cancel()
	cg, err := r.OpenCgroup(id)
	if err != nil {
		return 1, err
	}
	defer cg.Close()
	go func() {
		defer cancel() // the container has ended
		_ = cg.WaitEmpty(ctx)
	}()
	// Where there is no memory controller, there are no such events.
	go func() { _ = cg.WatchOOM(ctx, func(uint64) { _ = print("oom", nil) }) }()
	tick := time.NewTicker(*interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return 0, nil
		case <-tick.C:
		}
		stats, err := r.Stats(id)
		if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
			return 0, nil
		}
		if err != nil {
			return 1, err
		}
		if err := print("stats", newStats(stats)); err != nil && !errors.Is(err, unix.EPIPE) {
			return 1, err
		}
	}
}
