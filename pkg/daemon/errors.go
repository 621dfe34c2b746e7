package daemon

import (
	"context"
	"errors"
	"net/http"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/daemon/change"
)

// classes maps the classes of the domain's errors to the wire, once. The first
// match counts: a rollback joins further errors to the one that matters.
var classes = []struct {
	is     func(error) bool
	class  string
	status int
}{
	{isTooLarge, api.ClassInvalidArgument, http.StatusRequestEntityTooLarge},
	{errdefs.IsInvalidArgument, api.ClassInvalidArgument, http.StatusBadRequest},
	{errdefs.IsNotFound, api.ClassNotFound, http.StatusNotFound},
	{errdefs.IsAlreadyExists, api.ClassAlreadyExists, http.StatusConflict},
	{errdefs.IsConflict, api.ClassConflict, http.StatusConflict},
	{errdefs.IsFailedPrecondition, api.ClassFailedPrecondition, http.StatusPreconditionFailed},
	{errdefs.IsPermissionDenied, api.ClassPermissionDenied, http.StatusForbidden},
	{errdefs.IsNotImplemented, api.ClassNotImplemented, http.StatusNotImplemented},
	{isFull, api.ClassResourceExhausted, http.StatusInsufficientStorage},
	{errdefs.IsUnavailable, api.ClassUnavailable, http.StatusServiceUnavailable},
	{isAborted, api.ClassCanceled, statusClientClosed},
	{isTimeout, api.ClassDeadlineExceeded, http.StatusGatewayTimeout},
}

// statusClientClosed answers a request whose client is gone. It is nginx's
// number: nobody reads it but the log.
const statusClientClosed = 499

func isTooLarge(err error) bool {
	_, ok := errors.AsType[*http.MaxBytesError](err)
	return ok
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errdefs.IsResourceExhausted(err)
}

func isAborted(err error) bool {
	return errors.Is(err, change.ErrAborted) || errors.Is(err, context.Canceled)
}

func isTimeout(err error) bool { return errors.Is(err, context.DeadlineExceeded) }

// wireError makes the wire form of an error, and its HTTP status. An error of
// no class is internal: it is still told in full, since whoever may use the
// socket is as good as root.
func wireError(err error) (*api.Error, int) {
	e, status := &api.Error{Message: err.Error(), Class: api.ClassInternal}, http.StatusInternalServerError
	for _, c := range classes {
		if c.is(err) {
			e.Class, status = c.class, c.status
			break
		}
	}
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		e.Hint = h.Hint()
	} else if isFull(err) {
		e.Hint = "free space on the disk, or remove containers and images that are no longer needed"
	}
	return e, status
}
