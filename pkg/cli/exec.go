package cli

import (
	"context"
	"fmt"

	"github.com/sandboxlabs/sandbox/pkg/api"
	cli "github.com/urfave/cli/v2"
)

func (p *program) startCommand() *cli.Command {
	return &cli.Command{
		Name: "start", Category: groupRun,
		Usage:     "start containers that were created or have exited",
		ArgsUsage: "CONTAINER...",
		Description: `
EXAMPLES
  sandbox start web
  sandbox start -ai web         attached, with stdin
  sandbox start --explain web   what the kernel is asked to do, and why`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "attach", Aliases: []string{"a"}, Usage: "show the output and return the exit code", DisableDefaultText: true},
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "pass on stdin (implies -a)", DisableDefaultText: true},
			&cli.StringFlag{Name: "detach-keys", Usage: "the `KEYS` that leave the container running (ctrl-p,ctrl-q)"},
			&cli.BoolFlag{Name: "explain", Usage: "show every kernel operation as it is made, on stderr", DisableDefaultText: true},
			&cli.BoolFlag{Name: "json", Usage: "print what --explain shows as JSON", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			if err := checkArgs(c, 1, -1); err != nil {
				return err
			}
			r := request{explain: c.Bool("explain"), json: c.Bool("json"), detachKeys: c.String("detach-keys"), interactive: c.Bool("interactive"), sigProxy: true}
			if c.Bool("attach") || r.interactive {
				if err := checkArgs(c, 1, 1); err != nil {
					return usagef("only one container can be attached to at a time")
				}
				return p.startAttached(c.Context, c.Args().First(), r)
			}
			ctx, stop := interruptible(c.Context)
			defer stop()
			return p.each(ctx, c.Args().Slice(), 1, func(ctx context.Context, ref string) error {
				_, err := p.client().StartContainer(ctx, ref, p.onFrame(r))
				return execFailed(err)
			})
		},
	}
}

func (p *program) startAttached(ctx context.Context, ref string, r request) error {
	cl := p.client()
	c, err := cl.InspectContainer(ctx, ref)
	if err != nil {
		return err
	}
	if c.Status == api.StatusRunning {
		return fmt.Errorf("%s is running already", c.Name)
	}
	keys, err := parseKeysFlag(r.detachKeys)
	if err != nil {
		return err
	}
	session, err := cl.Attach(ctx, c.ID)
	if err != nil {
		return err
	}
	defer session.Close()
	s := &stream{
		term: p.Term, session: session, tty: c.Spec.TTY, name: c.Name, stdin: r.interactive && c.Spec.OpenStdin, sigProxy: r.sigProxy, detachKeys: keys,
		start: func() error {
			_, err := cl.StartContainer(ctx, c.ID, p.onFrame(r))
			return execFailed(err)
		},
	}
	ended, err := s.run(ctx)
	return p.ended(ended, err, c.Name)
}

func (p *program) attachCommand() *cli.Command {
	return &cli.Command{
		Name: "attach", Category: groupRun,
		Usage:     "connect to the first process of a running container",
		ArgsUsage: "CONTAINER",
		Description: `
The keys ctrl-p ctrl-q leave again, when the container has a terminal. The exit
code is the container's.

EXAMPLES
  sandbox attach web
  sandbox attach --no-stdin web
  sandbox attach --detach-keys ctrl-x web`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "no-stdin", Usage: "do not pass on stdin", DisableDefaultText: true},
			&cli.BoolFlag{Name: "sig-proxy", Usage: "pass signals on to the process (default: true)", Value: true, DisableDefaultText: true},
			&cli.StringFlag{Name: "detach-keys", Usage: "the `KEYS` that leave the container running (ctrl-p,ctrl-q)"},
		},
		Action: func(c *cli.Context) error {
			if err := checkArgs(c, 1, 1); err != nil {
				return err
			}
			keys, err := parseKeysFlag(c.String("detach-keys"))
			if err != nil {
				return err
			}
			return p.attach(c.Context, c.Args().First(), &stream{
				term: p.Term, stdin: !c.Bool("no-stdin"), sigProxy: c.Bool("sig-proxy"), detachKeys: keys,
			})
		},
	}
}

