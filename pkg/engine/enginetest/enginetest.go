// Package enginetest is one suite that every engine must pass: what a
// container is does not depend on who made it.
package enginetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
)

// Options describe the engine under test.
type Options struct {
	// Image has a POSIX shell and the usual tools (busybox), and as its
	// default command one that ends at once.
	Image string
	// Without names abilities that this host lacks, and why: "memory", "pids",
	// "freezer". Tests that need one are skipped, and say so.
	Without map[string]string
}

// suite is what the tests share.
type suite struct {
	Options
	engine.Engine
}

// Run runs the suite. newEngine is called once; the engine's containers are
// this suite's to remove.
func Run(t *testing.T, newEngine func(t *testing.T) (engine.Engine, Options)) {
	e, opts := newEngine(t)
	s := &suite{Options: opts, Engine: e}
	for _, test := range []struct {
		name string
		fn   func(*testing.T, *suite)
	}{
		{"Lifecycle", lifecycle},
		{"ExitCodes", exitCodes},
		{"Signals", signals},
		{"StopKillsAfterGrace", stopKills},
		{"StopSignal", stopSignal},
		{"WaitEndsWithContext", waitContext},
		{"Remove", remove},
		{"Names", names},
		{"NamesRace", namesRace},
		{"BadInput", badInput},
		{"Process", process},
		{"Init", initProcess},
		{"Streams", streams},
		{"Stdin", stdin},
		{"LateAttach", lateAttach},
		{"SlowClient", slowClient},
		{"TTY", tty},
		{"Exec", execs},
		{"ExecTTY", execTTY},
		{"ExecEndsWithContainer", execEnds},
		{"Logs", logs},
		{"LogsFollow", logsFollow},
		{"Pause", pause},
		{"NetworkNone", networkNone},
		{"Volumes", volumes},
		{"ReadOnly", readOnly},
		{"User", user},
		{"CopyOnWrite", copyOnWrite},
		{"OOM", oom},
		{"PidsLimit", pidsLimit},
		{"Stats", stats},
	} {
		t.Run(test.name, func(t *testing.T) { test.fn(t, s) })
	}
}

// requires skips a test that the host has no means for.
func (s *suite) requires(t *testing.T, ability string) {
	t.Helper()
	if why, lacking := s.Without[ability]; lacking {
		t.Skipf("this host lacks %s: %s", ability, why)
	}
}

// timeout is far beyond what any step takes, on a slow machine too.
const timeout = time.Minute

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// create makes a container that is removed with the test.
func (s *suite) create(t *testing.T, spec api.ContainerSpec) api.Container {
	t.Helper()
	if spec.Image == "" {
		spec.Image = s.Image
	}
	if spec.Network.Mode == "" {
		spec.Network.Mode = "none"
	}
	c, err := s.Create(testContext(t), spec, nil)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if _, err := s.Inspect(ctx, c.ID); err != nil {
			return
		}
		if err := s.Engine.Remove(ctx, c.ID, true); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	return c
}

func (s *suite) start(t *testing.T, spec api.ContainerSpec) api.Container {
	t.Helper()
	c := s.create(t, spec)
	if err := s.Start(testContext(t), c.ID, nil); err != nil {
		t.Fatalf("start: %v", err)
	}
	return c
}

func shell(script string) []string { return []string{"sh", "-c", script} }

// sleeper is a container that runs until it is killed, at once.
func (s *suite) sleeper(t *testing.T) api.Container {
	t.Helper()
	return s.start(t, api.ContainerSpec{Command: []string{"sleep", "1000"}, Init: true})
}

// result is how a container ended, and what it wrote.
type result struct {
	api.Exit
	stdout, stderr string
}

// run runs a container to its end.
func (s *suite) run(t *testing.T, spec api.ContainerSpec) result {
	t.Helper()
	c := s.create(t, spec)
	session, err := s.Attach(testContext(t), c.ID)
	if err != nil {
		t.Fatalf("attach: %v", err)
	}
	defer session.Close()
	if err := s.Start(testContext(t), c.ID, nil); err != nil {
		t.Fatalf("start: %v", err)
	}
	var r result
	r.stdout, r.stderr = s.output(t, session, spec.TTY)
	if r.Exit, err = s.Wait(testContext(t), c.ID); err != nil {
		t.Fatalf("wait: %v", err)
	}
	return r
}

// output reads a session to its end.
func (s *suite) output(t *testing.T, session engine.Session, tty bool) (stdout, stderr string) {
	t.Helper()
	stop := time.AfterFunc(timeout, func() { _ = session.Close() })
	defer stop.Stop()
	if tty {
		b, err := io.ReadAll(session)
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		return strings.ReplaceAll(string(b), "\r\n", "\n"), ""
	}
	var out, errs bytes.Buffer
	if err := demultiplex(&out, &errs, session); err != nil {
		t.Fatalf("read: %v", err)
	}
	return out.String(), errs.String()
}

// demultiplex splits the frames of engine.Session.
func demultiplex(stdout, stderr io.Writer, r io.Reader) error {
	for {
		var header [8]byte
		if _, err := io.ReadFull(r, header[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		w := stdout
		switch header[0] {
		case 1:
		case 2:
			w = stderr
		default:
			return errors.New("a frame is of neither stdout nor stderr")
		}
		if _, err := io.CopyN(w, r, int64(binary.BigEndian.Uint32(header[4:]))); err != nil {
			return err
		}
	}
}

// exec runs a further process to its end.
func (s *suite) exec(t *testing.T, id string, spec api.ExecSpec) (int, string) {
	t.Helper()
	session, err := s.Exec(testContext(t), id, spec)
	if err != nil {
		t.Fatalf("exec %q: %v", spec.Command, err)
	}
	defer session.Close()
	stdout, stderr := s.output(t, session, spec.TTY)
	code, err := session.Wait(testContext(t))
	if err != nil {
		t.Fatalf("wait for exec %q: %v", spec.Command, err)
	}
	return code, stdout + stderr
}

// eventually waits until what becomes true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", timeout, what)
		}
	}
}

// logged waits until a container has written text.
func (s *suite) logged(t *testing.T, id, text string) {
	t.Helper()
	eventually(t, "log contains "+text, func() bool { return strings.Contains(s.log(t, id), text) })
}

func (s *suite) log(t *testing.T, id string) string {
	t.Helper()
	var b strings.Builder
	for _, l := range s.logLines(t, id, engine.LogOptions{Tail: -1}) {
		b.WriteString(l.Data)
	}
	return b.String()
}

func (s *suite) logLines(t *testing.T, id string, opts engine.LogOptions) (lines []api.LogLine) {
	t.Helper()
	r, err := s.Engine.Logs(testContext(t), id, opts)
	if err != nil {
		t.Fatalf("logs: %v", err)
	}
	defer r.Close()
	for {
		l, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatalf("logs: %v", err)
		}
		lines = append(lines, l)
	}
}
