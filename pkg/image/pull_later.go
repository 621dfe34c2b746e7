package image

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"
)

// A registry that is asked too often may say when to come again. Moments are
// waited for; Docker Hub's hours are the user's to decide about.
const (
	laterTries = 3
	laterMost  = 10 * time.Second
)

// patient comes again when it is told to.
type patient struct{ inner http.RoundTripper }

func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	for tries := 1; ; tries++ {
		resp, err := p.inner.RoundTrip(r)
		if err != nil || resp.StatusCode != http.StatusTooManyRequests || tries > laterTries || r.Body != nil && r.Body != http.NoBody {
			return resp, err
		}
		wait, ok := retryAfter(resp.Header.Get("Retry-After"))
		if !ok {
			return resp, nil
		}
		// Read, a short answer leaves its connection for the next request.
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
		resp.Body.Close()
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
			return nil, context.Cause(r.Context())
		}
	}
}

// retryAfter reads a number of seconds or a date (RFC 9110, 10.2.3); ok is
// false for what is not worth to wait for.
func retryAfter(header string) (wait time.Duration, ok bool) {
	seconds, err := strconv.ParseInt(header, 10, 32)
	wait = time.Duration(seconds) * time.Second
	if err != nil {
		at, err := http.ParseTime(header)
		if err != nil {
			return 0, false
		}
		wait = max(time.Until(at), 0)
	}
	return wait, wait >= 0 && wait <= laterMost
}
