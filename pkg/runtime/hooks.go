package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// atMounts does what must happen when the container's namespaces and mounts are
// there, but its root is not changed yet: the hooks of that moment.
func (cr *creation) atMounts(ctx context.Context) error {
	h := cr.spec.Hooks
	if h == nil {
		return nil
	}
	// "created" to the hooks, as runtime-tools' validation wants it, though they
	// run on the way there.
	state := cr.state(specs.StateCreated)
	if err := cr.runHooks(ctx, "prestart", h.Prestart, state, startHook); err != nil { //nolint:staticcheck // deprecated, not gone
		return err
	}
	if err := cr.runHooks(ctx, "createRuntime", h.CreateRuntime, state, startHook); err != nil {
		return err
	}
	return cr.inContainer(ctx, "createContainer", h.CreateContainer, state)
}

// inContainer runs hooks in the container's namespaces.
func (r *Runtime) inContainer(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	ns, err := planJoin(state.Pid)
	if err != nil {
		return fmt.Errorf("%s hook: %w", kind, err)
	}
	defer ns.close()
	return r.runHooks(ctx, kind, hooks, state, func(h *specs.Hook, files []*os.File) (int, error) { return startHookIn(h, &ns, files) })
}

// startContainer runs the startContainer hooks. Their programs are the image's, so
// they get no more rights than the user's program will: its user, capabilities,
// seccomp filter and cgroup; and its environment, if they bring none.
func (r *Runtime) startContainer(ctx context.Context, c *container, hooks []specs.Hook) error {
	if len(hooks) == 0 {
		return nil
	}
	spec, err := c.spec()
	if err != nil {
		return err
	}
	process := *spec.Process
	start := func(h *specs.Hook, files []*os.File) (int, error) {
		p := process
		p.Terminal, p.Args = false, hookArgs(h)
		if h.Env != nil {
			p.Env = h.Env
		}
		spec.Process = &p
		further, err := r.execIn(ctx, c, spec, h.Path, ExecOptions{IO: IO{Stdin: files[0], Stdout: files[1], Stderr: files[2]}})
		if err != nil {
			return 0, err
		}
		return further.PID, nil
	}
	return r.runHooks(ctx, "startContainer", hooks, c.state(specs.StateCreated), start)
}

// starter starts a hook's program, files being its standard streams.
type starter func(h *specs.Hook, files []*os.File) (pid int, err error)

// runHooks runs hooks one after the other; the first failure ends it.
func (r *Runtime) runHooks(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State, start starter) error {
	for i := range hooks {
		h := &hooks[i]
		ev := explain.Event{Op: "run hook", Target: h.Path, Value: kind, Source: "hooks." + kind}
		if err := r.Trace.Do(ev, func() error { return runHook(ctx, h, state, start) }); err != nil {
			return fmt.Errorf("hooks.%s[%d] (%s): %w", kind, i, h.Path, err)
		}
	}
	return nil
}

// poststop runs hooks whose failures are only warned of (runtime.md, Lifecycle, step 13).
func (r *Runtime) poststop(ctx context.Context, hooks []specs.Hook, state *specs.State) {
	for i := range hooks {
		if err := r.runHooks(ctx, "poststop", hooks[i:i+1], state, startHook); err != nil {
			r.warn(err.Error())
		}
	}
}

// runHook runs one hook with the container's state on its standard input, in
// the namespaces of the plan if there is one.
func runHook(ctx context.Context, h *specs.Hook, state *specs.State, start starter) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	input, err := json.Marshal(state)
	if err != nil {
		return err
	}
	stdin, err := memoryFile("state", input)
	if err != nil {
		return err
	}
	defer stdin.Close()
	output, err := memoryFile("output", nil)
	if err != nil {
		return err
	}
	defer output.Close()
	pid, err := start(h, []*os.File{stdin, output, output})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = unix.Kill(pid, unix.SIGKILL) })
	defer stop()
	ws, err := wait(pid)
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil && ws.Signaled():
		return fmt.Errorf("killed: %w", ctx.Err())
	case ws.ExitStatus() == 0:
		return nil
	}
	tail := make([]byte, 2048)
	n, _ := output.ReadAt(tail, 0)
	if ws.Signaled() {
		return fmt.Errorf("killed by %s: %s", ws.Signal(), bytes.TrimSpace(tail[:n]))
	}
	return fmt.Errorf("exit status %d: %s", ws.ExitStatus(), bytes.TrimSpace(tail[:n]))
}

// startHook starts a hook in the runtime's namespaces.
func startHook(h *specs.Hook, files []*os.File) (int, error) {
	fds := make([]uintptr, len(files))
	for i, f := range files {
		fds[i] = f.Fd()
	}
	env := h.Env
	if env == nil {
		env = []string{}
	}
	return syscall.ForkExec(h.Path, hookArgs(h), &syscall.ProcAttr{Files: fds, Env: env})
}

func hookArgs(h *specs.Hook) []string {
	if len(h.Args) == 0 {
		return []string{h.Path}
	}
	return h.Args
}

// startHookIn starts a hook in the container's namespaces, with all the runtime's
// rights: a createContainer hook's program is the host's.
func startHookIn(h *specs.Hook, ns *nsPlan, files []*os.File) (int, error) {
	b := &builder{Script: script.New(false), files: files, userns: ns.own(unix.CLONE_NEWUSER)}
	results, err := memoryFile("results", nil)
	if err != nil {
		return 0, err
	}
	defer results.Close()
	resultsFD := b.file(results)
	b.joinNamespaces(ns)
	b.closeFiles(0)
	b.quiet("execve", h.Path, unix.SYS_EXECVE, b.String(h.Path), b.Strings(hookArgs(h)), b.Strings(h.Env))
	res, err := script.CreateResults(results, b.Len())
	if err != nil {
		return 0, err
	}
	defer res.Close()
	var p *script.Process
	err = onThread(true, func() error {
		if err := ns.enter(nil); err != nil {
			return err
		}
		p, err = b.Start(b.files, resultsFD, &syscall.SysProcAttr{})
		return err
	})
	if err != nil {
		return 0, err
	}
	defer p.Close()
	return p.PID, nil
}

// memoryFile is an anonymous file that holds data, at offset 0.
func memoryFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(data, 0); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func wait(pid int) (ws unix.WaitStatus, err error) {
	for {
		_, err = unix.Wait4(pid, &ws, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return ws, err
		}
	}
}
