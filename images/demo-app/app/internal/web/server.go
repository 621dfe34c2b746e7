// Package web is what the app answers over HTTP.
package web

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/knobs"
	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/notes"
)

// Info is who answers.
type Info struct {
	Name        string    `json:"name"`
	Version     string    `json:"version"`
	Environment string    `json:"environment"`
	Hostname    string    `json:"hostname"`
	Started     time.Time `json:"started"`
}

// Server is the app's web server, but for the network.
type Server struct {
	info    Info
	board   *knobs.Board
	notes   notes.Store
	log     *slog.Logger
	metrics *metrics

	draining  atomic.Bool
	stressing atomic.Bool
}

// New returns a server that answers as info says.
func New(info Info, board *knobs.Board, store notes.Store, log *slog.Logger) *Server {
	return &Server{info: info, board: board, notes: store, log: log, metrics: newMetrics(info, board)}
}

// Drain makes the server say that it is not ready, so that nobody sends it new
// requests. It goes on answering those that come.
func (s *Server) Drain() { s.draining.Store(true) }

// Handler routes requests. What the knobs break are the app's own pages: what
// the platform asks, and the knobs themselves, always work.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", s.troubled(s.home))
	mux.Handle("GET /notes", s.troubled(s.listNotes))
	mux.Handle("POST /notes", s.troubled(s.addNote))
	mux.Handle("GET /work", s.troubled(s.work))

	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /version", s.version)
	mux.Handle("GET /metrics", s.metrics.handler())

	mux.HandleFunc("GET /knobs", s.getKnobs)
	mux.HandleFunc("POST /knobs", s.setKnobs)
	mux.HandleFunc("POST /knobs/reset", s.resetKnobs)
	mux.HandleFunc("POST /stress", s.stress)

	// A page of another site that happens to be open in the learner's browser
	// turns no knobs.
	guarded := http.NewCrossOriginProtection().Handler(mux)
	return s.identified(s.observed(mux, guarded))
}

// home says who answers: to a browser by a page, to anything else in JSON.
func (s *Server) home(w http.ResponseWriter, r *http.Request) {
	settings, _ := s.board.Get()
	answer := struct {
		Info
		RequestID string         `json:"request_id"`
		Notes     string         `json:"notes"`
		Knobs     knobs.Settings `json:"knobs"`
	}{s.info, requestID(r.Context()), s.notes.Kind(), settings}
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		renderPage(w, answer, s.info)
		return
	}
	reply(w, http.StatusOK, answer)
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, s.info)
}

func (s *Server) listNotes(w http.ResponseWriter, r *http.Request) {
	list, err := s.notes.List(r.Context())
	if err != nil {
		s.fail(w, r, http.StatusServiceUnavailable, err)
		return
	}
	reply(w, http.StatusOK, list)
}

func (s *Server) addNote(w http.ResponseWriter, r *http.Request) {
	body, ok := s.body(w, r)
	if !ok {
		return
	}
	var note struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(body, &note); err != nil {
		s.fail(w, r, http.StatusBadRequest, errors.New(`notes: a JSON object is expected, such as {"text": "hello"}`))
		return
	}
	if note.Text == "" || len(note.Text) > notes.MaxText || strings.ContainsRune(note.Text, 0) {
		s.fail(w, r, http.StatusBadRequest, errors.New("notes: text must have between 1 and 1000 bytes, none of them 0"))
		return
	}
	added, err := s.notes.Add(r.Context(), note.Text)
	if err != nil {
		s.fail(w, r, http.StatusServiceUnavailable, err)
		return
	}
	reply(w, http.StatusCreated, added)
}

// maxBody is how much of a request's body is read, in bytes.
const maxBody = 64 << 10

// body reads a request's body; if it cannot, it has answered.
func (s *Server) body(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		s.fail(w, r, http.StatusBadRequest, err)
		return nil, false
	}
	return b, true
}

// fail answers with an error, in JSON like everything else. What is the
// client's doing is not logged as an error of the app.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	if status >= http.StatusInternalServerError {
		s.log.ErrorContext(r.Context(), err.Error(), "request_id", requestID(r.Context()))
	}
	reply(w, status, map[string]string{"error": err.Error(), "request_id": requestID(r.Context())})
}

func reply(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(answer) // the client has gone: nobody is left to be told
}
