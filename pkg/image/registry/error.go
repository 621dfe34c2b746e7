package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"
)

// Codes of distribution-spec, "Error Codes".
const (
	codeBlobUnknown     = "BLOB_UNKNOWN"
	codeDenied          = "DENIED"
	codeDigestInvalid   = "DIGEST_INVALID"
	codeManifestInvalid = "MANIFEST_INVALID"
	codeManifestUnknown = "MANIFEST_UNKNOWN"
	codeNameInvalid     = "NAME_INVALID"
	codeNameUnknown     = "NAME_UNKNOWN"
	codeTooMany         = "TOOMANYREQUESTS"
	codeUnsupported     = "UNSUPPORTED"

	// As docker's own registry has them.
	codePagination  = "PAGINATION_NUMBER_INVALID"
	codeUnavailable = "UNAVAILABLE"
	codeUnknown     = "UNKNOWN"
)

// apiError is an error in the words of the specification.
type apiError struct {
	status  int
	code    string
	message string
}

func (e *apiError) Error() string { return e.message }

// There is no code for it; docker's own registry answers 404 as well.
var noSuchPath = &apiError{http.StatusNotFound, codeUnsupported, "the distribution API has no such path"}

// unknown turns "not found" into the code for what was not found.
func unknown(err error, code, message string) error {
	if errdefs.IsNotFound(err) {
		return &apiError{http.StatusNotFound, code, message + ": " + err.Error()}
	}
	return err
}

// fail answers with an error. What upstream says to us is not for the client
// to act upon: it has no credentials there to offer.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := errors.AsType[*apiError](err)
	switch {
	case ok:
	case errors.Is(err, context.Canceled):
		e = &apiError{http.StatusServiceUnavailable, codeUnavailable, err.Error()}
	case errdefs.IsNotImplemented(err), errdefs.IsInvalidArgument(err):
		e = &apiError{http.StatusNotFound, codeManifestUnknown, err.Error()}
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		e = &apiError{http.StatusForbidden, codeDenied, err.Error()}
	case errdefs.IsResourceExhausted(err):
		e = &apiError{http.StatusTooManyRequests, codeTooMany, err.Error()}
	case errdefs.IsUnavailable(err):
		e = &apiError{http.StatusServiceUnavailable, codeUnavailable, err.Error()}
	default:
		e = &apiError{http.StatusInternalServerError, codeUnknown, err.Error()}
	}
	if e.status >= http.StatusInternalServerError {
		h.log.Warn("registry request failed", zap.String("path", r.URL.Path), zap.Error(err))
	}
	refuse(w, e.status, e.code, e.message)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	type detail struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that is gone needs no answer.
	_ = json.NewEncoder(w).Encode(map[string][]detail{"errors": {{code, message}}})
}

func sendJSON(w http.ResponseWriter, r *http.Request, mediaType string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(data) // a client that is gone needs no answer
	}
	return nil
}