func (p *program) attach(ctx context.Context, ref string, s *stream) error {
	cl := p.client()
	c, err := cl.InspectContainer(ctx, ref)
	switch {
	case err != nil:
		return err
	case c.Status == api.StatusPaused:
		return &exitError{code: exitFailure, err: fmt.Errorf("%s is paused", c.Name), hint: "sandbox unpause " + c.Name}
	case c.Status != api.StatusRunning:
		return &exitError{code: exitFailure, err: fmt.Errorf("%s is not running, it is %s", c.Name, c.Status), hint: "sandbox start -a " + c.Name}
	}
	if err := p.checkTerminal(c.Spec.TTY, s.stdin && c.Spec.OpenStdin); err != nil {
		return err
	}
	session, err := cl.Attach(ctx, c.ID)
	if err != nil {
		return err
	}
	defer session.Close()
	s.session, s.name, s.tty = session, c.Name, c.Spec.TTY
	s.stdin = s.stdin && c.Spec.OpenStdin
	ended, err := s.run(ctx)
	return p.ended(ended, err, c.Name)
}

func (p *program) execCommand() *cli.Command {
	return &cli.Command{
		Name: "exec", Category: groupRun,
		Usage:     "run a further command in a running container",
		ArgsUsage: "CONTAINER COMMAND [ARG...]",
		Description: `
The exit code is the command's own; 126 when it cannot be executed, 127 when
there is none of that name.

EXAMPLES
  sandbox exec -it web sh
  sandbox exec web cat /proc/self/cgroup
  sandbox exec -u 1000 -w /tmp -e LANG=C web env`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "run in the background", DisableDefaultText: true},
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "keep stdin open", DisableDefaultText: true},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the process a terminal (usually -it)", DisableDefaultText: true},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set a variable: `NAME[=VALUE]`"},
			&cli.StringSliceFlag{Name: "env-file", Usage: "read variables from `FILE`"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run as `USER[:GROUP]`"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "start in `DIR`"},
			&cli.BoolFlag{Name: "privileged", Usage: "with all rights that the host has", DisableDefaultText: true},
			&cli.StringFlag{Name: "detach-keys", Usage: "the `KEYS` that leave the process running (ctrl-p,ctrl-q)"},
		},
		Action: p.exec,
	}
}

func (p *program) exec(c *cli.Context) error {
	if err := checkArgs(c, 2, -1); err != nil {
		return usagef("a container and a command are needed; for example: sandbox exec web ps")
	}
	ref := c.Args().First()
	spec := api.ExecSpec{
		Command: c.Args().Tail(), WorkDir: c.String("workdir"), User: c.String("user"),
		TTY: c.Bool("tty"), OpenStdin: c.Bool("interactive"), Privileged: c.Bool("privileged"),
	}
	if spec.WorkDir != "" && spec.WorkDir[0] != '/' {
		return usagef("invalid value %q for --workdir: not an absolute path; for example: --workdir /tmp", spec.WorkDir)
	}
	o := thisProcess()
	for _, file := range c.StringSlice("env-file") {
		env, err := parseEnvFile(file, o)
		if err != nil {
			return usagef("invalid value %q for --env-file: %v", file, err)
		}
		spec.Env = append(spec.Env, env...)
	}
	for _, v := range c.StringSlice("env") {
		assignment, ok, err := parseEnv(v, o)
		if err != nil {
			return usagef("invalid value %q for --env: %v; for example: --env LANG=C", v, err)
		}
		if ok {
			spec.Env = append(spec.Env, assignment)
		}
	}
	keys, err := parseKeysFlag(c.String("detach-keys"))
	if err != nil {
		return err
	}
	if c.Bool("detach") {
		_, err := p.client().ExecDetached(c.Context, ref, spec)
		return execFailed(err)
	}
	if err := p.checkTerminal(spec.TTY, spec.OpenStdin); err != nil {
		return err
	}
	early, stop := interruptible(c.Context)
	defer stop()
	session, err := p.client().Exec(early, ref, spec)
	if err != nil {
		return interrupted(early, execFailed(err))
	}
	defer session.Close()
	s := &stream{term: p.Term, session: session, tty: spec.TTY, name: "the command in " + ref, stdin: spec.OpenStdin, sigProxy: true, detachKeys: keys}
	s.subscribe()
	stop()
	ended, err := s.run(c.Context)
	return p.ended(ended, err, ref)
}

func parseKeysFlag(s string) ([]byte, error) {
	keys, err := detachKeys(s)
	if err != nil {
		return nil, usagef("invalid value %q for --detach-keys: %v; for example: --detach-keys ctrl-p,ctrl-q", s, err)
	}
	return keys, nil
}
