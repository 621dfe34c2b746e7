package web

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

type requestIDKey struct{}

// requestID is what ties the answer, the log lines and the caller's own log
// lines of one request together.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

var requestIDPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// identified gives each request an ID: the caller's, if it has sent a sane one.
func (s *Server) identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-ID")
		if !requestIDPattern.MatchString(id) {
			id = rand.Text()
		}
		w.Header().Set("X-Request-ID", id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id)))
	})
}

// observed measures and logs what next answers.
func (s *Server) observed(mux *http.ServeMux, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		path := route(mux, r)
		s.metrics.inFlight.Inc()
		defer s.metrics.inFlight.Dec()
		answer := &recorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(answer, r)

		took := time.Since(begun)
		s.metrics.requests.WithLabelValues(method(r), path, strconv.Itoa(answer.status)).Inc()
		s.metrics.duration.WithLabelValues(method(r), path).Observe(took.Seconds())
		s.log.Log(r.Context(), level(path, answer.status), "request",
			"method", r.Method, "path", r.URL.Path, "status", answer.status, "seconds", took.Seconds(),
			"remote", r.RemoteAddr, "request_id", requestID(r.Context()))
	})
}

// route is the path as the app knows it. What a client asks for must not be a
// label's value: each one would become a series of its own, without end.
func route(mux *http.ServeMux, r *http.Request) string {
	_, pattern := mux.Handler(r)
	_, path, ok := strings.Cut(pattern, " ")
	if !ok {
		return "other"
	}
	return strings.TrimSuffix(path, "{$}")
}

// method is bounded likewise.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
		return r.Method
	}
	return "other"
}

// level keeps what is asked every few seconds out of the log, unless it fails.
func level(path string, status int) slog.Level {
	if status < http.StatusInternalServerError && (path == "/healthz" || path == "/readyz" || path == "/metrics") {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// recorder remembers an answer's status.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
