package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/knobs"
	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/notes"
	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/web"
)

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := env[name]; return v, ok }
}

func TestParse(t *testing.T) {
	c, err := parse([]string{"-error-rate", "0.1", "-memory=64Mi"}, lookup(map[string]string{
		"PORT": "9000", "ERROR_RATE": "0.9", "LATENCY": "250ms", "DATABASE_URL": "postgres://db", "LOG_LEVEL": "debug", "CPU": "", "READY": "false",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := knobs.Defaults()
	want.ErrorRate, want.Memory, want.Latency, want.Ready = 0.1, 64<<20, knobs.Duration(250*time.Millisecond), false
	if c.knobs != want {
		t.Errorf("knobs %+v, want %+v", c.knobs, want)
	}
	if c.port != 9000 || c.databaseURL != "postgres://db" || c.logLevel != slog.LevelDebug {
		t.Errorf("%+v", c)
	}
}

func TestParseErrors(t *testing.T) {
	for want, in := range map[string]struct {
		args []string
		env  map[string]string
	}{
		`environment variable ERROR_RATE: invalid value "lots"`: {env: map[string]string{"ERROR_RATE": "lots"}},
		`invalid value "x" for flag -latency`:                   {args: []string{"-latency", "x"}},
		`error_rate: must be between 0 and 1`:                   {args: []string{"-error-rate", "2"}},
		`port 70000`:                                            {env: map[string]string{"PORT": "70000"}},
		`unexpected argument "serve"`:                           {args: []string{"serve"}},
		`must not be negative`:                                  {args: []string{"-drain-delay", "-1s"}},
	} {
		if _, err := parse(in.args, lookup(in.env)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if _, err := parse([]string{"-help"}, lookup(nil)); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-help: %v", err)
	}
	if u := usage(); !strings.Contains(u, "-crash-after") || !strings.Contains(u, "ERROR_RATE") {
		t.Error(u)
	}
}

// running is a server in this process, that the test can tell to end.
type running struct {
	port  int
	board *knobs.Board
	term  context.CancelFunc
	ended chan error
}

func launch(t *testing.T, cfg config) running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	board := knobs.NewBoard(knobs.Defaults())
	server := web.New(web.Info{Name: "demo-app"}, board, &notes.InMemory{}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	r := running{l.Addr().(*net.TCPAddr).Port, board, cancel, make(chan error, 1)}
	go func() { r.ended <- serve(ctx, l, server, cfg, func() {}) }()
	t.Cleanup(cancel)
	return r
}

func (r running) get(t *testing.T, path string) (status int, err error) {
	t.Helper()
	status, _, err = r.page(t, path)
	return status, err
}

func (r running) page(t *testing.T, path string) (status int, body string, err error) {
	t.Helper()
	// Not over a connection of an earlier request: the listener is of interest.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	rep, err := client.Get("http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) + path)
	if err != nil {
		return 0, "", err
	}
	defer rep.Body.Close()
	b, err := io.ReadAll(rep.Body)
	return rep.StatusCode, string(b), err
}

func TestHealthcheck(t *testing.T) {
	r := launch(t, config{shutdownTimeout: time.Second})
	if err := healthcheck(t.Context(), r.port); err != nil {
		t.Error(err)
	}
	if _, err := r.board.Patch([]byte(`{"healthy": false}`)); err != nil {
		t.Fatal(err)
	}
	if err := healthcheck(t.Context(), r.port); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("an unhealthy app: %v", err)
	}
	r.term()
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
	if err := healthcheck(t.Context(), r.port); err == nil {
		t.Error("an app that has ended is healthy")
	}
}

// While it drains the app is unready, and answers nevertheless; a request that
// is under way at the end is finished.
func TestShutdownLosesNoRequest(t *testing.T) {
	r := launch(t, config{drainDelay: 2 * time.Second, shutdownTimeout: 20 * time.Second})
	if _, err := r.get(t, "/"); err != nil {
		t.Fatal(err)
	}
	r.term()
	for status := 0; status != http.StatusServiceUnavailable; {
		var err error
		if status, err = r.get(t, "/readyz"); err != nil {
			t.Fatalf("/readyz while it drains: %v", err)
		}
	}
	if status, err := r.get(t, "/"); err != nil || status != http.StatusOK {
		t.Errorf("a request while it drains: %d, %v", status, err)
	}
	if _, err := r.board.Patch([]byte(`{"latency": "3s"}`)); err != nil { // longer than it drains
		t.Fatal(err)
	}
	if status, err := r.get(t, "/"); err != nil || status != http.StatusOK {
		t.Errorf("a request under way at the end: %d, %v", status, err)
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if _, err := r.get(t, "/healthz"); err == nil {
		t.Error("it still answers")
	}
}

func TestShutdownHasAnEnd(t *testing.T) {
	r := launch(t, config{shutdownTimeout: 100 * time.Millisecond})
	if _, err := r.board.Patch([]byte(`{"latency": "30s"}`)); err != nil {
		t.Fatal(err)
	}
	cut := make(chan error, 1)
	go func() { _, err := r.get(t, "/"); cut <- err }()
	for body := ""; !strings.Contains(body, "http_requests_in_flight 2\n"); { // it, and the one that asks
		var err error
		if _, body, err = r.page(t, "/metrics"); err != nil {
			t.Fatal(err)
		}
	}
	r.term()
	if err := <-r.ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if err := <-cut; err == nil {
		t.Error("a request of 30s was answered")
	}
}
