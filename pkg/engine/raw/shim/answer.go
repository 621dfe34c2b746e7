package shim

import (
	"os"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/runtime"
)

// writeTimeout is how long a client may leave an answer unread.
const writeTimeout = 10 * time.Second

// answer is the answer to one request: events and warnings, then one reply.
type answer struct {
	conn    *protocol.Conn
	explain bool
}

func newAnswer(conn *protocol.Conn, explain bool) *answer { return &answer{conn, explain} }

func (a *answer) send(r protocol.Reply) error {
	_ = a.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	err := a.conn.WriteJSON(protocol.Replied, r)
	_ = a.conn.SetWriteDeadline(time.Time{})
	return err
}

func (a *answer) final(r protocol.Reply) error {
	r.Final = true
	return a.send(r)
}

func (a *answer) fail(err error) {
	_ = a.final(protocol.Reply{Error: protocol.NewError(err)})
}

// tracer returns a tracer that streams to the client, or nil. A client that
// has gone away misses the events; the operation goes on.
func (a *answer) tracer(actor string) *explain.Tracer {
	if !a.explain {
		return nil
	}
	return explain.New(actor, os.Getpid(), func(ev explain.Event) {
		_ = a.send(protocol.Reply{Event: &ev})
	})
}

// runtime returns the runtime that tells this client what it does.
func (s *shim) runtime(a *answer) *runtime.Runtime {
	r := &runtime.Runtime{Root: s.opts.RuntimeRoot}
	if a != nil {
		r.Trace = a.tracer("runtime")
		r.Warn = func(w string) { _ = a.send(protocol.Reply{Warning: w}) }
	}
	return r
}
