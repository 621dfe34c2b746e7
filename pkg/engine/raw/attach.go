package raw

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/bundle"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
)

// Attach connects to the container's first process. What it wrote before is
// in the log.
func (e *Engine) Attach(ctx context.Context, ref string) (engine.Session, error) {
	c, err := e.lookup(ref)
	if err != nil {
		return nil, err
	}
	return e.openSession(ctx, c, "attach to", protocol.Request{Op: protocol.OpAttach})
}

// Exec starts a further process in the container.
func (e *Engine) Exec(ctx context.Context, ref string, spec api.ExecSpec) (engine.Session, error) {
	c, err := e.lookup(ref)
	if err != nil {
		return nil, err
	}
	if err := c.require("exec in", api.StatusRunning); err != nil {
		return nil, err
	}
	p, err := c.execProcess(spec)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode process: %w", err)
	}
	return e.openSession(ctx, c, "exec in", protocol.Request{Op: protocol.OpExec, Exec: raw, OpenStdin: spec.OpenStdin})
}

func (e *Engine) openSession(ctx context.Context, c *container, verb string, req protocol.Request) (engine.Session, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s container %s: %w", verb, c.name(), err)
	}
	rep, err := conn.Call(ctx, req, protocol.Observer{})
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%s container %s: %w", verb, c.name(), c.orExited(ctx, err))
	}
	return &session{
		conn: conn, c: c, process: rep.Process, tty: rep.TTY,
		whole: func(ctx context.Context) (api.Exit, error) { return e.Wait(ctx, c.id()) },
	}, nil
}

// execProcess is the container's own process, but for what spec says.
func (c *container) execProcess(spec api.ExecSpec) (*specs.Process, error) {
	if len(spec.Command) == 0 {
		return nil, fmt.Errorf("exec without a command: %w", errdefs.ErrInvalidArgument)
	}
	b, err := os.ReadFile(filepath.Join(c.files.Bundle(), "config.json"))
	if err != nil {
		return nil, err
	}
	var config specs.Spec
	if err := json.Unmarshal(b, &config); err != nil {
		return nil, fmt.Errorf("decode config.json: %w", err)
	}
	p := config.Process
	p.Args = spec.Command
	p.Terminal = spec.TTY
	p.Env = mergeEnv(p.Env, spec.Env)
	if spec.WorkDir != "" {
		p.Cwd = spec.WorkDir
	}
	if spec.User != "" {
		// As the container sees its /etc/passwd now.
		rootfs, err := os.Open(fmt.Sprintf("/proc/%d/root", c.snapshot().PID))
		if err != nil {
			return nil, err
		}
		defer rootfs.Close()
		user, err := bundle.LookupUser(rootfs, spec.User)
		if err != nil {
			return nil, err
		}
		p.User = specs.User{UID: user.UID, GID: user.GID, AdditionalGids: user.AdditionalGids}
	}
	return p, nil
}

// mergeEnv adds variables; of the same name, the later one stays.
func mergeEnv(env, more []string) []string {
	name := func(e string) string {
		for i := range e {
			if e[i] == '=' {
				return e[:i]
			}
		}
		return e
	}
	for _, e := range more {
		env = slices.DeleteFunc(env, func(old string) bool { return name(old) == name(e) })
		env = append(env, e)
	}
	return env
}
