package daemon

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// fakeEngine keeps containers in memory. A container's process is a goroutine
// that does what its image says:
//
//	cat      echoes stdin until it ends, then exits with 0
//	exit:N   exits at once with N
//	sleep    runs until it is killed
//	chatty   writes to stdout and stderr, then exits with 3
//
// It outlives a daemon, as shims do.
type fakeEngine struct {
	mu         sync.Mutex
	containers map[string]*fakeContainer
	next       int

	// onCreate runs in the middle of a create; an error undoes it.
	onCreate func(ctx context.Context, spec api.ContainerSpec) error
	panics   bool
	resized  chan [2]uint16
}

type fakeContainer struct {
	api.Container
	proc *fakeProcess
}

func newFakeEngine() *fakeEngine {
	return &fakeEngine{containers: map[string]*fakeContainer{}, resized: make(chan [2]uint16, 8)}
}

// fakeProcess is a process with pipes.
type fakeProcess struct {
	image  string
	tty    bool
	stdinR *io.PipeReader
	stdinW *io.PipeWriter
	outR   *io.PipeReader
	outW   *io.PipeWriter
	killed chan string
	ended  chan struct{}
	code   int

	engine *fakeEngine
	closed chan struct{} // of the session
	once   sync.Once
}

func (e *fakeEngine) process(image string, tty bool) *fakeProcess {
	p := &fakeProcess{image: image, tty: tty, killed: make(chan string, 8), ended: make(chan struct{}), engine: e, closed: make(chan struct{})}
	p.stdinR, p.stdinW = io.Pipe()
	p.outR, p.outW = io.Pipe()
	return p
}

func (p *fakeProcess) emit(stream byte, data string) {
	if p.tty {
		_, _ = io.WriteString(p.outW, data)
		return
	}
	frame := make([]byte, 8, 8+len(data))
	frame[0] = stream
	binary.BigEndian.PutUint32(frame[4:], uint32(len(data)))
	_, _ = p.outW.Write(append(frame, data...))
}

func (p *fakeProcess) run() {
	defer close(p.ended)
	defer p.outW.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		switch {
		case strings.HasPrefix(p.image, "exit:"):
			fmt.Sscanf(p.image, "exit:%d", &p.code)
		case p.image == "chatty":
			p.emit(1, "to stdout\n")
			p.emit(2, "to stderr\n")
			p.code = 3
		case p.image == "cat":
			buf := make([]byte, 4096)
			for {
				n, err := p.stdinR.Read(buf)
				if n > 0 {
					p.emit(1, string(buf[:n]))
				}
				if err != nil {
					return
				}
			}
		default:
			<-p.ended
		}
	}()
	select {
	case <-done:
	case s := <-p.killed:
		p.code = 137
		if s != "KILL" {
			p.code = 143
		}
		p.stdinR.Close()
	}
}

// fakeProcess is its own engine.Session.
func (p *fakeProcess) Read(b []byte) (int, error)  { return p.outR.Read(b) }
func (p *fakeProcess) Write(b []byte) (int, error) { return p.stdinW.Write(b) }
func (p *fakeProcess) CloseWrite() error           { return p.stdinW.Close() }
func (p *fakeProcess) Close() error {
	p.once.Do(func() { close(p.closed) })
	p.outR.Close()
	return p.stdinW.Close()
}
func (p *fakeProcess) Resize(rows, cols uint16) error {
	p.engine.resized <- [2]uint16{rows, cols}
	return nil
}
func (p *fakeProcess) Signal(s string) error { p.killed <- s; return nil }
func (p *fakeProcess) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.ended:
		return p.code, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (e *fakeEngine) Name() string { return "raw" }

func (e *fakeEngine) Create(ctx context.Context, spec api.ContainerSpec, trace *explain.Tracer) (api.Container, error) {
	if e.panics {
		panic("the engine's bug")
	}
	if spec.Image == "unknown" {
		return api.Container{}, fmt.Errorf("image %q: %w", spec.Image, errdefs.ErrNotFound)
	}
	err := trace.Do(explain.Event{Op: "mkdir", Target: "/upper"}, func() error {
		if e.onCreate != nil {
			return e.onCreate(ctx, spec)
		}
		return nil
	})
	if err != nil {
		return api.Container{}, fmt.Errorf("create: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		if spec.Name != "" && c.Name == spec.Name {
			return api.Container{}, fmt.Errorf("container %s: %w", spec.Name, errdefs.ErrAlreadyExists)
		}
	}
	e.next++
	c := &fakeContainer{proc: e.process(spec.Image, spec.TTY)}
	c.Container = api.Container{
		ID: fmt.Sprintf("%064x", e.next), Name: spec.Name, Engine: "raw", Image: spec.Image,
		Status: api.StatusCreated, Created: time.Now(), Spec: spec, Command: []string{spec.Image},
		Warnings: []string{"no controller io"},
	}
	e.containers[c.ID] = c
	return c.Container, nil
}

func (e *fakeEngine) get(ref string) (*fakeContainer, error) {
	for _, c := range e.containers {
		if c.ID == ref || c.Name == ref {
			return c, nil
		}
	}
	return nil, fmt.Errorf("container %s: %w", ref, errdefs.ErrNotFound)
}

func (e *fakeEngine) with(ref string, fn func(*fakeContainer) error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.get(ref)
	if err != nil {
		return err
	}
	return fn(c)
}

