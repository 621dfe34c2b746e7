package shim

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Init is the hidden command `init PROGRAM [ARG…]`: the first process of a
// container that was asked for with --init. Few programs are made to be
// process 1: the kernel gives it every orphan to wait for, and drops signals
// that it has no handler for. So this one is process 1 instead: it forwards
// signals, waits for orphans, and ends as the program ends.
func Init(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "init: no program")
		return codeNotFound
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return initError(err)
	}
	// Before the program is there, so that no signal is lost. All are handled,
	// none ignored: the program would inherit that.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)

	attr := &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		// A process group of its own, in the foreground of the terminal if
		// there is one, so that ^C reaches the program and not us.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		attr.Sys.Foreground, attr.Sys.Ctty = true, 0
	}
	child, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		return initError(fmt.Errorf("exec %s: %w", path, err))
	}
	for sig := range signals {
		switch sig {
		case unix.SIGCHLD:
			if status, ended := reapAll(child); ended {
				return code(status)
			}
		case unix.SIGURG, unix.SIGPIPE, unix.SIGTTIN, unix.SIGTTOU:
			// meant for this process: by the Go runtime, a pipe, the terminal
		default:
			_ = unix.Kill(child, sig.(syscall.Signal))
		}
	}
	return 0 // not reached: the channel is never closed
}

// reapAll collects every process that has ended, and tells how child did if it
// is among them.
func reapAll(child int) (of unix.WaitStatus, ended bool) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid == 0 {
			return of, ended
		}
		if pid == child {
			of, ended = status, true
		}
	}
}

func initError(err error) int {
	fmt.Fprintln(os.Stderr, "init:", err)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return codeNotFound
	}
	return codeNotExecutable
}
