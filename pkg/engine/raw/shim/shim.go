package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/network/proxy"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
	"github.com/sandboxlabs/sandbox/pkg/runtime"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"github.com/sandboxlabs/sandbox/pkg/undo"
)

// drainTime bounds the wait for the last output of a container whose first
// process has ended. Only a descriptor that was passed out of it by a unix
// socket can keep a pipe open that long.
const drainTime = time.Second

// killTimeout bounds the wait for processes that were sent SIGKILL: one can be
// stuck in the kernel, for example in I/O on a dead NFS server.
const killTimeout = 10 * time.Second

// shim is one container and its clients.
type shim struct {
	opts     protocol.Container
	reaper   *reaper
	log      *containerLog
	init     *process
	listener *protocol.Listener
	undo     undo.Stack // of prepare
	proxy    *proxy.Proxy
	ports    []api.PortMapping // published, with the host ports that were free

	startMu  sync.Mutex // held through a start
	startErr error      // why it failed

	mu       sync.Mutex
	started  time.Time
	execs    map[string]*process
	nextExec int
	clients  int

	exit    api.Exit
	exited  chan struct{} // closed when exit is set and on disk
	cleaned chan struct{} // closed when nothing of the container is left in the kernel

	sessions sync.WaitGroup // clients that still have to be told something
}

func newShim(o protocol.Container) *shim {
	return &shim{
		opts: o, reaper: newReaper(), execs: map[string]*process{},
		exited: make(chan struct{}), cleaned: make(chan struct{}),
	}
}

// prepare makes what the container stands on: its root file system, its log,
// and the socket by which it can be reached.
func (s *shim) prepare(a *answer) (err error) {
	files := s.opts.Files
	if err := os.WriteFile(files.ShimPID(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return err
	}
	s.undo.Push(func(context.Context) error { return remove(files.ShimPID()) })
	if s.listener, err = protocol.Listen(files.ShimSocket()); err != nil {
		return err
	}
	s.undo.Push(func(context.Context) error { return remove(files.ShimSocket()) })
	if s.log, err = newContainerLog(files, s.opts.LogSize, s.opts.LogFiles); err != nil {
		return err
	}
	if err := s.mountRootfs(a.tracer("shim")); err != nil {
		return err
	}
	s.undo.Push(func(context.Context) error { return s.unmountRootfs() })
	s.ports, err = s.publish()
	return err
}

// create makes the container, up to its first process waiting for start.
func (s *shim) create(ctx context.Context, a *answer) (err error) {
	s.init, err = s.spawn(streams{tty: s.opts.TTY, stdin: s.opts.OpenStdin, log: s.log}, func(io runtime.IO) (*runtime.Process, error) {
		return s.runtime(a).Create(ctx, s.opts.ID, runtime.CreateOptions{Bundle: s.opts.Files.Bundle(), IO: io})
	})
	return err
}

// start lets the first process become the user's program.
func (s *shim) start(ctx context.Context, a *answer) (protocol.Reply, error) {
	s.startMu.Lock()
	defer s.startMu.Unlock()
	if !s.startedAt().IsZero() {
		return protocol.Reply{}, fmt.Errorf("container %s has been started already: %w", s.opts.ID, errdefs.ErrFailedPrecondition)
	}
	if s.init.hasEnded() {
		return protocol.Reply{}, s.goneError()
	}
	_, err := s.reaper.call(func() (int, error) {
		return 0, s.runtime(a).Start(ctx, s.opts.ID)
	})
	if err != nil {
		s.startErr = err
		return protocol.Reply{}, err
	}
	settle()
	now := time.Now().UTC()
	s.mu.Lock()
	s.started = now
	s.mu.Unlock()
	return protocol.Reply{PID: s.init.pid, Started: now}, nil
}

// killRest ends what the first process of a shared PID namespace has left
// behind, which the kernel does not, and waits until it is gone: a container
// that has exited runs nothing.
func (s *shim) killRest() error {
	err := s.runtime(nil).Kill(s.opts.ID, unix.SIGKILL, true)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	cg, err := s.runtime(nil).OpenCgroup(s.opts.ID)
	if errdefs.IsFailedPrecondition(err) {
		return nil // a host without cgroup v2: create has warned of it
	}
	if err != nil {
		return err
	}
	defer cg.Close()
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	return cg.WaitEmpty(ctx)
}

func (s *shim) startedAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
}

func (s *shim) goneError() error {
	return fmt.Errorf("container %s has exited: %w", s.opts.ID, errdefs.ErrFailedPrecondition)
}

// run waits for the container's end and takes back what create made.
func (s *shim) run() {
	<-s.init.ended
	if s.opts.SharedPID {
		warn(s.killRest())
	}
	s.startMu.Lock() // a start that fails ends the process before it returns
	startErr := s.startErr
	s.startMu.Unlock()
	s.exit = s.verdict(startErr) // reads the cgroup, so before it is removed
	wait(&s.init.copying, drainTime)
	s.log.Close()

	if err := state.ReplaceJSON(s.opts.Files.Exit(), s.exit); err != nil {
		warn(err) // the disk is full; clients that wait are told all the same
	}
	close(s.exited)
	s.init.out.end(s.exit)

	s.cleanUp()
	close(s.cleaned)
	// Clients may still have to read the end of the output, at their own pace.
	// The container's name and files are free by now.
	s.sessions.Wait()
}

// cleanUp goes on after errors: the daemon's sweep will meet what is left.
func (s *shim) cleanUp() {
	_ = s.listener.Close()
	warn(remove(s.opts.Files.ShimSocket()))
	warn(s.unpublish())
	_, err := s.reaper.call(func() (int, error) {
		return 0, s.runtime(nil).Delete(context.Background(), s.opts.ID, true)
	})
	warn(err)
	s.init.closeStreams()
	warn(s.unmountRootfs())
	warn(remove(s.opts.Files.ShimPID()))
}

func warn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, time.Now().UTC().Format(time.RFC3339), err)
	}
}

// remove removes a file; one that is not there is fine.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
