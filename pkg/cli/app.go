// Package cli is the command line: it parses, calls the daemon and prints. A
// command turns its flags into one request, and errors become text and exit
// codes in one place, report.
package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/client"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

// Deps is what the commands need beside the daemon's API; main composes it.
type Deps struct {
	Term    ui.Terminal
	Version api.Version // of this binary
	// StateDir and RunDir are the defaults of the global flags.
	StateDir, RunDir string
	// Host returns what can be done on this machine without the daemon, for
	// these two roots. It must be cheap.
	Host func(stateDir, runDir string) Host
}

// Host is this machine, and the daemon as a process on it.
type Host interface {
	Socket() string
	// IsRoot says whether this process may start a daemon.
	IsRoot() bool
	// User is who runs this process, also by sudo; nil if that cannot be told.
	User() *api.User
	Check(ctx context.Context) ([]api.Finding, error)
	// Fix repairs what is safe to repair of findings and says, a line each,
	// what it did.
	Fix(ctx context.Context, findings []api.Finding) ([]string, error)
	// Start makes the daemon run, by systemd or detached from this process.
	Start(ctx context.Context) (Starting, error)
	// Serve is the daemon itself; it ends with ctx, or SIGTERM.
	Serve(ctx context.Context, opts Serving) error
	// SaveImages writes an archive of another engine's images to w, and
	// LoadImages gives such an archive to it, and returns what it has then. An
	// engine is docker[:HOST] or containerd[:NAMESPACE].
	SaveImages(ctx context.Context, engine string, names []string, w io.Writer) error
	LoadImages(ctx context.Context, engine string, r io.Reader) (loaded []string, err error)
	// Lint lists what is wrong with the recipes in dirs: each a recipe, or a
	// folder of recipes.
	Lint(ctx context.Context, dirs []string) ([]api.RecipeProblem, error)
	// NewRecipe makes a recipe to start from, in a folder of dir, and returns
	// that folder.
	NewRecipe(ctx context.Context, dir, name string) (folder string, err error)
	// AWS is the sandbox's, at an endpoint, "" for that of the stage.
	AWS(endpoint string) AWS
	// Uninstall takes away, after a purge, what the daemon cannot: its unit
	// and its folders. It returns what is then still there.
	Uninstall(ctx context.Context) (left []string, err error)
}

// Serving is how the daemon is to run.
type Serving struct {
	Registry string // IP:PORT of the registry, or off; empty for the usual
	Upstream bool   // the registry fetches what it lacks
	// TelemetryPort is where metrics are handed out and alerts received, at the
	// gateway of Docker's network; 0 for the usual one.
	TelemetryPort uint16
}

// Starting is a daemon that was told to start.
type Starting struct {
	How string // "systemd unit sandbox.service", "process 4711"
	// Ended is closed when the process is known to have ended; nil where that
	// cannot be known.
	Ended <-chan struct{}
	// Log returns the last lines of what it said.
	Log func() []string
}

// program is one run of the command line.
type program struct {
	Deps
	typed []typedFlag // the flags of the command, in order
	host  Host
	// explainer prints what create and start tell, numbered through.
	explainer *explainer
}

// Main runs the command line args, without the program's name, and returns the
// exit code.
func Main(ctx context.Context, deps Deps, args []string) int {
	p := &program{Deps: deps}
	return report(deps.Term, p.run(ctx, args))
}

func (p *program) run(ctx context.Context, args []string) error {
	app := p.app()
	argv, command, err := p.resolve(app, args)
	if err == nil {
		err = app.RunContext(ctx, argv)
	}
	if e, ok := errors.AsType[*usageError](err); ok && e.command == "" {
		e.command = command
	}
	if e, ok := errors.AsType[*api.Error](err); ok && e.Class == api.ClassInvalidArgument && e.Hint == "" {
		e.Hint = "see: " + command + " --help"
	}
	return err
}

func (p *program) app() *cli.App {
	// The library's help flag has the shorthand -h, which is --hostname in
	// `run`; split maps -h where it is free. And its own help is laid out by
	// templates, whose parsing every start would pay for.
	cli.HelpFlag = &cli.BoolFlag{Name: "help", Usage: "show this help", DisableDefaultText: true}
	cli.HelpPrinter = func(w io.Writer, _ string, data any) { printHelp(w, p.Term.OutStyle(), data) }
	return &cli.App{
		Name:                      "sandbox",
		HelpName:                  "sandbox",
		Usage:                     "see how containers work, from system calls to clusters, on one machine",
		Writer:                    p.Term.Stdout(),
		ErrWriter:                 p.Term.Stderr(),
		HideVersion:               true,
		HideHelpCommand:           true,
		DisableSliceFlagSeparator: true,
		// Errors are report's, not the library's.
		ExitErrHandler: func(*cli.Context, error) {},
		Flags:          p.globalFlags(),
		Before: func(c *cli.Context) error {
			p.host = p.Deps.Host(c.String("state-dir"), c.String("run-dir"))
			return nil
		},
		Action:   func(c *cli.Context) error { return cli.ShowAppHelp(c) },
		Commands: p.commands(),
	}
}

