// Package protocol is what the raw engine and a container's shim say to each
// other over a unix stream socket.
//
// Everything travels in frames: one byte of type, three zero bytes, a 32-bit
// big-endian length, the payload. Types 1 and 2 are byte for byte docker's
// stream frames. A client sends a Request; the shim answers with any number of
// Reply frames that carry an Event or a Warning, then one that is Final:
//
//	engine                              shim
//	  | -- Request{start, explain} ------> |
//	  | <----------------- Reply{event} -- |   once per kernel operation
//	  | <----------------- Reply{final} -- |
//
// After the final reply to attach and exec the connection is a session until
// it is closed:
//
//	| -- Stdin* , CloseStdin ----------> |
//	| <--------------- Stdout, Stderr* - |
//	| <-------------------------- Exit - |   the last frame
//
// Resize and signals go over connections of their own: a process that does not
// read its input must still be reachable.
package protocol

import (
	"encoding/json"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/overlay"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Type is the first byte of a frame.
type Type byte

// Frame types.
const (
	Stdin      Type = 0 // bytes for the process
	Stdout     Type = 1 // bytes from the process; a terminal's output is all Stdout
	Stderr     Type = 2
	CloseStdin Type = 3 // end of file on the process's stdin; empty
	Exit       Type = 4 // the process has ended and its output is complete: JSON of api.Exit
	Requested  Type = 5 // JSON of Request
	Replied    Type = 6 // JSON of Reply
)

// Limits of a frame's payload, in bytes.
const (
	MaxData = 64 << 10
	MaxJSON = 1 << 20
)

// Operations.
const (
	// OpPrepare and OpCreate come only as the first two requests, on the
	// descriptor that the shim inherits. After prepare the root file system is
	// mounted, and can be looked at through /proc/PID/root of the shim.
	OpPrepare = "prepare"
	OpCreate  = "create" // config.json is there by now
	OpStart   = "start"
	OpKill    = "kill"
	OpExec    = "exec"
	OpAttach  = "attach"
	OpResize  = "resize"
	// OpWait replies when a process has exited. For the container's first
	// process exit.json is written by then, and the connection ends when the
	// shim has cleaned up after it.
	OpWait   = "wait"
	OpPause  = "pause"
	OpResume = "resume"
	OpState  = "state"
	OpUpdate = "update"
)

// Request asks for one operation. What most shims are never asked for is kept
// as it is on the wire: package json would study the types at the first request.
type Request struct {
	Op      string `json:"op"`
	Explain bool   `json:"explain,omitempty"` // stream the kernel operations

	Container *Container      `json:"container,omitempty"`  // prepare
	Exec      json.RawMessage `json:"exec,omitempty"`       // a specs.Process
	OpenStdin bool            `json:"open_stdin,omitempty"` // exec
	Resources json.RawMessage `json:"resources,omitempty"`  // update: a specs.LinuxResources

	// Process is whom kill, resize and wait mean: "" is the container's first
	// process, otherwise what the reply to exec named.
	Process string `json:"process,omitempty"`
	Signal  int    `json:"signal,omitempty"`
	All     bool   `json:"all,omitempty"` // kill: every process of the container
	Rows    uint16 `json:"rows,omitempty"`
	Cols    uint16 `json:"cols,omitempty"`
}

// Container is what a shim must know to make its container.
type Container struct {
	ID          string      `json:"id"`
	Files       state.Files `json:"files"`
	RuntimeRoot string      `json:"runtime_root"` // runtime.Runtime.Root
	LowerDirs   []string    `json:"lower_dirs"`   // top layer first
	UpperDir    string      `json:"upper_dir"`
	WorkDir     string      `json:"work_dir"` // overlayfs' own
	// Mapping is the user namespace; zero without one.
	Mapping   overlay.Mapping `json:"mapping,omitzero"`
	TTY       bool            `json:"tty,omitempty"`
	OpenStdin bool            `json:"open_stdin,omitempty"`
	// SharedPID is set for a container without a PID namespace of its own: the
	// end of its first process does not end the others.
	SharedPID bool `json:"shared_pid,omitempty"`
	// LogSize is how large log.jsonl may get, in bytes, before it is rotated,
	// and LogFiles how many are kept.
	LogSize  int64 `json:"log_size"`
	LogFiles int   `json:"log_files"`
	// Publish are the ports to take on the host, and IP is the container's
	// address: the shim serves what NAT does not reach.
	Publish []api.PortMapping `json:"publish,omitempty"`
	IP      string            `json:"ip,omitempty"`
}

// Reply is one answer. Event and Warning precede a Final one.
type Reply struct {
	Event   *explain.Event `json:"event,omitempty"`
	Warning string         `json:"warning,omitempty"`

	Final   bool      `json:"final,omitempty"`
	Error   *Error    `json:"error,omitempty"`
	PID     int       `json:"pid,omitempty"`     // the shim's from prepare, otherwise the process's
	Process string    `json:"process,omitempty"` // exec
	TTY     bool      `json:"tty,omitempty"`     // exec, attach
	Status  string    `json:"status,omitempty"`  // state: api's words
	Started time.Time `json:"started,omitzero"`  // start, state
	Exit    *api.Exit `json:"exit,omitempty"`    // wait

	Ports []api.PortMapping `json:"ports,omitempty"` // prepare: as taken on the host
}
