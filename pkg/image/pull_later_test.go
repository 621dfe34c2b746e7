package image

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestPullLater(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	u.push(t, newArchive(t, "x", noiseLayer(t, 1<<10)), "app", "latest")
	refused := map[string]bool{}
	after := "0"
	u.fault = func(w http.ResponseWriter, r *http.Request) bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		if refused[r.URL.Path] {
			return false
		}
		refused[r.URL.Path] = true
		w.Header().Set("Retry-After", after)
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	if _, err := s.Pull(t.Context(), u.host+"/app", PullOptions{}); err != nil || !refused["/v2/"] || len(refused) < 5 {
		t.Errorf("each request refused once: %v, %v", err, refused)
	}
	u.idle()
	clear(refused)
	after = "3600"
	begin := time.Now()
	_, err := newStore(t).Pull(t.Context(), u.host+"/app", PullOptions{})
	if !errdefs.IsResourceExhausted(err) || time.Since(begin) > laterMost {
		t.Errorf("to come again in an hour: %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	date := func(in time.Duration) string { return time.Now().Add(in).UTC().Format(http.TimeFormat) }
	for header, want := range map[string]bool{
		"": false, "0": true, "10": true, "11": false, "-1": false, "soon": false, "99999999999999999999": false,
		date(5 * time.Second): true, date(-time.Hour): true, date(time.Hour): false,
	} {
		if wait, ok := retryAfter(header); ok != want || ok && (wait < 0 || wait > laterMost) {
			t.Errorf("%q: %v, %t", header, wait, ok)
		}
	}
}

// What a registry sends too much, or too little, is its fault, and is called so.
func TestPullWrongLength(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	u.push(t, newArchive(t, "x", noiseLayer(t, 1<<16)), "app", "latest")
	change := func(body []byte) []byte { return append(body, "more"...) }
	u.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		rec := httptest.NewRecorder()
		u.Handler.ServeHTTP(rec, r)
		_, _ = w.Write(change(rec.Body.Bytes()))
		return true
	}
	if _, err := s.Pull(t.Context(), u.host+"/app", PullOptions{}); !errdefs.IsDataLoss(err) {
		t.Errorf("more than the descriptor says: %v", err)
	}
	u.idle()
	change = func([]byte) []byte { return nil }
	_, err := newStore(t).Pull(t.Context(), u.host+"/app", PullOptions{})
	if _, ok := errors.AsType[*RegistryError](err); !ok || !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "breaks off") {
		t.Errorf("nothing: %v", err)
	}
}

// Credentials are for the registry, and for nobody that it sends us to.
func TestPullRedirected(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		s, u := newStore(t), newUpstream(t)
		u.push(t, newArchive(t, "x", noiseLayer(t, 1<<10)), "app", "latest")
		var leaked string
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u.mu.Lock()
			leaked += r.Header.Get("Authorization")
			u.mu.Unlock()
			u.Handler.ServeHTTP(w, r)
		}))
		defer other.Close()
		u.fault = func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.URL.Path == "/token":
				_, _ = w.Write([]byte(`{"token":"letmein"}`))
			case !strings.HasPrefix(r.Header.Get("Authorization"), scheme+" "):
				w.Header().Set("WWW-Authenticate", scheme+` realm="http://`+u.host+`/token"`)
				w.WriteHeader(http.StatusUnauthorized)
			case strings.Contains(r.URL.Path, "/blobs/"):
				http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
			default:
				return false
			}
			return true
		}
		if _, err := s.Pull(t.Context(), u.host+"/app", PullOptions{ConfigDir: dockerLogin(t, u.host)}); err != nil || leaked != "" {
			t.Errorf("%s: %v, the other host got %q", scheme, err, leaked)
		}
	}
}
