package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/client"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

// Exit codes of every command. `run`, `start -a` and `exec` pass the
// container's own code instead, once its process has started.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitCheckFailed = 3
	exitNotReady    = 4
	exitInterrupted = 130
	// As a shell, and docker, have it: the command is there and cannot be
	// executed; the command is not there.
	exitCannotExecute = 126
	exitNotFound      = 127
)

// usageError is a mistake in the command line itself.
type usageError struct {
	command string // "sandbox run", for the hint; filled in by Run
	message string
	hint    string
}

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...)}
}

// exitError ends the program with code. Its text, if any, has the form of an
// error; with none, all was said already.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exit ends the program with code, silently.
func exit(code int) error {
	if code == exitOK {
		return nil
	}
	return &exitError{code: code}
}

// report prints err and returns the exit code for it. It is the only place
// where errors become text and numbers.
func report(term ui.Terminal, err error) int {
	if err == nil {
		return exitOK
	}
	code, hint := classify(err)
	text := strings.TrimSpace(err.Error())
	if text == "" {
		return code
	}
	style := term.Style()
	fmt.Fprintf(term.Stderr(), "%s %s\n", style.Red("error:"), printable(text))
	if hint != "" {
		fmt.Fprintf(term.Stderr(), "%s %s\n", style.Cyan("hint:"), printable(hint))
	}
	return code
}

// printable keeps an error's line breaks, which join its parts, and nothing
// else that could move the cursor.
func printable(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = ui.Plain(strings.ReplaceAll(line, "\t", "    "))
	}
	return strings.Join(lines, "\n  ")
}

func classify(err error) (code int, hint string) {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code, e.hint
	}
	if e, ok := errors.AsType[*usageError](err); ok {
		hint := e.hint
		if hint == "" && e.command != "" {
			hint = "see: " + e.command + " --help"
		}
		return exitUsage, hint
	}
	if e, ok := errors.AsType[*client.ConnectError](err); ok {
		return exitFailure, e.Hint
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		switch e.Class {
		case api.ClassInvalidArgument:
			return exitUsage, e.Hint
		case api.ClassCanceled:
			return exitInterrupted, e.Hint
		}
		return exitFailure, e.Hint
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted, ""
	}
	return exitFailure, ""
}

// daemonLost says whether err is the end of a connection that had worked, and
// not an answer of the daemon.
func daemonLost(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if _, ok := errors.AsType[*api.Error](err); ok {
		return false
	}
	if _, ok := errors.AsType[*client.ConnectError](err); ok {
		return true
	}
	_, ok := errors.AsType[*net.OpError](err)
	return ok || isUnexpectedEOF(err)
}

// joinErrors is errors.Join, and leaves a single error as it is, with its hint.
func joinErrors(errs error, err error) error {
	if errs == nil {
		return err
	}
	return errors.Join(errs, err)
}
