package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
	"github.com/sandboxlabs/sandbox/pkg/runtime"
)

// maxClients bounds connections, each of which costs a descriptor and a
// goroutine. One more is refused at once.
const maxClients = 512

func (s *shim) accept() {
	for {
		conn, err := s.listener.Accept()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			warn(err) // EMFILE, ENOMEM: the client waits in the backlog
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s.mu.Lock()
		full := s.clients >= maxClients
		if !full {
			s.clients++
		}
		s.mu.Unlock()
		if full {
			_ = conn.Close()
			continue
		}
		s.sessions.Go(func() {
			s.serve(conn)
			s.mu.Lock()
			s.clients--
			s.mu.Unlock()
		})
	}
}

// serve answers the requests of one connection, in their order.
func (s *shim) serve(conn *protocol.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // nobody needs to read requests about a container that is gone
		select {
		case <-s.cleaned:
			_ = conn.SetReadDeadline(time.Unix(1, 0))
		case <-ctx.Done():
		}
	}()
	for {
		var req protocol.Request
		if err := conn.ReadJSON(protocol.Requested, &req); err != nil {
			return
		}
		a := newAnswer(conn, req.Explain)
		switch req.Op {
		case protocol.OpAttach:
			s.attach(conn, a)
			return
		case protocol.OpExec:
			s.exec(ctx, conn, a, req)
			return
		case protocol.OpWait:
			s.await(conn, a, req.Process)
			return
		}
		rep, err := s.do(ctx, a, req)
		if err != nil {
			a.fail(err)
			continue
		}
		if a.final(rep) != nil {
			return
		}
	}
}

// await answers when a process has exited. If that is the container's first,
// it returns when the container is cleaned up.
func (s *shim) await(conn *protocol.Conn, a *answer, name string) {
	p, err := s.process(name)
	if err != nil {
		a.fail(err)
		return
	}
	gone := make(chan struct{})
	go func() { // one that waits says nothing more, except that it closes
		_, _, _ = conn.ReadHeader()
		close(gone)
	}()
	ended := p.ended
	if p == s.init {
		ended = s.exited
	}
	select {
	case <-gone:
	case <-ended:
		if p != s.init {
			_ = a.final(protocol.Reply{Exit: &api.Exit{Code: code(p.status), At: p.at}})
		} else if a.final(protocol.Reply{Exit: &s.exit}) == nil {
			<-s.cleaned
		}
	}
}

// do performs the operations that have one short answer.
func (s *shim) do(ctx context.Context, a *answer, req protocol.Request) (protocol.Reply, error) {
	none := protocol.Reply{}
	switch req.Op {
	case protocol.OpStart:
		return s.start(ctx, a)
	case protocol.OpState:
		return s.state()
	case protocol.OpKill:
		return none, s.kill(req)
	case protocol.OpResize:
		p, err := s.process(req.Process)
		if err != nil {
			return none, err
		}
		return none, p.resize(req.Rows, req.Cols)
	case protocol.OpPause:
		return none, s.runtime(a).Pause(ctx, s.opts.ID)
	case protocol.OpResume:
		return none, s.runtime(a).Resume(ctx, s.opts.ID)
	case protocol.OpUpdate:
		var r specs.LinuxResources
		if err := decode("resources", req.Resources, &r); err != nil {
			return none, err
		}
		return none, s.runtime(a).Update(ctx, s.opts.ID, &r)
	}
	return none, fmt.Errorf("operation %q: %w", req.Op, errdefs.ErrNotImplemented)
}

// decode decodes a part of a request.
func decode(what string, raw json.RawMessage, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("decode %s: %w: %w", what, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (s *shim) state() (protocol.Reply, error) {
	r := protocol.Reply{PID: s.init.pid, Started: s.startedAt()}
	if s.init.hasEnded() {
		r.Status = api.StatusExited
		return r, nil
	}
	st, err := s.runtime(nil).State(s.opts.ID)
	if err != nil {
		return r, err
	}
	switch st.Status {
	case specs.StateStopped:
		r.Status = api.StatusExited
	default: // creating, created, running, paused are the same words
		r.Status = string(st.Status)
	}
	return r, nil
}

// process finds a process by what the reply to exec called it.
func (s *shim) process(name string) (*process, error) {
	if name == "" {
		return s.init, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.execs[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %s has exited: %w", name, errdefs.ErrNotFound)
}

func (s *shim) kill(req protocol.Request) error {
	sig := unix.Signal(req.Signal)
	if req.All {
		return s.runtime(nil).Kill(s.opts.ID, sig, true)
	}
	p, err := s.process(req.Process)
	if err != nil {
		return err
	}
	err = s.reaper.signal(p.pid, sig)
	if errors.Is(err, unix.ESRCH) {
		return s.goneError()
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", unix.SignalName(sig), err)
	}
	return nil
}

// attach connects a client to the first process until either ends.
func (s *shim) attach(conn *protocol.Conn, a *answer) {
	c := newSession(conn)
	if !s.init.out.add(c) {
		a.fail(s.goneError())
		return
	}
	defer s.init.out.remove(c)
	if a.final(protocol.Reply{PID: s.init.pid, TTY: s.init.tty}) != nil {
		c.close()
		return
	}
	s.converse(c, s.init)
}

// converse runs a session: it returns when the client has all the output, or
// has gone.
func (s *shim) converse(c *session, p *process) {
	s.sessions.Go(func() {
		p.input(c.conn)
		// What the process has written last may still be on its way to a
		// client that has sent everything; one that is gone fails to take it.
		if !p.hasEnded() {
			c.close()
		}
	})
	c.write()
}

// exec starts a further process for one client, and is its session.
func (s *shim) exec(ctx context.Context, conn *protocol.Conn, a *answer, req protocol.Request) {
	var process specs.Process
	if err := decode("process", req.Exec, &process); err != nil {
		a.fail(err)
		return
	}
	if s.init.hasEnded() {
		a.fail(s.goneError())
		return
	}
	c := newSession(conn)
	p, err := s.spawn(streams{tty: process.Terminal, stdin: req.OpenStdin, client: c}, func(io runtime.IO) (*runtime.Process, error) {
		return s.runtime(a).Exec(ctx, s.opts.ID, &process, runtime.ExecOptions{IO: io})
	})
	if err != nil {
		a.fail(err)
		return
	}
	s.mu.Lock()
	s.nextExec++
	name := fmt.Sprintf("exec-%d", s.nextExec)
	s.execs[name] = p
	s.mu.Unlock()
	s.sessions.Go(func() { finishExec(p) })
	defer s.forget(name, p)
	if a.final(protocol.Reply{PID: p.pid, Process: name, TTY: p.tty}) != nil {
		c.close() // the process goes on; nobody reads it
		return
	}
	s.converse(c, p)
}

// execKept is how long the exit of a process can still be asked for. A client
// asks on a connection of its own, beside the one that the output came by, and
// a short process has ended before that is made.
const execKept = 10 * time.Second

// forget drops the record of a process some time after its client has gone and
// it has ended: until then it can be signalled and waited for.
func (s *shim) forget(name string, p *process) {
	go func() {
		<-p.ended
		time.AfterFunc(execKept, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.execs, name)
		})
	}()
}

// finishExec tells the client how its process ended, after all that it wrote.
// What a background child of it may still write later is read and dropped.
func finishExec(p *process) {
	<-p.ended
	wait(&p.copying, drainTime)
	p.out.end(api.Exit{Code: code(p.status), At: p.at})
	if p.stdin != nil && !p.tty {
		_ = p.stdin.Close()
	}
	p.copying.Wait()
	p.closeStreams()
}