func (p *program) globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "state-dir", Usage: "keep images, containers and settings in `FOLDER`", EnvVars: []string{"SANDBOX_ROOT"}, Value: p.StateDir},
		&cli.StringFlag{Name: "run-dir", Usage: "keep the socket, and what a reboot ends, in `FOLDER`", EnvVars: []string{"SANDBOX_RUN"}, Value: p.RunDir},
		&cli.BoolFlag{Name: "version", Usage: "print the version", DisableDefaultText: true},
	}
}

func (p *program) commands() []*cli.Command {
	commands := []*cli.Command{
		p.upCommand(), p.downCommand(), p.statusCommand(), p.verifyCommand(), p.alertsCommand(), p.toolsCommand(), p.doctorCommand(),
		p.runCommand(), p.createCommand(), p.startCommand(), p.execCommand(), p.attachCommand(),
		p.psCommand(), p.logsCommand(), p.statsCommand(), p.inspectCommand(), p.eventsCommand(),
		p.stopCommand(), p.killCommand(), p.pauseCommand(), p.unpauseCommand(), p.waitCommand(), p.rmCommand(),
		p.imagesCommand(), p.pullCommand(), p.buildCommand(), p.rmiCommand(), p.imageCommand(),
		p.awsCommand(), p.terraformCommand(),
		p.versionCommand(), p.completionCommand(), p.completeCommand(), p.daemonCommand(),
	}
	for _, c := range commands {
		prepare(c)
	}
	return commands
}

// prepare keeps the library from adding a subcommand `help` to every command,
// which would make `sandbox run help` something else than the image help.
func prepare(c *cli.Command) {
	c.HideHelpCommand = true
	c.OnUsageError = wrongValue
	for _, s := range c.Subcommands {
		prepare(s)
	}
}

// wrongValue is a flag's value that the library cannot read.
func wrongValue(_ *cli.Context, err error, _ bool) error {
	return usagef("%s", strings.Replace(err.Error(), "for flag -", "for --", 1))
}

// takesCommand are the commands whose arguments, from the first one on, are a
// command line of their own.
var takesCommand = []string{"run", "create", "exec"}

// resolve finds the command in args and returns the arguments in the canonical
// form, with the program's name, and the command's full name.
func (p *program) resolve(app *cli.App, args []string) (argv []string, name string, err error) {
	name = app.Name
	flags := append(app.Flags, cli.HelpFlag)
	typed, rest, err := split(flags, args, false)
	if err != nil {
		return nil, name, err
	}
	argv = []string{app.Name}
	for _, f := range typed {
		if f.name == "version" {
			rest = append([]string{"version"}, rest...)
			continue
		}
		argv = append(argv, "--"+f.name+"="+f.value)
	}
	help := false
	if len(rest) > 0 && rest[0] == "help" {
		rest, help = rest[1:], true
	}
	commands := app.Commands
	var command *cli.Command
	for len(commands) > 0 && len(rest) > 0 {
		found := findCommand(commands, rest[0])
		if found == nil {
			if command != nil && len(rest[0]) > 1 && rest[0][0] == '-' {
				break // a flag of the group itself: --help
			}
			return nil, name, unknownCommand(commands, rest[0])
		}
		command, commands, rest = found, found.Subcommands, rest[1:]
		name += " " + command.Name
		argv = append(argv, command.Name)
	}
	if help {
		return append(argv, "--help"), name, nil
	}
	if command == nil {
		return argv, name, nil
	}
	p.typed, rest, err = split(append(command.Flags, cli.HelpFlag), rest, !slices.Contains(takesCommand, command.Name))
	if err != nil {
		return nil, name, err
	}
	if len(command.Subcommands) > 0 {
		return append(argv, "--help"), name, nil
	}
	return append(argv, canonical(p.typed, rest)...), name, nil
}

func findCommand(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func unknownCommand(commands []*cli.Command, name string) error {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Names()...)
		}
	}
	e := &usageError{message: "unknown command: " + name}
	if near := nearest(name, names); near != "" {
		e.hint = "did you mean " + near + "?"
	}
	return e
}

func (p *program) client() *client.Client { return client.New(p.host.Socket()) }

// interruptible returns a context that Ctrl-C, or the end of the session,
// cancels.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
}

// action wraps what a command does: it checks the number of arguments (most
// -1: any) and lets Ctrl-C end it.
func (p *program) action(least, most int, do func(context.Context, *cli.Context) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := checkArgs(c, least, most); err != nil {
			return err
		}
		ctx, stop := interruptible(c.Context)
		defer stop()
		err := do(ctx, c)
		if err != nil && ctx.Err() != nil && c.Context.Err() == nil && errors.Is(err, ctx.Err()) {
			return exit(exitInterrupted)
		}
		return err
	}
}

func checkArgs(c *cli.Context, least, most int) error {
	n := c.NArg()
	switch {
	case n < least && least == 1:
		return usagef("%s needs an argument: %s %s", c.Command.HelpName, c.Command.HelpName, c.Command.ArgsUsage)
	case n < least:
		return usagef("%s needs %d arguments: %s %s", c.Command.HelpName, least, c.Command.HelpName, c.Command.ArgsUsage)
	case most >= 0 && n > most && most == 0:
		return usagef("%s takes no arguments, but was given %q", c.Command.HelpName, c.Args().First())
	case most >= 0 && n > most:
		return usagef("%s takes %d argument(s), but was given %q as well", c.Command.HelpName, most, c.Args().Get(most))
	}
	return nil
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print JSON", DisableDefaultText: true}
}

func isUnexpectedEOF(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
