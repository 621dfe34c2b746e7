package web

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/knobs"
	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/notes"
)

// broken is a store whose database is not there.
type broken struct{ notes.InMemory }

var errBroken = errors.New("connection refused")

func (*broken) Ping(context.Context) error                      { return errBroken }
func (*broken) List(context.Context) ([]notes.Note, error)      { return nil, errBroken }
func (*broken) Add(context.Context, string) (notes.Note, error) { return notes.Note{}, errBroken }
func (*broken) Kind() string                                    { return "postgres" }

func newServer(store notes.Store) *Server {
	return New(Info{Name: "demo-app", Version: "1.2.3", Environment: "test", Hostname: "here"},
		knobs.NewBoard(knobs.Defaults()), store, slog.New(slog.DiscardHandler))
}

type request struct {
	method, path, body string
	header             map[string]string
}

func (r request) to(t *testing.T, s *Server) (status int, body string, header http.Header) {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), r.method, r.path, strings.NewReader(r.body))
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, req)
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(b), w.Result().Header
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name   string
		knobs  string
		broken bool
		request
		status int
		want   string // in the body
	}{
		{name: "home", request: request{method: "GET", path: "/"}, status: 200, want: `"hostname": "here"`},
		{name: "home of a browser", request: request{method: "GET", path: "/", header: map[string]string{"Accept": "text/html,*/*"}}, status: 200, want: "<h1>demo-app <small>1.2.3</small></h1>"},
		{name: "version", request: request{method: "GET", path: "/version"}, status: 200, want: `"version": "1.2.3"`},
		{name: "no page", request: request{method: "GET", path: "/nothing"}, status: 404},
		{name: "no method", request: request{method: "DELETE", path: "/notes"}, status: 405},

		{name: "healthy", request: request{method: "GET", path: "/healthz"}, status: 200, want: `"ok"`},
		{name: "unhealthy", knobs: `{"healthy": false}`, request: request{method: "GET", path: "/healthz"}, status: 503, want: "healthy is false"},
		{name: "healthy without its database", broken: true, request: request{method: "GET", path: "/healthz"}, status: 200},
		{name: "ready", request: request{method: "GET", path: "/readyz"}, status: 200, want: `"memory": "ok"`},
		{name: "unready", knobs: `{"ready": false}`, request: request{method: "GET", path: "/readyz"}, status: 503, want: "ready is false"},
		{name: "unready without its database", broken: true, request: request{method: "GET", path: "/readyz"}, status: 503, want: `"postgres": "connection refused"`},

		{name: "an error", knobs: `{"error_rate": 1}`, request: request{method: "GET", path: "/"}, status: 500, want: "error_rate"},
		{name: "no error of what is asked by the platform", knobs: `{"error_rate": 1}`, request: request{method: "GET", path: "/healthz"}, status: 200},
		{name: "knobs", knobs: `{"latency": "20ms"}`, request: request{method: "GET", path: "/knobs"}, status: 200, want: `"latency": "20ms"`},
		{name: "a knob", request: request{method: "POST", path: "/knobs", body: `{"cpu": 0.5}`}, status: 200, want: `"cpu": 0.5`},
		{name: "no such knob", request: request{method: "POST", path: "/knobs", body: `{"gpu": 1}`}, status: 400, want: `unknown field`},
		{name: "a knob from another site", request: request{method: "POST", path: "/knobs", body: `{}`, header: map[string]string{"Sec-Fetch-Site": "cross-site"}}, status: 403},
		{name: "reset", knobs: `{"cpu": 1}`, request: request{method: "POST", path: "/knobs/reset"}, status: 200, want: `"cpu": 0`},

		{name: "work", request: request{method: "GET", path: "/work?ms=5"}, status: 200, want: `"ms": `},
		{name: "work without end", request: request{method: "GET", path: "/work?ms=10001"}, status: 400, want: "between 0 and 10000"},
		{name: "stress", request: request{method: "POST", path: "/stress?cpu=0.5&memory=2Mi&for=10ms"}, status: 200, want: `"memory": "2Mi"`},
		{name: "too much stress", request: request{method: "POST", path: "/stress?memory=3Gi"}, status: 400, want: "between 0 and 2Gi"},
		{name: "stress too long", request: request{method: "POST", path: "/stress?for=1h"}, status: 400},
		{name: "stress of too many cores", request: request{method: "POST", path: "/stress?cpu=NaN"}, status: 400},

		{name: "no notes", request: request{method: "GET", path: "/notes"}, status: 200, want: "[]"},
		{name: "a note", request: request{method: "POST", path: "/notes", body: `{"text": "hello"}`}, status: 201, want: `"id": 1`},
		{name: "no note", request: request{method: "POST", path: "/notes", body: `{}`}, status: 400, want: "between 1 and 1000"},
		{name: "what is no JSON", request: request{method: "POST", path: "/notes", body: "hello"}, status: 400, want: "JSON"},
		{name: "too large a note", request: request{method: "POST", path: "/notes", body: strings.Repeat("x", maxBody+1)}, status: 400, want: "too large"},
		{name: "notes without their database", broken: true, request: request{method: "GET", path: "/notes"}, status: 503, want: "connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var store notes.Store = &notes.InMemory{}
			if c.broken {
				store = &broken{}
			}
			s := newServer(store)
			if c.knobs != "" {
				if _, err := s.board.Patch([]byte(c.knobs)); err != nil {
					t.Fatal(err)
				}
			}
			status, body, _ := c.request.to(t, s)
			if status != c.status || !strings.Contains(body, c.want) {
				t.Errorf("%d %s, want %d and %q", status, body, c.status, c.want)
			}
		})
	}
}

