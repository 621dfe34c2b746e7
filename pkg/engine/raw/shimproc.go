package raw

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// shimLog is where a shim's stderr goes: nothing, unless something is wrong.
func shimLog(f state.Files) string { return filepath.Join(f.Run, "shim.log") }

// startShim starts a shim that is ready to be told what to create.
func (e *Engine) startShim(c *container, trace *explain.Tracer) (*protocol.Conn, error) {
	conn, theirs, err := protocol.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	log, err := os.OpenFile(shimLog(c.files), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	defer log.Close()
	cmd := &exec.Cmd{
		Path: e.Dirs.RuntimeBinary(),
		Args: []string{e.Dirs.RuntimeBinary(), "shim", c.files.Run},
		// Two threads of Go code are plenty for a process that mostly sleeps.
		Env:        []string{"GOMAXPROCS=2", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Dir:        "/",
		Stderr:     log,
		ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:     true,
			Cloneflags: unix.CLONE_NEWNS,
		},
	}
	ev := explain.Event{
		Op: "clone", Target: cmd.Path + " shim", Value: "CLONE_NEWNS",
		Why: "the shim outlives the daemon: it keeps the container's terminal, log and exit code, in a mount namespace of its own",
	}
	if err := trace.Do(ev, cmd.Start); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("start shim: %w", err)
	}
	go func() { _ = cmd.Wait() }() // no zombie; how it ended the watcher sees
	return conn, nil
}

// watchShim follows a container until its end, in the background, over a
// connection to its shim.
func (e *Engine) watchShim(c *container) {
	e.watch.Go(func() {
		for {
			exit, err := e.awaitShim(c)
			if e.ctx.Err() != nil {
				return // the engine is closed; the shim goes on
			}
			if err != nil && c.hasShim() { // it has refused us, for too many clients
				e.Log.Warn("watch container", zap.String("id", c.id()), zap.Error(err))
				select {
				case <-time.After(time.Second):
				case <-e.ctx.Done():
				}
				continue
			}
			if err != nil {
				e.Log.Warn("shim has gone away without its container's exit code", zap.String("id", c.id()), zap.Error(err))
				exit = e.recover(c)
			}
			c.ended(exit)
			e.finish(c)
			return
		}
	})
}

// awaitShim returns how the container has ended, once its shim has cleaned up.
// Whoever waits for the exit alone is told earlier.
func (e *Engine) awaitShim(c *container) (api.Exit, error) {
	conn, err := protocol.Dial(e.ctx, c.files.ShimSocket())
	if err != nil {
		return c.readExit(err)
	}
	defer conn.Close()
	rep, err := conn.Call(e.ctx, protocol.Request{Op: protocol.OpWait}, protocol.Observer{})
	if err != nil || rep.Exit == nil {
		return c.readExit(errors.Join(err, errdefs.ErrUnavailable))
	}
	c.ended(*rep.Exit)
	stop := context.AfterFunc(e.ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, _, _ = conn.ReadHeader() // ends with the connection
	if err := e.ctx.Err(); err != nil {
		return api.Exit{}, err
	}
	return *rep.Exit, nil
}

// hasShim reports whether the container's shim lives.
func (c *container) hasShim() bool {
	b, err := os.ReadFile(c.files.ShimPID())
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return err == nil && isShim(pid, func(run string) bool { return run == c.files.Run })
}

// readExit reads the exit that the shim left, or else returns err.
func (c *container) readExit(err error) (api.Exit, error) {
	var exit api.Exit
	if state.ReadJSON(c.files.Exit(), &exit) != nil || exit.At.IsZero() {
		return exit, err
	}
	return exit, nil
}

// finish runs when the shim is gone: what it may have left in the kernel is
// removed, and the network released.
func (e *Engine) finish(c *container) {
	ctx, cancel := context.WithTimeout(e.ctx, killGrace)
	defer cancel()
	if err := e.release(ctx, c.id(), c.files); err != nil {
		e.Log.Error("clean up after container", zap.String("id", c.id()), zap.Error(err))
	}
	s := c.snapshot()
	e.Log.Info("container exited", zap.String("id", c.id()), zap.String("name", c.name()), zap.Int("code", s.Exit.Code), zap.Bool("oom_killed", s.Exit.OOMKilled))
	close(c.idle)
}

// recover ends a container whose shim was killed: nobody holds its output,
// and nobody would learn its exit code.
func (e *Engine) recover(c *container) api.Exit {
	exit := api.Exit{Code: 128 + int(unix.SIGKILL), At: time.Now().UTC()}
	exit.Message = "the container's shim was killed; the container was killed with it"
	if id, err := bootID(); err == nil && id != c.rec.BootID {
		exit.Message = "the machine was restarted while the container ran"
	}
	ctx, cancel := context.WithTimeout(context.Background(), killGrace)
	defer cancel()
	if err := e.killLeftovers(ctx, c.id(), c.files); err != nil {
		e.Log.Error("kill leftovers of container", zap.String("id", c.id()), zap.Error(err))
	}
	if err := state.ReplaceJSON(c.files.Exit(), exit); err != nil {
		e.Log.Error("write exit code", zap.String("id", c.id()), zap.Error(err))
	}
	return exit
}

// killShims kills the shims whose run folder match accepts, and waits until
// they are gone: their mounts go with them.
func killShims(match func(run string) bool) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	var fds []unix.PollFd
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || !isShim(pid, match) {
			continue
		}
		// The descriptor pins the process: the number may be given away again.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		defer unix.Close(fd)
		if isShim(pid, match) && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	deadline := time.Now().Add(killGrace)
	for i := range fds {
		left := max(time.Until(deadline), 0)
		_, _ = unix.Poll(fds[i:i+1], int(left.Milliseconds()))
	}
}

// isShim tells by its command line whether a process is a shim.
func isShim(pid int, match func(run string) bool) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return false
	}
	args := bytes.Split(bytes.TrimSuffix(b, []byte{0}), []byte{0})
	return len(args) == 3 && string(args[1]) == "shim" && match(string(args[2]))
}

// bootID names the kernel's current boot (random(4)).
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
