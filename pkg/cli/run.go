package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Category: groupRun,
		Usage:     "run a command in a new container",
		ArgsUsage: "IMAGE [COMMAND] [ARG...]",
		Description: `
Flags mean what docker's mean. What follows IMAGE belongs to the container.
The exit code is the container's own: 137 after an OOM kill; 126 when the
command cannot be executed, 127 when there is none of that name.

EXAMPLES
  sandbox run --rm -it toolbox sh                        a shell in a container
  sandbox run --rm --explain -m 64m toolbox true         what the kernel is asked to do, and why
  sandbox run -d --name web -p 8080:80 toolbox httpd -f  in the background, with a port`,
		Flags:  containerFlags(true),
		Action: p.containerAction((*program).runContainer),
	}
}

func (p *program) createCommand() *cli.Command {
	return &cli.Command{
		Name: "create", Category: groupRun,
		Usage:     "make a container without starting its process",
		ArgsUsage: "IMAGE [COMMAND] [ARG...]",
		Description: `
Everything is made but the process itself; start runs it.

EXAMPLES
  sandbox create --name web -p 8080:80 toolbox httpd -f
  sandbox create --explain toolbox true
  sandbox start -a web`,
		Flags: containerFlags(false),
		Action: p.containerAction(func(p *program, ctx context.Context, r request) error {
			c, err := p.create(ctx, r)
			if err == nil {
				fmt.Fprintln(p.Term.Stdout(), c.ID)
			}
			return err
		}),
	}
}

// containerFlags makes the library's flags of the table.
func containerFlags(run bool) []cli.Flag {
	var flags []cli.Flag
	for _, f := range specFlags() {
		switch f.name {
		case "detach", "detach-keys", "sig-proxy":
			if !run {
				continue
			}
		}
		names := f.aliases
		if f.short != "" {
			names = append([]string{f.short}, names...)
		}
		// The placeholder goes before a NUL, since usage texts may hold the
		// library's own mark for it, the backquote.
		usage := f.placeholder + "\x00" + f.usage
		switch {
		case f.placeholder == "":
			flags = append(flags, &cli.BoolFlag{Name: f.name, Aliases: names, Usage: f.usage, Category: f.category, DisableDefaultText: true})
		case f.list:
			flags = append(flags, &cli.StringSliceFlag{Name: f.name, Aliases: names, Usage: usage, Category: f.category})
		default:
			flags = append(flags, &cli.StringFlag{Name: f.name, Aliases: names, Usage: usage, Category: f.category})
		}
	}
	return flags
}

// containerAction turns the command line into a request before anything else,
// so that a mistake costs nothing.
func (p *program) containerAction(do func(*program, context.Context, request) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		r, err := buildRequest(p.typed, c.Args().Slice(), thisProcess())
		if err != nil {
			return err
		}
		return do(p, c.Context, r)
	}
}

func (p *program) runContainer(ctx context.Context, r request) error {
	if !r.detach {
		if err := p.checkTerminal(r.spec.TTY, r.interactive); err != nil {
			return err
		}
	}
	keys, err := detachKeys(r.detachKeys)
	if err != nil {
		return err
	}
	// Until the process runs, Ctrl-C takes everything back; from then on it is
	// the process's.
	early, stop := interruptible(ctx)
	defer stop()
	c, err := p.create(early, r)
	if err != nil {
		return err
	}
	cl := p.client()
	if r.detach {
		if _, err := cl.StartContainer(early, c.ID, p.onFrame(r)); err != nil {
			return p.startFailed(ctx, c, err)
		}
		fmt.Fprintln(p.Term.Stdout(), c.ID)
		return nil
	}
	// Attached before the start: no output is missed.
	session, err := cl.Attach(early, c.ID)
	if err != nil {
		return p.startFailed(ctx, c, err)
	}
	defer session.Close()
	s := &stream{
		term: p.Term, session: session, tty: r.spec.TTY, name: c.Name, stdin: r.interactive, sigProxy: r.sigProxy, detachKeys: keys,
		start: func() error {
			_, err := cl.StartContainer(ctx, c.ID, p.onFrame(r))
			return err
		},
	}
	s.subscribe()
	stop()
	ended, err := s.run(ctx)
	if failed, ok := errors.AsType[*startError](err); ok {
		return p.startFailed(ctx, c, failed.err)
	}
	return p.ended(ended, err, c.Name)
}

