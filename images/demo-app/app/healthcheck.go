package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// healthcheck asks the app that listens on port for its health. The image has
// no curl that its HEALTHCHECK could run, so the app is its own.
func healthcheck(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	url := "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) + "/healthz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	rep, err := http.DefaultTransport.RoundTrip(req) // which asks no proxy for 127.0.0.1
	if err != nil {
		return fmt.Errorf("healthcheck: %w", err)
	}
	defer rep.Body.Close()
	if rep.StatusCode != http.StatusOK {
		return fmt.Errorf("healthcheck: %s", rep.Status)
	}
	return nil
}
