package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sandboxlabs/sandbox/pkg/runtime"
)

// values is a flag that can be given more than once.
type values []string

func (v *values) String() string     { return strings.Join(*v, ",") }
func (v *values) Set(s string) error { *v = append(*v, s); return nil }

// execFlags describe the process of an exec.
type execFlags struct {
	runtime.ExecOptions
	process, consoleSocket, cwd, user, apparmor, label string
	env, caps, groups                                  values
	tty, noNewPrivs, detach, ignorePaused              bool
	preserveFDs                                        int
}

func (e *execFlags) define(fs *flag.FlagSet) {
	fs.StringVar(&e.process, "process", "", "`file` with the process as JSON (runtime-spec's process)")
	fs.StringVar(&e.process, "p", "", "short for --process")
	fs.StringVar(&e.consoleSocket, "console-socket", "", "unix `socket` that gets the terminal's master")
	fs.StringVar(&e.PIDFile, "pid-file", "", "`file` for the process's PID")
	fs.StringVar(&e.PIDFDSocket, "pidfd-socket", "", "unix `socket` that gets a pidfd of the process")
	fs.StringVar(&e.Cgroup, "cgroup", "", "`path` of a cgroup below the container's")
	fs.StringVar(&e.cwd, "cwd", "", "working `folder`")
	fs.StringVar(&e.user, "user", "", "`UID[:GID]`")
	fs.StringVar(&e.user, "u", "", "short for --user")
	fs.Var(&e.groups, "additional-gids", "further `GID`, can be repeated")
	fs.Var(&e.groups, "g", "short for --additional-gids")
	fs.Var(&e.env, "env", "`NAME=VALUE`, can be repeated")
	fs.Var(&e.env, "e", "short for --env")
	fs.Var(&e.caps, "cap", "add a `capability`, can be repeated")
	fs.Var(&e.caps, "c", "short for --cap")
	fs.StringVar(&e.apparmor, "apparmor", "", "AppArmor `profile`")
	fs.StringVar(&e.label, "process-label", "", "SELinux `label`")
	fs.BoolVar(&e.tty, "tty", false, "give the process a terminal")
	fs.BoolVar(&e.tty, "t", false, "short for --tty")
	fs.BoolVar(&e.noNewPrivs, "no-new-privs", false, "set no_new_privs")
	fs.BoolVar(&e.detach, "detach", false, "return when the program runs")
	fs.BoolVar(&e.detach, "d", false, "short for --detach")
	fs.BoolVar(&e.ignorePaused, "ignore-paused", false, "run in a paused container; the process waits until it is resumed")
	fs.IntVar(&e.preserveFDs, "preserve-fds", 0, "pass `N` more descriptors, 3 and up, to the program")
}

func execute(ctx context.Context, g *global, args []string) (int, error) {
	var e execFlags
	fs := flags("exec")
	e.define(fs)
	args, err := parse(fs, args, 1, -1)
	if err != nil {
		return 2, err
	}
	r, done, err := g.runtime()
	if err != nil {
		return 255, err
	}
	defer done()
	p, err := e.specProcess(r, args[0], args[1:])
	if err != nil {
		return 255, err
	}
	e.IO = stdio(e.preserveFDs)
	if e.consoleSocket != "" {
		if e.IO.Console, err = dial(e.consoleSocket); err != nil {
			return 255, fmt.Errorf("--console-socket: %w", err)
		}
	}
	tty, err := ownTerminal(&e.IO, e.detach)
	if err != nil {
		return 255, err
	}
	defer tty.Close()
	forward := forwardSignals(e.detach)
	e.ExecOptions.IgnorePaused = e.ignorePaused
	proc, err := r.Exec(ctx, args[0], p, e.ExecOptions)
	if err != nil {
		return 255, err
	}
	if err := tty.Connect(); err != nil {
		return 255, err
	}
	if e.detach {
		return 0, nil
	}
	return forward.wait(proc, tty)
}

// specProcess is the process to run: the file's, or the container's own with
// another command and what the flags change.
func (e *execFlags) specProcess(r *runtime.Runtime, id string, command []string) (*specs.Process, error) {
	if e.process != "" {
		b, err := os.ReadFile(e.process)
		if err != nil {
			return nil, err
		}
		p := new(specs.Process)
		if err := json.Unmarshal(b, p); err != nil {
			return nil, fmt.Errorf("%s: %w", e.process, err)
		}
		return p, nil
	}
	if len(command) == 0 {
		return nil, fmt.Errorf("%w: no command to run in the container", errUsage)
	}
	spec, err := r.Spec(id)
	if err != nil {
		return nil, err
	}
	p := spec.Process
	if p == nil {
		p = &specs.Process{Cwd: "/"}
	}
	p.Args, p.Terminal, p.ConsoleSize = command, e.tty, nil
	p.Env = append(p.Env, e.env...)
	if e.cwd != "" {
		p.Cwd = e.cwd
	}
	if e.noNewPrivs {
		p.NoNewPrivileges = true
	}
	if e.apparmor != "" {
		p.ApparmorProfile = e.apparmor
	}
	if e.label != "" {
		p.SelinuxLabel = e.label
	}
	if c := p.Capabilities; len(e.caps) > 0 {
		if c == nil {
			c = &specs.LinuxCapabilities{}
			p.Capabilities = c
		}
		for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
			*set = append(*set, e.caps...)
		}
		for _, name := range e.caps {
			if slices.Contains(c.Inheritable, name) {
				c.Ambient = append(c.Ambient, name)
			}
		}
	}
	return p, e.setUser(p)
}

func (e *execFlags) setUser(p *specs.Process) error {
	number := func(what, s string) (uint32, error) {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%s %q: not a number", what, s)
		}
		return uint32(n), nil
	}
	var err error
	if e.user != "" {
		uid, gid, both := strings.Cut(e.user, ":")
		if p.User.UID, err = number("--user", uid); err != nil {
			return err
		}
		if both {
			if p.User.GID, err = number("--user", gid); err != nil {
				return err
			}
		}
	}
	for _, s := range e.groups {
		gid, err := number("--additional-gids", s)
		if err != nil {
			return err
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, gid)
	}
	return nil
}
