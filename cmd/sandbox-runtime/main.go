// Command sandbox-runtime is an OCI runtime with runc's command line.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/runtime"
)

// version is set by the linker.
var version = "dev"

// global are the options before the command.
type global struct {
	root      string
	rootGiven bool // by --root, not the default
	log       *logger
	explain   string
}

// command is one row of the command table.
type command struct {
	name, args, help string
	run              func(ctx context.Context, g *global, args []string) (int, error)
}

func commands() []command {
	return []command{
		{"create", "[flags] ID", "make a container from a bundle; its program waits for start", create},
		{"start", "ID", "run the program of a created container", start},
		{"state", "ID", "print the state of a container as JSON", state},
		{"kill", "[--all] ID [SIGNAL]", "send a signal (default TERM) to the container's first process", kill},
		{"delete", "[--force] ID…", "remove a stopped container", remove},
		{"run", "[flags] ID", "create, start, wait and delete in one go", run},
		{"exec", "[flags] ID COMMAND [ARG…]", "run a further process in a running container", execute},
		{"ps", "[--format json] ID [PS-OPTION…]", "list the processes of a container", ps},
		{"list", "[--format json] [--quiet]", "list containers", list},
		{"pause", "ID", "freeze all processes of a container", pause},
		{"resume", "ID", "thaw them", resume},
		{"update", "[flags] ID", "change resource limits", update},
		{"events", "[--stats] [--interval D] ID", "print statistics and OOM notifications as JSON", events},
		{"features", "", "print what this runtime supports as JSON", features},
		{"spec", "[--bundle DIR]", "write a config.json to begin with", writeSpec},
	}
}

func main() {
	args := os.Args[1:]
	if len(args) > 0 {
		// What the raw engine starts; no commands for people.
		switch args[0] {
		case "shim":
			os.Exit(shim.Main(args[1:]))
		case "init":
			os.Exit(shim.Init(args[1:]))
		}
	}
	os.Exit(Main(args))
}

// Main runs one command and returns the exit code.
func Main(args []string) int {
	g := &global{log: newLogger()}
	var logPath, logFormat string
	var debug, showVersion, ignoredBool bool
	var ignored string
	fs := flags("sandbox-runtime")
	fs.StringVar(&g.root, "root", defaultRoot(), "folder for the state of containers; better in memory")
	fs.StringVar(&logPath, "log", "", "file for warnings and errors (default: standard error)")
	fs.StringVar(&logFormat, "log-format", "text", "text or json")
	fs.BoolVar(&debug, "debug", false, "accepted for compatibility")
	fs.StringVar(&g.explain, "explain", "", "append every kernel operation, as JSON lines, to this file")
	fs.BoolVar(&ignoredBool, "systemd-cgroup", false, "cgroupsPath has systemd's form, slice:prefix:name")
	fs.StringVar(&ignored, "rootless", "auto", "accepted for compatibility")
	fs.StringVar(&ignored, "criu", "", "accepted for compatibility")
	fs.BoolVar(&showVersion, "version", false, "print the version")
	fs.BoolVar(&showVersion, "v", false, "print the version")
	fs.SetOutput(io.Discard)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			usage(fs)
			return 0
		}
		fmt.Fprintf(os.Stderr, "error: %v; see sandbox-runtime --help\n", err)
		return 2
	}
	fs.Visit(func(f *flag.Flag) { g.rootGiven = g.rootGiven || f.Name == "root" })
	if showVersion {
		fmt.Printf("sandbox-runtime version %s\nspec: %s\n", version, runtime.SpecVersion)
		return 0
	}
	if err := g.log.open(logPath, logFormat); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	rest := fs.Args()
	if len(rest) == 0 || rest[0] == "help" {
		usage(fs)
		return 0
	}
	for _, c := range commands() {
		if c.name != rest[0] {
			continue
		}
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
		if c.name == "run" || c.name == "exec" { // they forward signals
			stop()
			ctx = context.Background()
		}
		defer stop()
		code, err := c.run(ctx, g, rest[1:])
		switch {
		case errors.Is(err, flag.ErrHelp):
			return 0
		case errors.Is(err, errUsage):
			fmt.Fprintf(os.Stderr, "error: %v\nusage: sandbox-runtime %s %s\n", err, c.name, c.args)
			return 2
		case err != nil:
			g.log.error(err)
			return max(code, 1)
		}
		return code
	}
	fmt.Fprintf(os.Stderr, "error: unknown command %q; see sandbox-runtime --help\n", rest[0])
	return 2
}

func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		return filepath.Join(dir, "sandbox-runtime")
	}
	return "/run/sandbox-runtime"
}

// runtime returns the runtime that the global options describe; done writes out
// what was explained.
func (g *global) runtime() (r *runtime.Runtime, done func(), err error) {
	root, err := filepath.Abs(g.root)
	if err != nil {
		return nil, nil, err
	}
	r = &runtime.Runtime{Root: root, Warn: g.log.warn}
	if g.explain == "" {
		return r, func() {}, nil
	}
	f, err := os.OpenFile(g.explain, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, nil, err
	}
	r.Trace = explain.New("runtime", os.Getpid(), explain.JSONLines(f))
	return r, func() { _ = f.Close() }, nil
}

var errUsage = errors.New("usage")

// flags returns a flag set whose errors are ours to print.
func flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	return fs
}

// parse parses a command's flags and checks the number of arguments. As with runc,
// flags may also follow arguments, except where those are another program's.
func parse(fs *flag.FlagSet, args []string, least, most int) ([]string, error) {
	fs.SetOutput(io.Discard)
	var plain []string
	err := fs.Parse(args)
	for err == nil && fs.NArg() > 0 && fs.Name() != "exec" && fs.Name() != "ps" {
		rest := fs.Args()
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			break
		}
		plain, args = append(plain, rest[0]), rest[1:]
		err = fs.Parse(args)
	}
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(os.Stdout)
			for _, c := range commands() {
				if c.name == fs.Name() {
					fmt.Printf("sandbox-runtime %s %s\n\n%s\n\n", c.name, c.args, c.help)
				}
			}
			fs.PrintDefaults()
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	plain = append(plain, fs.Args()...)
	if n := len(plain); n < least || most >= 0 && n > most {
		return nil, fmt.Errorf("%w: %d arguments", errUsage, n)
	}
	return plain, nil
}

func usage(fs *flag.FlagSet) {
	fmt.Printf("sandbox-runtime %s: an OCI runtime (runtime-spec %s) that explains itself\n\nusage: sandbox-runtime [flags] COMMAND …\n\n", version, runtime.SpecVersion)
	for _, c := range commands() {
		fmt.Printf("  %-9s %-34s %s\n", c.name, c.args, c.help)
	}
	fmt.Println("\nflags:")
	fs.SetOutput(os.Stdout)
	fs.PrintDefaults()
}
