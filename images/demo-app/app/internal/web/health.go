package web

import (
	"context"
	"net/http"
	"time"
)

// databaseTimeout is how long /readyz waits for the database: less than the
// second that Kubernetes waits for a probe unless it is told otherwise.
const databaseTimeout = 800 * time.Millisecond

// healthz says whether the app should go on, or be killed and started anew. So
// it does not ask the database: a new start would not bring that back.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	settings, _ := s.board.Get()
	if !settings.Healthy {
		reply(w, http.StatusServiceUnavailable, map[string]string{"status": "unhealthy", "reason": "the knob healthy is false"})
		return
	}
	reply(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readyz says whether requests should be sent here now.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	settings, _ := s.board.Get()
	checks := map[string]string{"knob": "ok", "draining": "no", s.notes.Kind(): "ok"}
	status, summary := http.StatusOK, "ready"
	unready := func(check, reason string) {
		checks[check] = reason
		status, summary = http.StatusServiceUnavailable, "not ready"
	}
	if !settings.Ready {
		unready("knob", "the knob ready is false")
	}
	if s.draining.Load() {
		unready("draining", "yes")
	}
	ctx, cancel := context.WithTimeout(r.Context(), databaseTimeout)
	defer cancel()
	if err := s.notes.Ping(ctx); err != nil {
		unready(s.notes.Kind(), err.Error())
	}
	reply(w, status, map[string]any{"status": summary, "checks": checks})
}
