// Package kube asks a Kubernetes API server, as its administrator, and reads of
// the answers what tells whether a cluster is ready. It is a few requests over
// HTTPS; what changes a cluster is kubectl's work, which every node has.
package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/stack/cluster/kubeconfig"
)

const (
	// timeout bounds one request: a server that starts accepts some and answers
	// none.
	timeout = 10 * time.Second
	// answerLimit is above the size of any list of a cluster on one machine.
	answerLimit = 64 << 20 // bytes
)

// Client asks one API server.
type Client struct {
	http   *http.Client
	server string
}

// New returns a client of the server that e names, with e's certificates. It
// does not connect yet.
func New(e kubeconfig.Entry) (*Client, error) {
	cert, err := tls.X509KeyPair(e.ClientCert, e.ClientKey)
	if err != nil {
		return nil, fmt.Errorf("certificate for cluster %s: %w", e.Name, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(e.CA) {
		return nil, fmt.Errorf("certificate for cluster %s: the authority's is not PEM: %w", e.Name, errdefs.ErrInvalidArgument)
	}
	return &Client{server: e.Server, http: &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true,
			// The server is on this machine: there is no proxy to it.
		},
	}}, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get reads the object or list at path, such as /api/v1/nodes, into v.
func (c *Client) Get(ctx context.Context, path string, v any) error {
	b, err := c.get(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// Live reports whether the server is ready (/readyz): nil, or why not.
func (c *Client) Live(ctx context.Context) error {
	_, err := c.get(ctx, "/readyz")
	return err
}

func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, answerLimit))
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w: %w", path, err, errdefs.ErrUnavailable)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, refusal(path, answer, b)
	}
	return b, nil
}

// refusal makes an error of a Status, the body of an answer that is none.
func refusal(path string, answer *http.Response, body []byte) error {
	var status struct{ Message string }
	if json.Unmarshal(body, &status) != nil || status.Message == "" {
		status.Message = answer.Status
	}
	class := error(errdefs.ErrUnavailable)
	switch answer.StatusCode {
	case http.StatusNotFound:
		class = errdefs.ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		class = errdefs.ErrPermissionDenied
	}
	return fmt.Errorf("GET %s: %s: %w", path, status.Message, class)
}