// create makes the container, warns, and writes the ID file.
func (p *program) create(ctx context.Context, r request) (api.Container, error) {
	var idFile *os.File
	if r.cidFile != "" {
		f, err := os.OpenFile(r.cidFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return api.Container{}, fmt.Errorf("--cidfile: %w (another container's ID may be in it)", err)
		}
		idFile = f
		defer f.Close()
	}
	c, err := p.createPulled(ctx, r)
	if err != nil {
		if idFile != nil {
			_ = os.Remove(r.cidFile)
		}
		return c, interrupted(ctx, execFailed(err))
	}
	if !r.explain {
		for _, w := range c.Warnings {
			warn(p.Term, w)
		}
	}
	if idFile != nil {
		if _, err := idFile.WriteString(c.ID); err != nil {
			return c, errors.Join(fmt.Errorf("--cidfile: %w", err), p.client().RemoveContainer(context.WithoutCancel(ctx), c.ID, true))
		}
	}
	return c, nil
}

// createPulled makes the container, and gets its image where it is missing.
func (p *program) createPulled(ctx context.Context, r request) (api.Container, error) {
	cl := p.client()
	opts := api.ImagePull{Name: r.spec.Image, ConfigDir: dockerConfig(), Resolve: r.pull != "always"}
	if r.pull == "always" {
		if _, err := p.pull(ctx, opts, shown{}); err != nil {
			return api.Container{}, err
		}
	}
	c, err := cl.CreateContainer(ctx, r.spec, p.onFrame(r))
	if !isNotFound(err) || r.pull == "always" || r.pull == "never" {
		return c, err
	}
	// Something else may be missing, such as the container of a namespace.
	if _, e := cl.InspectImage(ctx, r.spec.Image); !isNotFound(e) {
		return c, err
	}
	fmt.Fprintf(p.Term.Stderr(), "%s is not in the local store\n", ui.Plain(r.spec.Image))
	if opts.Recipes, err = absolute(os.Getenv("SANDBOX_RECIPES")); err != nil {
		return c, err
	}
	if _, err := p.pull(ctx, opts, shown{}); err != nil {
		return c, err
	}
	return cl.CreateContainer(ctx, r.spec, p.onFrame(r))
}

// onFrame is nil unless --explain: then the daemon need not stream.
func (p *program) onFrame(r request) func(api.Frame) {
	if !r.explain {
		return nil
	}
	if p.explainer == nil {
		p.explainer = &explainer{term: p.Term, json: r.json}
	}
	return p.explainer.frame
}

// startFailed takes a --rm container back whose process never ran, and finds
// the exit code.
func (p *program) startFailed(ctx context.Context, c api.Container, err error) error {
	if c.Spec.AutoRemove && !daemonLost(err) {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), versionTimeout)
		defer cancel()
		if e := p.client().RemoveContainer(clean, c.ID, true); e != nil && !isNotFound(e) {
			err = errors.Join(err, e)
		}
	}
	if errors.Is(err, context.Canceled) {
		return exit(exitInterrupted)
	}
	return execFailed(err)
}

// execFailed gives the error of a command that could not be executed the code
// that a shell gives it. The runtime's text is `exec "NAME": ERRNO` for a
// program that it did not find, `execve NAME (process.args): ERRNO` for one
// that the kernel refused.
func execFailed(err error) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return err
	}
	_, reason, found := strings.Cut(e.Message, `: exec "`)
	if !found {
		if _, reason, found = strings.Cut(e.Message, ": execve "); !found {
			return err
		}
	}
	code := exitCannotExecute
	if strings.Contains(reason, "not found") || strings.Contains(reason, "no such file or directory") {
		code = exitNotFound
	}
	return &exitError{code: code, err: err, hint: e.Hint}
}

// ended turns the end of a process into the program's.
func (p *program) ended(ended api.Exit, err error, name string) error {
	switch {
	case errors.Is(err, errDetached):
		fmt.Fprintf(p.Term.Stderr(), "\ndetached; %s goes on\n", name)
		return nil
	case daemonLost(err):
		return &exitError{
			code: exitFailure,
			err:  fmt.Errorf("the connection to the daemon is lost; the container %s goes on without it", name),
			hint: "once the daemon is back (sudo sandbox up): sandbox attach " + name + ", or sandbox logs " + name,
		}
	case err != nil:
		return err
	}
	if ended.Message != "" && (ended.OOMKilled || ended.Code != 0) {
		fmt.Fprintf(p.Term.Stderr(), "%s %s\n", p.Term.Style().Red("sandbox:"), printable(ended.Message))
	}
	return exit(ended.Code)
}

// checkTerminal refuses -t with a stdin that is none, as docker does: what is
// piped in would be echoed and mangled by the line discipline.
func (p *program) checkTerminal(tty, stdin bool) error {
	if in, _ := p.Term.Interactive(); tty && stdin && !in {
		return &exitError{code: exitFailure, err: errors.New("stdin is not a terminal"), hint: "leave out -t, or -i"}
	}
	return nil
}

func detachKeys(s string) ([]byte, error) {
	if s == "" {
		return defaultDetachKeys, nil
	}
	return parseDetachKeys(s)
}

// interrupted is err, or the code of an interrupt if that was the reason.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exit(exitInterrupted)
	}
	return err
}

func isNotFound(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Class == api.ClassNotFound
}
