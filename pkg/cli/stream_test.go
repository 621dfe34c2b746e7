package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

// fakeSession is a process that writes output, and ends when end is closed.
type fakeSession struct {
	output string
	end    chan struct{}
	exit   api.Exit
	broken error // of CopyOutput

	mu      sync.Mutex
	stdin   strings.Builder
	eof     bool
	signals []string
	sizes   [][2]uint16
}

func (f *fakeSession) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stdin.Write(p)
}

func (f *fakeSession) CloseWrite() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.eof = true
	return nil
}

func (f *fakeSession) CopyOutput(stdout, _ io.Writer) error {
	_, _ = io.WriteString(stdout, f.output)
	<-f.end
	return f.broken
}

func (f *fakeSession) Resize(_ context.Context, rows, cols uint16) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sizes = append(f.sizes, [2]uint16{rows, cols})
	return nil
}

func (f *fakeSession) Signal(_ context.Context, signal string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signals = append(f.signals, signal)
	return nil
}

func (f *fakeSession) Close() error                           { return nil }
func (f *fakeSession) Wait(context.Context) (api.Exit, error) { return f.exit, nil }
func (f *fakeSession) snapshot() (stdin string, sigs, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stdin.String(), len(f.signals), len(f.sizes)
}

func TestStreamEndsWithTheProcess(t *testing.T) {
	term := &ui.Fake{In: strings.NewReader("hello\n")}
	f := &fakeSession{output: "out\n", end: make(chan struct{}), exit: api.Exit{Code: 7}}
	s := &stream{term: term, session: f, stdin: true, start: func() error { return nil }}
	go func() {
		for in, _, _ := f.snapshot(); in != "hello\n"; in, _, _ = f.snapshot() {
			time.Sleep(time.Millisecond)
		}
		close(f.end)
	}()
	ended, err := s.run(t.Context())
	if err != nil || ended.Code != 7 || term.Out.String() != "out\n" {
		t.Errorf("ended %+v, %v, with output %q", ended, err, term.Out.String())
	}
	if !f.eof {
		t.Error("the end of stdin was not passed on")
	}
}

func TestStreamDetaches(t *testing.T) {
	in, typed := io.Pipe()
	term := &ui.Fake{In: in, TTY: true, Rows: 24, Cols: 80}
	f := &fakeSession{end: make(chan struct{})}
	s := &stream{term: term, session: f, tty: true, stdin: true, detachKeys: defaultDetachKeys}
	go func() {
		_, _ = typed.Write([]byte("ls\x10x\r"))
		_, _ = typed.Write([]byte("\x10"))
		_, _ = typed.Write([]byte("\x11"))
	}()
	if _, err := s.run(t.Context()); !errors.Is(err, errDetached) {
		t.Fatalf("run ended with %v", err)
	}
	if stdin, _, sizes := f.snapshot(); stdin != "ls\x10x\r" || sizes != 1 {
		t.Errorf("the process got %q and %d sizes", stdin, sizes)
	}
	if f.eof || term.IsRaw() {
		t.Errorf("after detaching: end of stdin %t, raw terminal %t", f.eof, term.IsRaw())
	}
}

func TestStreamPassesSignalsOn(t *testing.T) {
	f := &fakeSession{end: make(chan struct{})}
	started := make(chan struct{})
	s := &stream{term: &ui.Fake{}, session: f, sigProxy: true, start: func() error {
		close(started)
		time.Sleep(50 * time.Millisecond) // a signal that comes meanwhile is kept
		return nil
	}}
	go func() {
		<-started
		_ = syscall.Kill(os.Getpid(), syscall.SIGUSR2)
		for _, n, _ := f.snapshot(); n == 0; _, n, _ = f.snapshot() {
			time.Sleep(time.Millisecond)
		}
		close(f.end)
	}()
	if _, err := s.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(f.signals) != 1 || f.signals[0] != "SIGUSR2" {
		t.Errorf("signals passed on: %v", f.signals)
	}
}

func TestStreamStartFails(t *testing.T) {
	f := &fakeSession{end: make(chan struct{})}
	defer close(f.end)
	s := &stream{term: &ui.Fake{}, session: f, start: func() error { return io.ErrClosedPipe }}
	_, err := s.run(t.Context())
	if failed, ok := errors.AsType[*startError](err); !ok || failed.err != io.ErrClosedPipe {
		t.Errorf("run ended with %v", err)
	}
}

func TestDetachReader(t *testing.T) {
	for _, c := range []struct {
		in, out  string
		detached bool
	}{
		{"abc", "abc", false},
		{"a\x10\x11b", "a", true},
		{"a\x10b", "a\x10b", false},
		{"\x10\x10\x11", "\x10", true},
		{"\x10", "\x10", false}, // held back, then the end
		{"\x11\x10", "\x11\x10", false},
		{"\x10\x11", "", true},
		{"", "", false},
	} {
		for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in)), iotest.DataErrReader(strings.NewReader(c.in))} {
			got, err := io.ReadAll(&detachReader{r: r, keys: defaultDetachKeys})
			if string(got) != c.out || errors.Is(err, errDetached) != c.detached {
				t.Errorf("%q is passed on as %q, %v", c.in, got, err)
			}
		}
	}
}

func TestEnded(t *testing.T) {
	for _, c := range []struct {
		name string
		exit api.Exit
		err  error
		code int
		text string
	}{
		{"well", api.Exit{}, nil, 0, ""},
		{"with a code", api.Exit{Code: 7}, nil, 7, ""},
		{"by an OOM kill", api.Exit{Code: 137, OOMKilled: true, Message: "killed: memory.max 64 MiB reached"}, nil, 137, "sandbox: killed: memory.max 64 MiB reached"},
		{"detached", api.Exit{}, errDetached, 0, "web goes on"},
		{"daemon lost", api.Exit{}, io.ErrUnexpectedEOF, 1, "the container web goes on without it"},
		{"refused", api.Exit{}, &api.Error{Class: api.ClassInvalidArgument, Message: "no"}, 2, "error: no"},
	} {
		term := &ui.Fake{}
		p := &program{Deps: Deps{Term: term}}
		code := report(term, p.ended(c.exit, c.err, "web"))
		if code != c.code || !strings.Contains(term.Err.String(), c.text) || term.Out.String() != "" {
			t.Errorf("%s: code %d, stderr %q, stdout %q", c.name, code, term.Err.String(), term.Out.String())
		}
	}
}

func TestExecFailed(t *testing.T) {
	for message, code := range map[string]int{
		`create container x: exec "nope": executable file not found in $PATH: no such file or directory`: 127,
		`start container x: execve /etc (process.args): permission denied`:                               126,
		`create container x: exec "./a": exec format error`:                                              126,
		`image "exec" not found`: 1,
	} {
		got, _ := classify(execFailed(&api.Error{Class: api.ClassInternal, Message: message}))
		if got != code {
			t.Errorf("%s: exit code %d, want %d", message, got, code)
		}
	}
}
