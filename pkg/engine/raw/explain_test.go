package raw

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// TestExplain: the operations of engine, shim, runtime and first process come
// as one stream, in order, with the flags that they are from.
func TestExplain(t *testing.T) {
	e, _ := newEngine(t)
	var mu sync.Mutex
	var events []explain.Event
	trace := explain.New("engine", os.Getpid(), func(ev explain.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, ev)
	})
	c, err := e.Create(within(t, time.Minute), api.ContainerSpec{
		Image: testImage, Command: []string{"true"}, Hostname: "sbt-explained",
		Resources: api.Resources{PidsLimit: 20},
		Flags:     map[string]string{"hostname": "--hostname sbt-explained", "linux.resources.pids.limit": "--pids-limit 20"},
	}, trace)
	if err != nil {
		t.Fatal(err)
	}
	created := len(events)
	if err := e.Start(within(t, time.Minute), c.ID, trace); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Wait(within(t, time.Minute), c.ID); err != nil {
		t.Fatal(err)
	}
	next := 0
	for i, ev := range events {
		if ev.Seq != int64(i+1) {
			t.Errorf("event %d has number %d", i, ev.Seq)
		}
		if ev.Op == "" || ev.Time.IsZero() || ev.PID == 0 {
			t.Errorf("event %d: %+v", i, ev)
		}
		// In this order, with others between them.
		story := []struct{ actor, op, value string }{
			{"engine", "clone", "CLONE_NEWNS"},
			{"shim", "mount", "MS_SLAVE"},
			{"shim", "mount", "overlay"},
			{"runtime", "clone3", "CLONE_NEWPID"},
			{"init", "pivot_root", ""},
			{"engine", "link add", ""},
			{"init", "execve", "true"},
		}
		if next < len(story) && ev.Actor == story[next].actor && ev.Op == story[next].op && strings.Contains(ev.Value, story[next].value) {
			next++
		}
		if i >= created && ev.Op == "execve" && next != len(story) {
			t.Errorf("of the story, only the first %d happened", next)
		}
	}
	if next == 0 || len(events) == created {
		t.Errorf("%d events of create, %d of start", created, len(events)-created)
	}
	if !slices.ContainsFunc(events, func(ev explain.Event) bool { return ev.Op == "sethostname" && ev.Flag == "--hostname sbt-explained" }) {
		t.Error("no sethostname with its flag")
	}
	if t.Failed() {
		for _, ev := range events {
			t.Logf("%-8s %-14s %s ← %s (%s) %s", ev.Actor, ev.Op, ev.Target, ev.Value, ev.Flag, ev.Error)
		}
	}
}
