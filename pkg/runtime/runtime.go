// Package runtime is an OCI runtime (runtime-spec 1.3) over the primitives of
// pkg/linux.
package runtime

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// Runtime creates and runs containers. Its state lives under Root, one folder
// per container.
type Runtime struct {
	Root  string          // normally under /run: a reboot ends all containers
	Trace *explain.Tracer // may be nil
	// Warn is told, in one sentence each, what the host lacks and what that
	// means for the container. May be nil.
	Warn func(string)

	// The record of the container that this Runtime has made last, and when its
	// folder was made: records do not change, so it need not be read again.
	mu       sync.Mutex
	last     *record
	lastBorn unix.StatxTimestamp
}

// IO is what a process gets as its standard streams. For a terminal
// (process.terminal) the three files are ignored and the pty's master is sent,
// as one SCM_RIGHTS message, over the connected unix socket Console.
type IO struct {
	Stdin, Stdout, Stderr *os.File
	Console               *os.File
	KeepNewlines          bool       // the terminal does not turn "\n" into "\r\n"
	Extra                 []*os.File // fds 3, 4, …: --preserve-fds
}

// CreateOptions are the choices of `create` that config.json does not hold.
type CreateOptions struct {
	Bundle       string // folder with config.json
	IO           IO
	PIDFile      string
	PIDFDSocket  string // a unix socket that gets a pidfd of the first process, as one message
	NoPivot      bool
	NoNewKeyring bool
	// Start lets create start the program as well, which spares a wait; unless
	// there are hooks, which have their say in between. See Process.Started.
	Start bool
}

// Process is a process that this process has started, and its parent.
type Process struct {
	PID     int  // in the caller's PID namespace
	Started bool // the program runs already
}

// Wait waits for the process's end and returns its exit code, as shells count
// it: 128+N when it was killed by signal N.
func (p *Process) Wait() (int, error) {
	ws, err := wait(p.PID)
	if err != nil {
		return 0, fmt.Errorf("wait for process %d: %w", p.PID, err)
	}
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}