func (e *fakeEngine) Start(ctx context.Context, ref string, trace *explain.Tracer) error {
	return e.with(ref, func(c *fakeContainer) error {
		if c.Status != api.StatusCreated {
			return fmt.Errorf("container %s is %s: %w", ref, c.Status, errdefs.ErrFailedPrecondition)
		}
		_ = trace.Do(explain.Event{Op: "execve", Target: c.Image}, func() error { return nil })
		c.Status, c.PID, c.Started = api.StatusRunning, 4242, time.Now()
		c.Warnings = append(slices.Clone(c.Warnings), "no swap accounting")
		go func() {
			c.proc.run()
			e.mu.Lock()
			defer e.mu.Unlock()
			c.Status = api.StatusExited
			c.Exit = &api.Exit{Code: c.proc.code, At: time.Now()}
		}()
		return nil
	})
}

func (e *fakeEngine) Stop(ctx context.Context, ref string, grace time.Duration) error {
	return e.Kill(ctx, ref, "TERM")
}

func (e *fakeEngine) Kill(ctx context.Context, ref, signal string) error {
	return e.with(ref, func(c *fakeContainer) error {
		if c.Status != api.StatusRunning {
			return fmt.Errorf("container %s is %s: %w", ref, c.Status, errdefs.ErrFailedPrecondition)
		}
		return c.proc.Signal(signal)
	})
}

func (e *fakeEngine) Pause(ctx context.Context, ref string) error {
	return e.with(ref, func(c *fakeContainer) error { c.Status = api.StatusPaused; return nil })
}

func (e *fakeEngine) Unpause(ctx context.Context, ref string) error {
	return e.with(ref, func(c *fakeContainer) error { c.Status = api.StatusRunning; return nil })
}

func (e *fakeEngine) Remove(ctx context.Context, ref string, force bool) error {
	return e.with(ref, func(c *fakeContainer) error {
		if c.Status == api.StatusRunning {
			if !force {
				return fmt.Errorf("container %s is running: %w", ref, errdefs.ErrFailedPrecondition)
			}
			_ = c.proc.Signal("KILL")
		}
		delete(e.containers, c.ID)
		return nil
	})
}

func (e *fakeEngine) List(ctx context.Context) ([]api.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []api.Container
	for _, c := range e.containers {
		out = append(out, c.Container)
	}
	return out, nil
}

func (e *fakeEngine) Inspect(ctx context.Context, ref string) (out api.Container, err error) {
	err = e.with(ref, func(c *fakeContainer) error { out = c.Container; return nil })
	return out, err
}

func (e *fakeEngine) Wait(ctx context.Context, ref string) (api.Exit, error) {
	e.mu.Lock()
	c, err := e.get(ref)
	e.mu.Unlock()
	if err != nil {
		return api.Exit{}, err
	}
	for {
		code, err := c.proc.Wait(ctx)
		if err != nil {
			return api.Exit{}, err
		}
		e.mu.Lock()
		exit := c.Exit
		e.mu.Unlock()
		if exit != nil {
			return api.Exit{Code: code, At: exit.At}, nil
		}
		time.Sleep(time.Millisecond)
	}
}

func (e *fakeEngine) Stats(ctx context.Context, ref string) (out api.Stats, err error) {
	err = e.with(ref, func(c *fakeContainer) error {
		if c.Status != api.StatusRunning {
			return fmt.Errorf("container %s is not running: %w", ref, errdefs.ErrFailedPrecondition)
		}
		now := time.Now()
		out = api.Stats{ID: c.ID, Name: c.Name, Time: now, CPU: &api.CPUStats{
			UsageUsec: uint64(now.Sub(c.Started).Microseconds()) / 2, // half a CPU
		}}
		return nil
	})
	return out, err
}

// fakeLogs yields n lines and then, if it follows, waits.
type fakeLogs struct {
	ctx    context.Context //nolint:containedctx // of the Logs call, which bounds the reader
	n      int
	follow bool
}

func (l *fakeLogs) Next() (api.LogLine, error) {
	if l.n == 0 {
		if l.follow {
			<-l.ctx.Done()
			return api.LogLine{}, l.ctx.Err()
		}
		return api.LogLine{}, io.EOF
	}
	l.n--
	return api.LogLine{Time: time.Now(), Stream: "stdout", Data: fmt.Sprintf("line %d\n", l.n)}, nil
}
func (l *fakeLogs) Close() error { return nil }

func (e *fakeEngine) Logs(ctx context.Context, ref string, opts engine.LogOptions) (engine.LogReader, error) {
	n := 1000
	if opts.Tail >= 0 {
		n = opts.Tail
	}
	if err := e.with(ref, func(*fakeContainer) error { return nil }); err != nil {
		return nil, err
	}
	return &fakeLogs{ctx, n, opts.Follow}, nil
}

func (e *fakeEngine) Attach(ctx context.Context, ref string) (s engine.Session, err error) {
	err = e.with(ref, func(c *fakeContainer) error { s = c.proc; return nil })
	return s, err
}

func (e *fakeEngine) Exec(ctx context.Context, ref string, spec api.ExecSpec) (engine.Session, error) {
	err := e.with(ref, func(c *fakeContainer) error {
		if c.Status != api.StatusRunning {
			return fmt.Errorf("container %s is %s: %w", ref, c.Status, errdefs.ErrFailedPrecondition)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	p := e.process(spec.Command[0], spec.TTY)
	go p.run()
	return p, nil
}
