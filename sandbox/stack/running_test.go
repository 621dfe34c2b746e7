package stack_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// running is a command under way.
type running struct {
	args      []string
	cmd       *exec.Cmd
	out, errs output
	ended     chan struct{} // closed when the rest is final
	err       error
	took      time.Duration
}

// output can be read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// begin begins a command.
func (s *sandbox) begin(args ...string) *running {
	s.t.Helper()
	r := &running{args: args, cmd: s.command(s.t.Context(), args...), ended: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.errs
	begun := time.Now()
	if err := r.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		r.err = r.cmd.Wait()
		r.took = time.Since(begun)
		close(r.ended)
	}()
	return r
}

// code waits for the end of a command, and is its exit code, as a shell has it.
func (r *running) code() int {
	<-r.ended
	exit, ok := errors.AsType[*exec.ExitError](r.err)
	switch {
	case ok:
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal())
		}
		return exit.ExitCode()
	case r.err != nil:
		return -1
	}
	return 0
}

// change waits for the end of a command that is a change, and shows how it went.
func (s *sandbox) changed(r *running) (c api.Change) {
	s.t.Helper()
	code := r.code()
	if err := json.Unmarshal([]byte(r.out.String()), &c); err != nil {
		s.t.Fatalf("sandbox %s: %d, %v\n%s", strings.Join(r.args, " "), code, err, r.errs.String())
	}
	s.show(c)
	if code != 0 {
		s.t.Fatalf("sandbox %s: %d\n%s", strings.Join(r.args, " "), code, r.errs.String())
	}
	return c
}

// show logs the steps of a change.
func (s *sandbox) show(c api.Change) {
	for _, task := range c.Tasks {
		s.t.Logf("%-8s %-10s %s: %.1f s %s%s", task.Status, task.Stage, task.Name, task.Took.Seconds(), task.Note, task.Error)
	}
}

// change runs a command that is a change.
func (s *sandbox) change(args ...string) (api.Change, time.Duration) {
	s.t.Helper()
	r := s.begin(append(args, "--json")...)
	return s.changed(r), r.took
}

// refused runs a command that is to end with a code, and to say what is amiss,
// why, and what to do.
func (s *sandbox) refused(code int, says []string, args ...string) {
	s.t.Helper()
	r := s.begin(args...)
	got := r.code()
	text := r.errs.String()
	s.t.Logf("sandbox %s: exit code %d after %.1f s\n%s", strings.Join(args, " "), got, r.took.Seconds(), tailOf(text, 4))
	if got != code {
		s.t.Errorf("sandbox %s: exit code %d, want %d", strings.Join(args, " "), got, code)
	}
	for _, want := range append(says, "error: ", "hint: ") {
		if !strings.Contains(text, want) {
			s.t.Errorf("sandbox %s: does not say %q:\n%s", strings.Join(args, " "), want, text)
		}
	}
}
