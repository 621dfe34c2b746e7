package enginetest

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
)

func streams(t *testing.T, s *suite) {
	r := s.run(t, api.ContainerSpec{Command: shell("echo out; echo err >&2; printf unterminated")})
	if r.stdout != "out\nunterminated" || r.stderr != "err\n" {
		t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
	}
	// Many times the size of a pipe, and every byte there.
	const n = 3 << 20
	r = s.run(t, api.ContainerSpec{Command: shell(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x", n))})
	if len(r.stdout) != n || strings.Trim(r.stdout, "x") != "" {
		t.Errorf("%d bytes of output arrived, want %d", len(r.stdout), n)
	}
}

func stdin(t *testing.T, s *suite) {
	c := s.create(t, api.ContainerSpec{Command: []string{"sha256sum"}, OpenStdin: true})
	session, err := s.Attach(testContext(t), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := s.Start(testContext(t), c.ID, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(session, bytes.NewReader(make([]byte, 1<<20))); err != nil {
		t.Fatalf("write: %v", err)
	}
	if err := session.CloseWrite(); err != nil {
		t.Fatalf("close stdin: %v", err)
	}
	const want = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58" // of 1 MiB of zeros
	if out, _ := s.output(t, session, false); !strings.HasPrefix(out, want) {
		t.Errorf("output %q", out)
	}
	if code, err := session.Wait(testContext(t)); err != nil || code != 0 {
		t.Errorf("wait: %d, %v", code, err)
	}
	if r := s.run(t, api.ContainerSpec{Command: shell("read x; echo \"$? [$x]\"")}); r.stdout != "1 []\n" {
		t.Errorf("without stdin: %q", r.stdout)
	}
}

func lateAttach(t *testing.T, s *suite) {
	c := s.start(t, api.ContainerSpec{OpenStdin: true, Command: shell("echo before; while read x; do echo \"got $x\"; done; exit 5")})
	s.logged(t, c.ID, "before")
	// One that goes away does not end the container's stdin.
	gone, err := s.Attach(testContext(t), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gone.Write([]byte("one\n")); err != nil {
		t.Fatal(err)
	}
	s.logged(t, c.ID, "got one")
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := s.Attach(testContext(t), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := s.Attach(testContext(t), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := a.Write([]byte("two\n")); err != nil {
		t.Fatal(err)
	}
	s.logged(t, c.ID, "got two")
	if err := b.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for _, session := range []engine.Session{a, b} {
		if out, _ := s.output(t, session, false); out != "got two\n" {
			t.Errorf("attached session read %q: output is not replayed, and goes to all", out)
		}
		if code, err := session.Wait(testContext(t)); err != nil || code != 5 {
			t.Errorf("wait: %d, %v", code, err)
		}
	}
	if _, err := s.Attach(testContext(t), c.ID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("attach after the end: %v, want a failed precondition", err)
	}
}

// slowClient: a client that does not read cannot make the container
// unreachable, and loses nothing when it reads at last.
func slowClient(t *testing.T, s *suite) {
	const n = 4 << 20
	c := s.create(t, api.ContainerSpec{Command: shell(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' y; echo; echo end", n))})
	lazy, err := s.Attach(testContext(t), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer lazy.Close()
	if err := s.Start(testContext(t), c.ID, nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	s.inspect(t, c.ID)
	if out, _ := s.output(t, lazy, false); len(out) != n+len("\nend\n") {
		t.Errorf("%d bytes arrived, want %d", len(out), n+5)
	}

	c = s.create(t, api.ContainerSpec{Command: shell("while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done")})
	stuck, err := s.Attach(testContext(t), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	if err := s.Start(testContext(t), c.ID, nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if err := s.Kill(testContext(t), c.ID, "KILL"); err != nil {
		t.Fatalf("kill while a client is stuck: %v", err)
	}
	if exit, err := s.Wait(testContext(t), c.ID); err != nil || exit.Code != 137 {
		t.Errorf("wait while a client is stuck: %+v, %v", exit, err)
	}
	if code, err := stuck.Wait(testContext(t)); err != nil || code != 137 {
		t.Errorf("session's wait with its output unread: %d, %v", code, err)
	}
}

func tty(t *testing.T, s *suite) {
	c := s.create(t, api.ContainerSpec{TTY: true, OpenStdin: true, Command: shell("test -t 0 && test -t 1 && test -t 2 && echo terminal; read x; stty size; exit 4")})
	session, err := s.Attach(testContext(t), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := session.Resize(33, 111); err != nil {
		t.Fatalf("resize before start: %v", err)
	}
	if err := s.Start(testContext(t), c.ID, nil); err != nil {
		t.Fatal(err)
	}
	s.logged(t, c.ID, "terminal")
	if err := session.Resize(44, 122); err != nil {
		t.Fatalf("resize: %v", err)
	}
	if _, err := session.Write([]byte("go\r")); err != nil {
		t.Fatal(err)
	}
	out, _ := s.output(t, session, true)
	if out != "terminal\ngo\n44 122\n" {
		t.Errorf("output %q", out)
	}
	if code, err := session.Wait(testContext(t)); err != nil || code != 4 {
		t.Errorf("wait: %d, %v", code, err)
	}

	// ^C is a signal to the foreground process, which is the program also when
	// it has an init above it.
	c = s.create(t, api.ContainerSpec{TTY: true, OpenStdin: true, Init: true, Command: shell("trap 'exit 6' INT; echo ready; while :; do sleep 0.02; done")})
	if session, err = s.Attach(testContext(t), c.ID); err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := s.Start(testContext(t), c.ID, nil); err != nil {
		t.Fatal(err)
	}
	s.logged(t, c.ID, "ready")
	if _, err := session.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	s.output(t, session, true)
	if code, err := session.Wait(testContext(t)); err != nil || code != 6 {
		t.Errorf("after ^C: %d, %v", code, err)
	}
}

func execs(t *testing.T, s *suite) {
	c := s.start(t, api.ContainerSpec{Init: true, Hostname: "sbt-host", Env: []string{"A=1", "B=2"}, WorkDir: "/tmp", Command: []string{"sleep", "1000"}})
	for _, test := range []struct {
		spec api.ExecSpec
		code int
		want string
	}{
		{api.ExecSpec{Command: []string{"hostname"}}, 0, "sbt-host\n"},
		{api.ExecSpec{Command: shell("echo $A $B; pwd; exit 3"), Env: []string{"B=3"}}, 3, "1 3\n/tmp\n"},
		{api.ExecSpec{Command: []string{"pwd"}, WorkDir: "/"}, 0, "/\n"},
		{api.ExecSpec{Command: []string{"id", "-u"}, User: "1234:5678"}, 0, "1234\n"},
		{api.ExecSpec{Command: shell("read x; echo \"[$x]\"")}, 0, "[]\n"},
		{api.ExecSpec{Command: shell("cat /proc/1/cmdline | tr '\\0' ' ' | grep -c 'sleep 1000'")}, 0, "1\n"},
		{api.ExecSpec{Command: shell("kill -9 $$")}, 137, ""},
		// A child that goes on in the background does not hold the session up.
		{api.ExecSpec{Command: shell("sleep 1000 & echo started")}, 0, "started\n"},
	} {
		if code, out := s.exec(t, c.ID, test.spec); code != test.code || out != test.want {
			t.Errorf("%q: code %d, output %q; want %d, %q", test.spec.Command, code, out, test.code, test.want)
		}
	}
	session, err := s.Exec(testContext(t), c.ID, api.ExecSpec{Command: []string{"cat"}, OpenStdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := session.Write([]byte("through\n")); err != nil {
		t.Fatal(err)
	}
	if err := session.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if out, _ := s.output(t, session, false); out != "through\n" {
		t.Errorf("cat: %q", out)
	}
	if session, err = s.Exec(testContext(t), c.ID, api.ExecSpec{Command: []string{"sleep", "1000"}}); err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := session.Signal("KILL"); err != nil {
		t.Fatalf("signal: %v", err)
	}
	if code, err := session.Wait(testContext(t)); err != nil || code != 137 {
		t.Errorf("signalled: %d, %v", code, err)
	}
	if _, err := s.Exec(testContext(t), c.ID, api.ExecSpec{Command: []string{"no-such-program"}}); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("unknown program: %v", err)
	}
	if _, err := s.Exec(testContext(t), c.ID, api.ExecSpec{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no program: %v, want an invalid argument", err)
	}
	created := s.create(t, api.ContainerSpec{})
	if _, err := s.Exec(testContext(t), created.ID, api.ExecSpec{Command: []string{"true"}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in a container that is not started: %v, want a failed precondition", err)
	}
}

func execTTY(t *testing.T, s *suite) {
	c := s.sleeper(t)
	session, err := s.Exec(testContext(t), c.ID, api.ExecSpec{TTY: true, OpenStdin: true, Command: shell("read x; stty size; tty; exit 8")})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := session.Resize(12, 34); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Write([]byte("\r")); err != nil {
		t.Fatal(err)
	}
	out, _ := s.output(t, session, true)
	if !strings.Contains(out, "12 34\n/dev/") {
		t.Errorf("output %q", out)
	}
	if code, err := session.Wait(testContext(t)); err != nil || code != 8 {
		t.Errorf("wait: %d, %v", code, err)
	}
}

func execEnds(t *testing.T, s *suite) {
	c := s.sleeper(t)
	session, err := s.Exec(testContext(t), c.ID, api.ExecSpec{Command: shell("echo on; exec sleep 1000")})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := s.Kill(testContext(t), c.ID, "KILL"); err != nil {
		t.Fatal(err)
	}
	s.output(t, session, false)
	if code, err := session.Wait(testContext(t)); err != nil || code != 137 {
		t.Errorf("exec of a container that was killed: %d, %v, want 137", code, err)
	}
}

func logs(t *testing.T, s *suite) {
	begin := time.Now()
	c := s.start(t, api.ContainerSpec{Command: shell("for i in 1 2 3 4 5; do echo $i; done; sleep 0.2; echo late >&2; printf end")})
	if _, err := s.Wait(testContext(t), c.ID); err != nil {
		t.Fatal(err)
	}
	all := s.logLines(t, c.ID, engine.LogOptions{Tail: -1})
	if got := text(all); got != "1\n2\n3\n4\n5\nlate\nend" {
		t.Fatalf("log %q", got)
	}
	late := all[5]
	if late.Stream != "stderr" || all[0].Stream != "stdout" || all[0].Time.Before(begin) || late.Time.Before(all[0].Time) {
		t.Errorf("lines %+v", all)
	}
	for _, test := range []struct {
		opts engine.LogOptions
		want string
	}{
		{engine.LogOptions{Tail: 2}, "late\nend"},
		{engine.LogOptions{Tail: 0}, ""},
		{engine.LogOptions{Tail: 99}, text(all)},
		{engine.LogOptions{Tail: -1, Since: late.Time}, "late\nend"},
		{engine.LogOptions{Tail: -1, Until: late.Time.Add(-time.Millisecond)}, "1\n2\n3\n4\n5\n"},
		{engine.LogOptions{Tail: -1, Follow: true}, text(all)},
	} {
		if got := text(s.logLines(t, c.ID, test.opts)); got != test.want {
			t.Errorf("%+v: %q, want %q", test.opts, got, test.want)
		}
	}
}

func text(lines []api.LogLine) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Data)
	}
	return b.String()
}

func logsFollow(t *testing.T, s *suite) {
	c := s.create(t, api.ContainerSpec{Command: shell("for i in 1 2 3; do echo line $i; sleep 0.05; done")})
	lines := make(chan string, 1)
	go func() { lines <- text(s.logLines(t, c.ID, engine.LogOptions{Tail: -1, Follow: true})) }()
	if err := s.Start(testContext(t), c.ID, nil); err != nil {
		t.Fatal(err)
	}
	if got := <-lines; got != "line 1\nline 2\nline 3\n" {
		t.Errorf("followed %q", got)
	}
	// Close ends a Next that waits.
	c = s.sleeper(t)
	r, err := s.Engine.Logs(testContext(t), c.ID, engine.LogOptions{Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { _, err := r.Next(); ended <- err }()
	time.Sleep(20 * time.Millisecond)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a line came from nowhere")
		}
	case <-time.After(timeout):
		t.Error("Next is still waiting after Close")
	}
}
