package api

import "time"

// Prefix is the version prefix of every route.
const Prefix = "/v1"

// Host is the Host header of a request to the unix socket. The daemon refuses
// any other, so that no web page can be pointed at it through a proxy.
const Host = "sandbox"

// NDJSON is the media type of a streamed answer: one JSON value per line. A
// create or start that is asked for it streams [Frame]s.
const NDJSON = "application/x-ndjson"

// Attach and exec switch the connection to a byte stream (101 Switching
// Protocols) with Upgrade: [StreamProtocol]. From then on the client sends
// stdin as it is, and ends it by shutting down its writing side; the daemon
// sends output, raw for a terminal, otherwise in frames of
// {stream,0,0,0,len32be} (1 stdout, 2 stderr), and closes at the end of it.
// What a byte stream cannot carry (window size, signals, the exit code) goes by
// further requests to /v1/sessions/{id}, where the id is [SessionHeader] of
// the 101 answer.
const (
	StreamProtocol = "sandbox-stream"
	SessionHeader  = "Sandbox-Session"
	// StreamRaw and StreamFramed are the Content-Type of the 101 answer.
	StreamRaw    = "application/vnd.sandbox.stream.raw"
	StreamFramed = "application/vnd.sandbox.stream.framed"
)

// Classes of [Error].
const (
	ClassInvalidArgument    = "invalid-argument"
	ClassNotFound           = "not-found"
	ClassAlreadyExists      = "already-exists"
	ClassFailedPrecondition = "failed-precondition"
	ClassConflict           = "conflict"
	ClassPermissionDenied   = "permission-denied"
	ClassResourceExhausted  = "resource-exhausted"
	ClassNotImplemented     = "not-implemented"
	ClassUnavailable        = "unavailable"
	ClassCanceled           = "canceled"
	ClassDeadlineExceeded   = "deadline-exceeded"
	ClassInternal           = "internal"
)

// Error makes the wire form an error, so that a client can errors.As to it.
func (e *Error) Error() string { return e.Message }

// ChangeRef answers POST /v1/up and /v1/down.
type ChangeRef struct {
	ID string `json:"id"`
	// Joined says that the change was already under way: who began it may still
	// follow it.
	Joined bool `json:"joined,omitempty"`
}

// Kinds of change.
const (
	ChangeUp   = "up"
	ChangeDown = "down"
	// ChangeVerify tries what the stack promises; its tasks are the promises.
	ChangeVerify = "verify"
)

// Ended reports whether status is one that a change or task does not leave.
func Ended(status string) bool {
	switch status {
	case Done, Failed, Aborted, Skipped:
		return true
	}
	return false
}

// Event is one line of GET /v1/events.
type Event struct {
	Time   time.Time `json:"time"`
	Action string    `json:"action"`
	ID     string    `json:"id"` // of the container
	Name   string    `json:"name"`
	Image  string    `json:"image"`
	Signal string    `json:"signal,omitempty"` // of kill
	Exit   *Exit     `json:"exit,omitempty"`   // of exit
}

// Actions of [Event].
const (
	EventCreate  = "create"
	EventStart   = "start"
	EventKill    = "kill"
	EventPause   = "pause"
	EventUnpause = "unpause"
	EventExec    = "exec"
	EventExit    = "exit"
	EventRemove  = "remove"
)

// Session answers an exec that asked for no stream (`exec -d`); its exit code
// is kept for a minute at POST /v1/sessions/{id}/wait.
type Session struct {
	ID string `json:"id"`
}
