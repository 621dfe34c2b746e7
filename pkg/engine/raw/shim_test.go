package raw

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
)

// TestHostileClients: a shim outlives clients that talk nonsense, stop in the
// middle, flood it or never read, and still does its work.
func TestHostileClients(t *testing.T) {
	e, h := newEngine(t)
	c := launch(t, e, api.ContainerSpec{OpenStdin: true, Command: shell("trap 'exit 23' TERM; while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done")})
	socket := h.dirs.Container(c.ID).ShimSocket()
	dial := func() *protocol.Conn {
		conn, err := protocol.Dial(t.Context(), socket)
		if err != nil {
			t.Fatalf("dial: %v", err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	request := func(op string) []byte {
		return protocol.AppendFrame(nil, protocol.Requested, []byte(`{"op":"`+op+`"}`))
	}
	noise := make([]byte, 1<<16)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(noise)
	for _, junk := range [][]byte{
		nil,
		noise,
		{0},
		{5, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, // a request of 4 GiB
		{5, 0, 0, 0, 0, 0, 0x10, 0, '{'},     // cut off
		protocol.AppendFrame(nil, protocol.Requested, []byte(`{"op":`)),
		protocol.AppendFrame(nil, protocol.Requested, bytes.Repeat([]byte("["), 100_000)),
		request("no-such-operation"),
		request("create"), request("exec"), request("update"),
		append(request("attach"), noise...),
		append(request("attach"), protocol.AppendFrame(nil, protocol.Exit, nil)...),
		bytes.Repeat(request("state"), 5000), // never reads the answers
		request("wait"),
	} {
		conn := dial()
		_ = conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		_ = conn.WriteFrames(junk)
	}
	// Clients that attach and neither read nor leave, and some that vanish.
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			conn := dial()
			_ = conn.WriteFrames(request("attach"))
			if i%2 == 0 {
				_ = conn.Close()
			}
		})
	}
	all.Wait()
	if _, err := (&container{files: h.dirs.Container(c.ID), exited: make(chan struct{})}).call(within(t, 5*time.Second), protocol.Request{Op: protocol.OpState}, protocol.Observer{}); err != nil {
		t.Errorf("state: %v", err)
	}
	// More than it takes at once: it refuses, and recovers.
	var flood []*protocol.Conn
	for range 600 {
		conn, err := protocol.Dial(within(t, 5*time.Second), socket)
		if err != nil {
			break
		}
		flood = append(flood, conn)
	}
	for _, conn := range flood {
		_ = conn.Close()
	}
	eventually(t, "it answers again", func() bool {
		_, err := (&container{files: h.dirs.Container(c.ID), exited: make(chan struct{})}).call(within(t, 5*time.Second), protocol.Request{Op: protocol.OpState}, protocol.Observer{})
		return err == nil
	})
	if err := e.Kill(within(t, time.Minute), c.ID, "KILL"); err != nil {
		t.Fatalf("kill: %v", err)
	}
	if exit, err := e.Wait(within(t, time.Minute), c.ID); err != nil || exit.Code != 128+int(unix.SIGKILL) {
		t.Errorf("%+v, %v", exit, err)
	}
	if err := e.Remove(within(t, time.Minute), c.ID, false); err != nil {
		t.Errorf("remove while clients are stuck: %v", err)
	}
}
