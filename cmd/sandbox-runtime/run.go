package main

import (
	"context"
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/runtime"
)

func run(ctx context.Context, g *global, args []string) (int, error) {
	var o createFlags
	fs := flags("run")
	o.define(fs)
	detach := fs.Bool("detach", false, "return when the program runs")
	fs.BoolVar(detach, "d", false, "short for --detach")
	keep := fs.Bool("keep", false, "do not delete the container at its end")
	noSubreaper := fs.Bool("no-subreaper", false, "do not adopt orphans of the container")
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
	id := args[0]
	if !*detach && !*noSubreaper {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			g.log.warn("orphans of the container are not adopted: " + err.Error())
		}
	}
	tty, err := ownTerminal(&o.IO, *detach)
	if err != nil {
		return 1, err
	}
	defer tty.Close()
	forward := forwardSignals(*detach)
	o.Start = true
	p, err := r.Create(ctx, id, o.CreateOptions)
	if err != nil {
		return 1, err
	}
	if err := tty.Connect(); err != nil {
		return 1, errors.Join(err, r.Delete(ctx, id, true))
	}
	if !p.Started {
		if err := r.Start(ctx, id); err != nil {
			return 1, errors.Join(err, r.Delete(ctx, id, true))
		}
	}
	if *detach {
		return 0, nil
	}
	code, err := forward.wait(p, tty)
	if !*keep {
		err = errors.Join(err, r.Delete(ctx, id, true))
	}
	return code, err
}

// forwarded are the signals that somebody may send to us in place of the
// container: not those that tell us of our own doings.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
	unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGALRM, unix.SIGWINCH,
}

// forwarder hands signals on to a process.
type forwarder struct{ signals chan os.Signal }

// forwardSignals begins to collect signals; with detach there is nobody to forward them.
func forwardSignals(detach bool) forwarder {
	f := forwarder{make(chan os.Signal, 64)}
	if !detach {
		signal.Notify(f.signals, forwarded...)
	}
	return f
}

// wait waits for p's end, as shells count it: 128+N when it was killed by signal N.
func (f forwarder) wait(p *runtime.Process, tty *terminal) (int, error) {
	go func() {
		for s := range f.signals {
			if s == unix.SIGWINCH {
				tty.Resize()
				continue
			}
			// It may have ended already: then there is nobody to tell.
			_ = unix.Kill(p.PID, s.(unix.Signal))
		}
	}()
	code, err := p.Wait()
	signal.Stop(f.signals)
	tty.Drain()
	return code, err
}
