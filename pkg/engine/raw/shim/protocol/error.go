package protocol

import (
	"errors"

	"github.com/containerd/errdefs"
)

// Error is an error that crossed the socket: its text and its errdefs class.
type Error struct {
	Class   string `json:"class,omitempty"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the errdefs class, for errors.Is.
func (e *Error) Unwrap() error {
	for _, c := range classes {
		if c.name == e.Class {
			return c.err
		}
	}
	return nil
}

var classes = []struct {
	name string
	err  error
}{
	{"not-found", errdefs.ErrNotFound},
	{"invalid-argument", errdefs.ErrInvalidArgument},
	{"already-exists", errdefs.ErrAlreadyExists},
	{"failed-precondition", errdefs.ErrFailedPrecondition},
	{"conflict", errdefs.ErrConflict},
	{"unavailable", errdefs.ErrUnavailable},
	{"permission-denied", errdefs.ErrPermissionDenied},
	{"not-implemented", errdefs.ErrNotImplemented},
	{"internal", errdefs.ErrInternal},
}

// NewError makes err fit for the socket.
func NewError(err error) *Error {
	e := &Error{Message: err.Error()}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			e.Class = c.name
			break
		}
	}
	return e
}
