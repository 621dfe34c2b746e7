package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// RegistryError says what a registry refused, or that it is not in reach, and
// what can be done.
type RegistryError struct {
	Host  string
	err   error
	class error
	words string
	hint  string
}

func (e *RegistryError) Error() string {
	return fmt.Sprintf("registry %s %s: %v", e.Host, e.words, e.err)
}

func (e *RegistryError) Unwrap() []error { return []error{e.err, e.class} }

// Hint is what the user can do.
func (e *RegistryError) Hint() string { return e.hint }

const withoutRegistry = "bring the image in with `sandbox image import FILE`, or build it from its recipe with `sandbox image build NAME`"

// transient reports whether the same request may work a moment later. A
// registry that cannot be connected to is not waited for: in a classroom
// without internet that would be the time until every start.
func transient(err error) bool {
	if refused, ok := errors.AsType[*transport.Error](err); ok {
		return refused.StatusCode >= 500 || refused.StatusCode == http.StatusRequestTimeout
	}
	for _, passing := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, errStalled} {
		if errors.Is(err, passing) {
			return true
		}
	}
	// A connection that was there and broke, in net/http's words or HTTP/2's.
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "read"
}

// explain gives errors of the network and of the registry their class. Others,
// of the disk or of the caller, pass as they are.
func (r *remote) explain(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	e := &RegistryError{Host: r.host, err: err, class: errdefs.ErrUnavailable}
	if refused, ok := errors.AsType[*transport.Error](err); ok {
		e.refused(refused)
		return e
	}
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, request := errors.AsType[*url.Error](err) // all that http.Client says
	switch {
	case errors.Is(err, errPlain):
		e.class, e.words = errdefs.ErrFailedPrecondition, "does not speak HTTPS"
		e.hint = "allow HTTP for this pull with --insecure, if you trust the network between"
	case untrusted:
		e.words = "has a certificate that this machine does not trust"
		e.hint = "if a proxy intercepts TLS here, add its CA to the system's (update-ca-certificates) and restart the daemon"
	case errors.Is(err, http.ErrSchemeMismatch):
		e.words = "speaks HTTP and not HTTPS"
		e.hint = "allow HTTP for this pull with --insecure, if you trust the network between"
	case errors.Is(err, io.ErrUnexpectedEOF):
		e.words = "breaks off its answer"
		e.hint = "try again later: what has come is kept; or " + withoutRegistry
	case request || transient(err):
		e.words = "is not in reach"
		e.hint = withoutRegistry + "; a proxy is taken from HTTPS_PROXY in the daemon's environment"
	default:
		return err
	}
	return e
}

func (e *RegistryError) refused(err *transport.Error) {
	login := "`docker login " + e.Host + "` as the user of this command, with an account that may read it"
	switch err.StatusCode {
	case http.StatusUnauthorized:
		e.class, e.words = errdefs.ErrUnauthenticated, "wants credentials, or has no such image"
		e.hint = "check the name; if the image is private: " + login + " (credentials kept by a helper program cannot be used)"
	case http.StatusForbidden:
		e.class, e.words = errdefs.ErrPermissionDenied, "denies access"
		e.hint = login
	case http.StatusNotFound:
		e.class, e.words = errdefs.ErrNotFound, "has no such image"
		e.hint = "check name and tag; some registries say so of private images too: " + login
	case http.StatusTooManyRequests:
		e.class, e.words = errdefs.ErrResourceExhausted, "has reached its rate limit"
		e.hint = "wait (Docker Hub counts pulls by address over hours), or " + login + " for a higher limit, or name a mirror's image; or else " + withoutRegistry
	default:
		e.words = fmt.Sprintf("answers %d", err.StatusCode)
		if err.StatusCode < 500 {
			e.class = errdefs.ErrUnknown
		}
		e.hint = "try again later, or " + withoutRegistry
	}
}
