// Command demo-app is a small web service to practise on: it does little, says
// much about itself, and breaks in whatever way its knobs are turned.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/knobs"
	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/notes"
	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/trouble"
	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/web"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "dev"

func main() {
	cfg, err := parse(os.Args[1:], os.LookupEnv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage())
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo-app:", err)
		os.Exit(2)
	}
	if cfg.healthcheck {
		err = healthcheck(context.Background(), cfg.port)
	} else {
		err = run(cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo-app:", err)
		os.Exit(1)
	}
}

// run serves until SIGTERM or SIGINT, and then ends in the way that loses no
// request; see serve.
func run(cfg config) error {
	log := slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{Level: cfg.logLevel}))
	term, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	store, err := openNotes(cfg.databaseURL)
	if err != nil {
		return err
	}
	defer store.Close()

	board := knobs.NewBoard(cfg.knobs)
	go trouble.Run(term, board, log, func(code int) {
		log.Error("crashing", "exit_code", code)
		os.Exit(code)
	})

	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	server := web.New(web.Info{
		Name: "demo-app", Version: cfg.version, Environment: cfg.environment,
		Hostname: hostname, Started: time.Now().UTC().Truncate(time.Second),
	}, board, store, log)

	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(cfg.port)))
	if err != nil {
		return err
	}
	log.Info("serving", "address", listener.Addr().String(), "version", cfg.version,
		"environment", cfg.environment, "notes", store.Kind(), "knobs", cfg.knobs)
	err = serve(term, listener, server, cfg, func() {
		stop() // a second signal ends the app at once
		log.Info("draining", "for", cfg.drainDelay.String())
	})
	log.Info("stopped")
	return err
}

// serve answers requests until term ends. Then, in this order: /readyz fails;
// requests are still taken for the drain delay, since it takes a while until
// everybody who sends them has heard; the listener is closed; what is under
// way is finished, if it does not take longer than the shutdown timeout.
func serve(term context.Context, listener net.Listener, server *web.Server, cfg config, draining func()) error {
	h := &http.Server{
		Handler:           server.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      2*knobs.MaxDelay + 30*time.Second,
		IdleTimeout:       time.Minute,
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-term.Done():
	}
	draining()
	server.Drain()
	select {
	case err := <-failed:
		return err
	case <-time.After(cfg.drainDelay):
	}
	ctx, cancel := context.WithTimeout(context.Background(), cfg.shutdownTimeout)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("requests were cut off: %w", err), h.Close())
	}
	return nil
}

func openNotes(url string) (notes.Store, error) {
	if url == "" {
		return &notes.InMemory{}, nil
	}
	return notes.Open(context.Background(), url)
}
