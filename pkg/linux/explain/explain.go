// Package explain records kernel operations as they are performed.
//
// The code that performs an operation wraps it in [Tracer.Do]; nothing else
// may emit an event, so what is reported is what was made. A nil *Tracer
// records nothing and costs nothing.
package explain

import (
	"encoding/json"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Event is one kernel operation. Its JSON form is the wire form of
// `sandbox run --explain --json`, one object per line.
type Event struct {
	// Seq orders the events of one emitter; consumers that merge several
	// emitters order by Time.
	Seq  int64     `json:"seq"`
	Time time.Time `json:"time"`
	// Actor is the process that made the operation: "engine", "shim",
	// "runtime" or "init" (the container's first process, before its exec).
	Actor string `json:"actor"`
	PID   int    `json:"pid,omitempty"`
	// Op names the operation as a learner would look it up: a system call
	// ("clone3", "mount", "pivot_root"), "write" to a kernel file, or an
	// ip(8)-style object and verb for netlink ("link add").
	Op     string `json:"op"`
	Target string `json:"target,omitempty"`
	Value  string `json:"value,omitempty"`
	// Duration is how long the operation took, in nanoseconds on the wire.
	Duration time.Duration `json:"duration_ns"`
	// Error is the errno text of an operation that failed and was survived.
	Error string `json:"error,omitempty"`
	// Source is the config.json field the operation comes from, for example
	// "linux.resources.memory.limit".
	Source string `json:"source,omitempty"`
	// Flag is the docker-style flag behind Source, for example "--memory 64m".
	Flag string `json:"flag,omitempty"`
	// Why is one line for the learner.
	Why string `json:"why,omitempty"`
}

// Tracer stamps events and hands them to a sink.
type Tracer struct {
	actor string
	pid   int
	seq   atomic.Int64
	sink  func(Event)
}

// New returns a Tracer whose events carry actor and pid. sink is called
// synchronously, possibly from several goroutines.
func New(actor string, pid int, sink func(Event)) *Tracer {
	return &Tracer{actor: actor, pid: pid, sink: sink}
}

// Enabled reports whether events are wanted; use it to avoid formatting work.
func (t *Tracer) Enabled() bool { return t != nil }

// Do performs fn and reports it as ev, with its start time, duration and error.
func (t *Tracer) Do(ev Event, fn func() error) error {
	if t == nil {
		return fn()
	}
	ev.Time = time.Now()
	err := fn()
	ev.Duration = time.Since(ev.Time)
	if err != nil {
		ev.Error = err.Error()
	}
	t.Emit(ev)
	return err
}

// Emit reports an operation that was already performed and timed.
func (t *Tracer) Emit(ev Event) {
	if t == nil {
		return
	}
	if ev.Actor == "" {
		ev.Actor = t.actor
	}
	if ev.PID == 0 {
		ev.PID = t.pid
	}
	ev.Seq = t.seq.Add(1)
	t.sink(ev)
}

// JSONLines returns a sink that writes one JSON object per line to w.
func JSONLines(w io.Writer) func(Event) {
	var mu sync.Mutex
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return func(ev Event) {
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(ev) // a listener that is gone is no reason to fail the operation
	}
}