func TestDraining(t *testing.T) {
	s := newServer(&notes.InMemory{})
	s.Drain()
	if status, body, _ := (request{method: "GET", path: "/readyz"}).to(t, s); status != 503 || !strings.Contains(body, `"draining": "yes"`) {
		t.Errorf("/readyz: %d %s", status, body)
	}
	for _, path := range []string{"/", "/healthz"} {
		if status, _, _ := (request{method: "GET", path: path}).to(t, s); status != 200 {
			t.Errorf("%s is %d while the server drains", path, status)
		}
	}
}

func TestNotesAreListedNewestFirst(t *testing.T) {
	s := newServer(&notes.InMemory{})
	for range notes.Limit + 5 {
		request{method: "POST", path: "/notes", body: `{"text": "n"}`}.to(t, s)
	}
	_, body, _ := request{method: "GET", path: "/notes"}.to(t, s)
	var list []notes.Note
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != notes.Limit || list[0].ID != notes.Limit+5 || list[1].ID != notes.Limit+4 {
		t.Errorf("%d notes, the first %+v", len(list), list[0])
	}
}

func TestLatency(t *testing.T) {
	s := newServer(&notes.InMemory{})
	if _, err := s.board.Patch([]byte(`{"latency": "60ms", "jitter": "10ms"}`)); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	request{method: "GET", path: "/"}.to(t, s)
	if took := time.Since(begun); took < 60*time.Millisecond {
		t.Errorf("it took %s", took)
	}
}

func TestRequestID(t *testing.T) {
	s := newServer(&notes.InMemory{})
	for sent, taken := range map[string]bool{"abc-123": true, "": false, "a b": false, strings.Repeat("x", 65): false} {
		_, body, header := request{method: "GET", path: "/", header: map[string]string{"X-Request-ID": sent}}.to(t, s)
		got := header.Get("X-Request-ID")
		if got == "" || (got == sent) != taken {
			t.Errorf("%q was answered with %q", sent, got)
		}
		if !strings.Contains(body, got) {
			t.Errorf("the body does not have %q: %s", got, body)
		}
	}
}

func TestMetrics(t *testing.T) {
	s := newServer(&notes.InMemory{})
	request{method: "GET", path: "/"}.to(t, s)
	request{method: "GET", path: "/some/where"}.to(t, s)
	request{method: "BREW", path: "/"}.to(t, s)
	if _, err := s.board.Patch([]byte(`{"error_rate": 1, "latency": "10ms"}`)); err != nil {
		t.Fatal(err)
	}
	request{method: "GET", path: "/notes"}.to(t, s)
	_, body, _ := request{method: "GET", path: "/metrics"}.to(t, s)
	for _, want := range []string{
		`http_requests_total{method="GET",path="/",status="200"} 1`,
		`http_requests_total{method="GET",path="/notes",status="500"} 1`,
		`http_requests_total{method="GET",path="other",status="404"} 1`,
		`http_requests_total{method="other",path="other",status="405"} 1`,
		`http_request_duration_seconds_count{method="GET",path="/notes"} 1`,
		`http_requests_in_flight 1`, // the one that asks
		`build_info{environment="test",goversion="go`,
		`demo_app_knob{knob="latency"} 0.01`,
		`process_resident_memory_bytes`, `go_goroutines`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("there is no %s", want)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
}
