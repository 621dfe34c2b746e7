package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	"golang.org/x/sys/unix"
)

// session is what a stream needs of client.Session.
type session interface {
	io.Writer
	CloseWrite() error
	Close() error
	CopyOutput(stdout, stderr io.Writer) error
	Resize(ctx context.Context, rows, cols uint16) error
	Signal(ctx context.Context, signal string) error
	Wait(ctx context.Context) (api.Exit, error)
}

// stream connects this process's terminal to a process in a container.
type stream struct {
	term       ui.Terminal
	session    session
	tty        bool
	name       string
	stdin      bool // pass on stdin
	sigProxy   bool
	detachKeys []byte
	start      func() error // nil if it runs already
	signals    chan os.Signal
}

// startError is the failure of stream.start.
type startError struct{ err error }

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// impatience is after how many interrupts the client gives up on a process
// that ignores them.
const impatience = 3

// subscribe makes all signals the stream's from now on. Without it, run does so
// itself; a caller that has handled interrupts until then leaves no gap.
func (s *stream) subscribe() {
	s.signals = make(chan os.Signal, 16)
	signal.Notify(s.signals)
}

// run copies until the process has ended, the user has detached, or ctx is
// done.
//
//	stdin  -> detach keys? -> session -> process
//	stdout <- demultiplex  <- session <- process
//	signals, window size -> requests beside the stream
func (s *stream) run(ctx context.Context) (api.Exit, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.signals == nil {
		s.subscribe()
	}
	defer signal.Stop(s.signals)

	output := make(chan error, 1)
	go func() { output <- s.session.CopyOutput(s.term.Stdout(), s.term.Stderr()) }()
	if s.tty {
		// Raw before the first output, which may be a prompt that is answered at
		// once; and the size before a program asks for it.
		if in, _ := s.term.Interactive(); in && s.stdin {
			restore, err := s.term.Raw()
			if err != nil {
				return api.Exit{}, fmt.Errorf("set the terminal to raw mode: %w", err)
			}
			defer func() { _ = restore() }()
		}
		s.resize(ctx)
	}
	started := make(chan error, 1)
	if s.start == nil {
		started <- nil
	} else {
		go func() { started <- s.start() }()
	}

	var input chan error
	running, interrupts := false, 0
	var early []os.Signal // that came before there was a process to have them
	for {
		select {
		case err := <-started:
			if err != nil {
				return api.Exit{}, &startError{err}
			}
			running, started = true, nil
			if s.tty && s.start != nil {
				s.resize(ctx) // again: there may have been no terminal to size before
			}
			if s.stdin {
				input = make(chan error, 1)
				go func() { input <- s.copyInput() }()
			} else {
				_ = s.session.CloseWrite()
			}
			for _, sig := range early {
				if err := s.signal(ctx, sig); err != nil {
					return api.Exit{}, err
				}
			}
		case err := <-output:
			if !running {
				// A start that fails ends the output, too, and says why.
				if e := <-started; e != nil {
					return api.Exit{}, &startError{e}
				}
			}
			if err != nil {
				return api.Exit{}, err
			}
			return s.session.Wait(ctx)
		case err := <-input:
			input = nil // only once
			if errors.Is(err, errDetached) {
				return api.Exit{}, err
			}
			// Any other end of stdin ends the process's, not the process.
		case sig := <-s.signals:
			if sig == os.Interrupt || sig == syscall.SIGTERM {
				if interrupts++; interrupts == impatience {
					return api.Exit{}, &exitError{code: exitInterrupted, err: fmt.Errorf("interrupted %d times: leaving %s to itself", impatience, s.name)}
				}
			}
			if !running {
				early = append(early, sig)
				continue
			}
			if err := s.signal(ctx, sig); err != nil {
				return api.Exit{}, err
			}
		case <-ctx.Done():
			return api.Exit{}, ctx.Err()
		}
	}
}

// copyInput passes stdin on. With a terminal it looks for the detach keys.
func (s *stream) copyInput() error {
	in := s.term.Stdin()
	if s.tty && len(s.detachKeys) > 0 {
		in = &detachReader{r: in, keys: s.detachKeys}
	}
	_, err := io.Copy(s.session, in)
	if errors.Is(err, errDetached) {
		return err
	}
	return errors.Join(err, s.session.CloseWrite())
}

// signal passes sig on, or does what it means for this side.
func (s *stream) signal(ctx context.Context, sig os.Signal) error {
	number, ok := sig.(syscall.Signal)
	if !ok {
		return nil
	}
	switch number {
	case syscall.SIGWINCH:
		if s.tty {
			s.resize(ctx)
		}
		return nil
	case syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGCONT, syscall.SIGTTIN, syscall.SIGTTOU:
		return nil // ours: SIGURG is how Go preempts
	case syscall.SIGTSTP:
		return nil // a stopped client would stop reading, and so the container
	}
	if s.tty || !s.sigProxy {
		// Keys reach the process through its terminal. What ends us leaves it
		// running.
		switch number {
		case syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT:
			return exit(128 + int(number))
		}
		return nil
	}
	// An error is that of a process that has just ended, or of a lost daemon;
	// the output's end tells which.
	_ = s.session.Signal(ctx, unix.SignalName(number))
	return nil
}

func (s *stream) resize(ctx context.Context) {
	rows, cols := s.term.Size()
	if rows > 0 && cols > 0 {
		// Without a size the process has the default one: no reason to fail.
		_ = s.session.Resize(ctx, uint16(min(rows, 1<<16-1)), uint16(min(cols, 1<<16-1))) //nolint:gosec // bounded
	}
}
