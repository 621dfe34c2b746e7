package daemon

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/client"
)

func TestAttach(t *testing.T) {
	d := start(t)
	ctx := t.Context()
	attach := func(spec api.ContainerSpec) *client.Session {
		t.Helper()
		c, err := d.CreateContainer(ctx, spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := d.Attach(ctx, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		if _, err := d.StartContainer(ctx, c.ID, nil); err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Run("streams", func(t *testing.T) {
		s := attach(api.ContainerSpec{Image: "chatty", AutoRemove: true})
		var stdout, stderr bytes.Buffer
		if err := s.CopyOutput(&stdout, &stderr); err != nil {
			t.Error(err)
		}
		if stdout.String() != "to stdout\n" || stderr.String() != "to stderr\n" {
			t.Errorf("stdout %q, stderr %q", &stdout, &stderr)
		}
		if exit, err := s.Wait(ctx); err != nil || exit.Code != 3 {
			t.Errorf("exit: %+v, %v", exit, err)
		}
	})
	t.Run("stdin", func(t *testing.T) {
		s := attach(api.ContainerSpec{Image: "cat", OpenStdin: true})
		big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
		go func() {
			_, _ = io.WriteString(s, big)
			_ = s.CloseWrite()
		}()
		var stdout bytes.Buffer
		if err := s.CopyOutput(&stdout, io.Discard); err != nil || stdout.String() != big {
			t.Errorf("%d bytes, %v", stdout.Len(), err)
		}
		if exit, err := s.Wait(ctx); err != nil || exit.Code != 0 {
			t.Errorf("exit: %+v, %v", exit, err)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		s := attach(api.ContainerSpec{Image: "cat", OpenStdin: true, TTY: true})
		if !s.TTY {
			t.Error("not a terminal")
		}
		if err := s.Resize(ctx, 24, 80); err != nil {
			t.Error(err)
		}
		if size := <-d.engine.resized; size != [2]uint16{24, 80} {
			t.Errorf("size: %v", size)
		}
		go func() { _, _ = io.WriteString(s, "ls"); _ = s.CloseWrite() }()
		if out, err := io.ReadAll(s); err != nil || string(out) != "ls" {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("unread stdin", func(t *testing.T) {
		// The process ends while stdin that it will never read is on its way:
		// the client still sees a clean end of the output.
		s := attach(api.ContainerSpec{Image: "sleep", OpenStdin: true})
		go func() { _, _ = io.WriteString(s, strings.Repeat("x", 1<<20)) }()
		time.Sleep(20 * time.Millisecond)
		if err := s.Signal(ctx, "KILL"); err != nil {
			t.Error(err)
		}
		if err := s.CopyOutput(io.Discard, io.Discard); err != nil {
			t.Error(err)
		}
		if exit, err := s.Wait(ctx); err != nil || exit.Code != 137 {
			t.Errorf("exit: %+v, %v", exit, err)
		}
	})
	t.Run("client goes", func(t *testing.T) {
		s := attach(api.ContainerSpec{Name: "left", Image: "cat", OpenStdin: true})
		if err := s.CloseWrite(); err != nil { // cat ends by it
			t.Error(err)
		}
		if _, err := s.Wait(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		_, err := d.Attach(ctx, "nobody")
		wantClass(t, err, api.ClassNotFound, "nobody")
	})
}

// TestAttachHangup: ending stdin is not leaving, and leaving is noticed although
// the process writes nothing.
func TestAttachHangup(t *testing.T) {
	d := start(t)
	c := d.running(api.ContainerSpec{Name: "quiet", Image: "sleep"})
	s, err := d.Attach(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	proc := d.engine.containers[c.ID].proc
	select {
	case <-proc.closed:
		t.Fatal("the session ended with stdin")
	case <-time.After(200 * time.Millisecond):
	}
	s.Close()
	select {
	case <-proc.closed:
	case <-time.After(5 * time.Second):
		t.Fatalf("the daemon does not see that the client is gone:\n%s", stacks())
	}
	if got, err := d.InspectContainer(t.Context(), c.ID); err != nil || got.Status != api.StatusRunning {
		t.Errorf("container: %+v, %v", got, err)
	}
}

func TestExec(t *testing.T) {
	d := start(t)
	ctx := t.Context()
	c := d.running(api.ContainerSpec{Name: "host", Image: "sleep"})

	s, err := d.Exec(ctx, "host", api.ExecSpec{Command: []string{"chatty"}})
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if err := s.CopyOutput(&stdout, &stderr); err != nil || stdout.String()+stderr.String() != "to stdout\nto stderr\n" {
		t.Errorf("%q %q %v", &stdout, &stderr, err)
	}
	s.Close()
	if exit, err := s.Wait(ctx); err != nil || exit.Code != 3 {
		t.Errorf("exit: %+v, %v", exit, err)
	}

	s, err = d.Exec(ctx, c.ID, api.ExecSpec{Command: []string{"cat"}, TTY: true, OpenStdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Resize(ctx, 50, 132); err != nil {
		t.Error(err)
	}
	if size := <-d.engine.resized; size != [2]uint16{50, 132} {
		t.Errorf("size: %v", size)
	}
	if err := s.Signal(ctx, "TERM"); err != nil {
		t.Error(err)
	}
	if exit, err := s.Wait(ctx); err != nil || exit.Code != 143 {
		t.Errorf("exit: %+v, %v", exit, err)
	}

	id, err := d.ExecDetached(ctx, "host", api.ExecSpec{Command: []string{"exit:4"}})
	if err != nil || id == "" {
		t.Errorf("detached: %q, %v", id, err)
	}
	_, err = d.Exec(ctx, "nobody", api.ExecSpec{Command: []string{"cat"}})
	wantClass(t, err, api.ClassNotFound, "nobody")
	if err := d.KillContainer(ctx, "host", "KILL"); err != nil {
		t.Error(err)
	}
	if _, err := d.WaitContainer(ctx, "host"); err != nil {
		t.Error(err)
	}
	_, err = d.Exec(ctx, "host", api.ExecSpec{Command: []string{"cat"}})
	wantClass(t, err, api.ClassFailedPrecondition, "exited")
}
