package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/runtime"
)

// createFlags are common to create and run.
type createFlags struct {
	runtime.CreateOptions
	consoleSocket string
	preserveFDs   int
}

func (c *createFlags) define(fs *flag.FlagSet) {
	fs.StringVar(&c.Bundle, "bundle", ".", "`folder` with config.json")
	fs.StringVar(&c.Bundle, "b", ".", "short for --bundle")
	fs.StringVar(&c.consoleSocket, "console-socket", "", "unix `socket` that gets the terminal's master")
	fs.StringVar(&c.PIDFile, "pid-file", "", "`file` for the first process's PID")
	fs.StringVar(&c.PIDFDSocket, "pidfd-socket", "", "unix `socket` that gets a pidfd of the first process")
	fs.BoolVar(&c.NoPivot, "no-pivot", false, "change the root by chroot; for a root file system in an initramfs")
	fs.BoolVar(&c.NoNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	fs.IntVar(&c.preserveFDs, "preserve-fds", 0, "pass `N` more descriptors, 3 and up, to the program")
}

// open completes the options with the descriptors they name.
func (c *createFlags) open() error {
	c.IO = stdio(c.preserveFDs)
	if c.consoleSocket == "" {
		return nil
	}
	f, err := dial(c.consoleSocket)
	if err != nil {
		return fmt.Errorf("--console-socket: %w", err)
	}
	c.IO.Console = f
	return nil
}

func stdio(preserve int) runtime.IO {
	streams := runtime.IO{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	for i := range preserve {
		fd := 3 + i
		streams.Extra = append(streams.Extra, os.NewFile(uintptr(fd), "fd "+strconv.Itoa(fd)))
	}
	return streams
}

func create(ctx context.Context, g *global, args []string) (int, error) {
	var o createFlags
	fs := flags("create")
	o.define(fs)
	args, err := parse(fs, args, 1, 1)
	if err != nil {
		return 2, err
	}
	if err := o.open(); err != nil {
		return 1, err
	}
	r, done, err := g.runtime()
	if err != nil {
		return 1, err
	}
	defer done()
	_, err = r.Create(ctx, args[0], o.CreateOptions)
	return 0, err
}

func start(ctx context.Context, g *global, args []string) (int, error) {
	return one("start", g, args, func(r *runtime.Runtime, id string) error { return r.Start(ctx, id) })
}

func pause(ctx context.Context, g *global, args []string) (int, error) {
	return one("pause", g, args, func(r *runtime.Runtime, id string) error { return r.Pause(ctx, id) })
}

func resume(ctx context.Context, g *global, args []string) (int, error) {
	return one("resume", g, args, func(r *runtime.Runtime, id string) error { return r.Resume(ctx, id) })
}

func state(_ context.Context, g *global, args []string) (int, error) {
	return one("state", g, args, func(r *runtime.Runtime, id string) error {
		s, err := r.Listed(id)
		if err != nil {
			return err
		}
		return printJSON(s)
	})
}

// one runs a command whose only argument is a container's ID.
func one(name string, g *global, args []string, f func(*runtime.Runtime, string) error) (int, error) {
	args, err := parse(flags(name), args, 1, 1)
	if err != nil {
		return 2, err
	}
	r, done, err := g.runtime()
	if err != nil {
		return 1, err
	}
	defer done()
	return 0, f(r, args[0])
}

func kill(_ context.Context, g *global, args []string) (int, error) {
	fs := flags("kill")
	all := fs.Bool("all", false, "signal every process of the container")
	fs.BoolVar(all, "a", false, "short for --all")
	args, err := parse(fs, args, 1, 2)
	if err != nil {
		return 2, err
	}
	sig := unix.SIGTERM
	if len(args) == 2 {
		if sig, err = parseSignal(args[1]); err != nil {
			return 2, err
		}
	}
	r, done, err := g.runtime()
	if err != nil {
		return 1, err
	}
	defer done()
	return 0, r.Kill(args[0], sig, *all)
}

// parseSignal takes a number or a name, with or without SIG.
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("signal %d: there are 1 to 64", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	const rtMin, rtMax = 34, 64
	for prefix, base := range map[string]int{"SIGRTMIN": rtMin, "SIGRTMAX": rtMax} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			n, err := strconv.Atoi("0" + strings.TrimLeft(rest, "+-"))
			if err == nil && strings.HasPrefix(rest, "-") {
				n = -n
			}
			if sig := base + n; err == nil && sig >= rtMin && sig <= rtMax {
				return unix.Signal(sig), nil
			}
		}
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

func remove(ctx context.Context, g *global, args []string) (int, error) {
	fs := flags("delete")
	force := fs.Bool("force", false, "kill the container first; a missing one is no error")
	fs.BoolVar(force, "f", false, "short for --force")
	args, err := parse(fs, args, 1, -1)
	if err != nil {
		return 2, err
	}
	r, done, err := g.runtime()
	if err != nil {
		return 1, err
	}
	defer done()
	for _, id := range args {
		if err := r.Delete(ctx, id, *force); err != nil {
			return 1, err
		}
	}
	return 0, nil
}

func printJSON(v any) error { return encode(os.Stdout, v) }

func encode(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
