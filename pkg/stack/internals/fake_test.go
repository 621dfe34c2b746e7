package internals

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// processEngine is an engine whose containers are processes of this host with
// namespaces of their own, and nothing else. Only what the stage calls is
// there; anything else panics.
type processEngine struct {
	engine.Engine
	mu         sync.Mutex
	containers []*process
	flags      uintptr // of clone(2)
	mangle     func(argv []string) []string
}

type process struct {
	api.Container
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *io.PipeReader
	ended chan struct{}
}

const allNamespaces = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC

func (e *processEngine) find(ref string) (*process, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.containers {
		if p.ID == ref {
			return p, nil
		}
	}
	return nil, fmt.Errorf("container %s: %w", ref, errdefs.ErrNotFound)
}

// frames puts the header of a session's frame before everything written.
type frames struct{ io.Writer }

func (f frames) Write(b []byte) (int, error) {
	header := [8]byte{1}
	binary.BigEndian.PutUint32(header[4:], uint32(len(b)))
	if _, err := f.Writer.Write(append(header[:], b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (e *processEngine) Create(ctx context.Context, spec api.ContainerSpec, _ *explain.Tracer) (api.Container, error) {
	argv := spec.Command
	if e.mangle != nil {
		argv = e.mangle(argv)
	}
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: e.flags}
	var w *io.PipeWriter
	p.out, w = io.Pipe()
	p.cmd.Stdout = frames{w}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return api.Container{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p.Container = api.Container{ID: fmt.Sprint(len(e.containers) + 1), Name: spec.Name, Status: api.StatusCreated, Spec: spec}
	e.containers = append(e.containers, p)
	return p.Container, nil
}

func (e *processEngine) Start(_ context.Context, ref string, _ *explain.Tracer) error {
	p, err := e.find(ref)
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.PID, p.Status = p.cmd.Process.Pid, api.StatusRunning
	go func() {
		_ = p.cmd.Wait()
		_ = p.cmd.Stdout.(frames).Writer.(*io.PipeWriter).Close()
		close(p.ended)
	}()
	return nil
}

func (e *processEngine) Inspect(_ context.Context, ref string) (api.Container, error) {
	p, err := e.find(ref)
	if err != nil {
		return api.Container{}, err
	}
	return p.Container, nil
}

func (e *processEngine) List(context.Context) ([]api.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []api.Container
	for _, p := range e.containers {
		out = append(out, p.Container)
	}
	return out, nil
}

func (e *processEngine) Wait(ctx context.Context, ref string) (api.Exit, error) {
	p, err := e.find(ref)
	if err != nil {
		return api.Exit{}, err
	}
	select {
	case <-p.ended:
		return api.Exit{Code: p.cmd.ProcessState.ExitCode()}, nil
	case <-ctx.Done():
		return api.Exit{}, ctx.Err()
	}
}

func (e *processEngine) Stop(context.Context, string, time.Duration) error {
	return errors.New("it does not want to")
}

func (e *processEngine) Remove(_ context.Context, ref string, force bool) error {
	p, err := e.find(ref)
	if err != nil {
		return err
	}
	if p.cmd.Process != nil {
		select {
		case <-p.ended:
		default:
			if !force {
				select {
				case <-p.ended:
				case <-time.After(time.Second):
					return fmt.Errorf("running: %w", errdefs.ErrFailedPrecondition)
				}
			}
			p.out.Close()
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers = slices.DeleteFunc(e.containers, func(q *process) bool { return q == p })
	return nil
}

// session is the stdio of a process.
type session struct {
	engine.Session
	p *process
}

func (s session) Read(b []byte) (int, error)  { return s.p.out.Read(b) }
func (s session) Write(b []byte) (int, error) { return s.p.stdin.Write(b) }
func (s session) CloseWrite() error           { return s.p.stdin.Close() }
func (s session) Close() error                { return s.p.out.Close() }

func (e *processEngine) Attach(_ context.Context, ref string) (engine.Session, error) {
	p, err := e.find(ref)
	return session{p: p}, err
}
