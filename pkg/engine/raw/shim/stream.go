package shim

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
)

// sessionBuffer is how far a client may lag behind a process's output, in
// bytes. Beyond it the process is made to wait, as it would be by a terminal
// that was stopped with ^S: the output of a foreground `run` is never lost,
// only late. (docker does the same.) A client that is gone holds nothing up:
// its connection fails; and a process that is held up can still be killed,
// since only the copying of its output waits.
const sessionBuffer = 1 << 20

// session is a client that is connected to a process's streams.
type session struct {
	conn *protocol.Conn

	mu      sync.Mutex
	changed sync.Cond
	buf     []byte // frames that wait to be written
	free    bool   // the process has ended: what is left fits into memory, never wait
	last    bool   // nothing will be added
	closed  bool
}

func newSession(conn *protocol.Conn) *session {
	s := &session{conn: conn}
	s.changed.L = &s.mu
	return s
}

// send queues one frame, waiting for room.
func (s *session) send(t protocol.Type, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) >= sessionBuffer && !s.free && !s.closed {
		s.changed.Wait()
	}
	if s.closed || s.last {
		return
	}
	s.buf = protocol.AppendFrame(s.buf, t, b)
	s.changed.Broadcast()
}

// release ends the waiting for room.
func (s *session) release() {
	s.mu.Lock()
	s.free = true
	s.changed.Broadcast()
	s.mu.Unlock()
}

// end says that nothing follows.
func (s *session) end() {
	s.mu.Lock()
	s.last = true
	s.changed.Broadcast()
	s.mu.Unlock()
}

func (s *session) close() {
	s.mu.Lock()
	s.closed = true
	s.buf = nil
	s.changed.Broadcast()
	s.mu.Unlock()
	_ = s.conn.Close()
}

// write sends what is queued until the session has ended, then closes it.
func (s *session) write() {
	defer s.close()
	var b []byte
	for {
		s.mu.Lock()
		for len(s.buf) == 0 && !s.last && !s.closed {
			s.changed.Wait()
		}
		if s.closed || len(s.buf) == 0 {
			s.mu.Unlock()
			return
		}
		b, s.buf = s.buf, b[:0]
		s.changed.Broadcast()
		s.mu.Unlock()
		if err := s.conn.WriteFrames(b); err != nil {
			return
		}
		if cap(b) > sessionBuffer/4 {
			b = nil // a burst is over: shims are many, and should stay small
		}
	}
}

// broadcast hands a process's output to the clients that are attached to it.
type broadcast struct {
	mu       sync.Mutex
	sessions []*session
	released bool
	ended    bool
}

// add attaches s; it reports false when the output has already ended.
func (b *broadcast) add(s *session) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return false
	}
	if b.released {
		s.release()
	}
	// A new slice: write may be going through the old one.
	b.sessions = append(append([]*session(nil), b.sessions...), s)
	return true
}

func (b *broadcast) remove(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var rest []*session
	for _, o := range b.sessions {
		if o != s {
			rest = append(rest, o)
		}
	}
	b.sessions = rest
}

func (b *broadcast) current() []*session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions
}

func (b *broadcast) write(t protocol.Type, p []byte) {
	for _, s := range b.current() {
		s.send(t, p)
	}
}

// release is called when the process has ended.
func (b *broadcast) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.released = true
	for _, s := range b.sessions {
		s.release()
	}
}

// end closes every session after one last frame, which says how the process
// has ended.
func (b *broadcast) end(e api.Exit) {
	p, err := json.Marshal(e)
	if err != nil {
		warn(err)
	}
	b.mu.Lock()
	b.ended = true
	sessions := b.sessions
	b.mu.Unlock()
	for _, s := range sessions {
		s.send(protocol.Exit, p)
		s.end()
	}
}

// wait waits for all of ws, or until d has passed.
func wait(ws *sync.WaitGroup, d time.Duration) {
	done := make(chan struct{})
	go func() { ws.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(d):
	}
}
