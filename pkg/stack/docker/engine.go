// Package docker is the stage that has a Docker engine ready, and what other
// stages run their services in.
package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// Labels of everything that the stack makes in Docker.
const (
	LabelStage = "io.sandboxlabs.stage"
	// LabelState is the state folder of the sandbox that made it: another's
	// stack is left alone.
	LabelState = "io.sandboxlabs.state"
	// labelSpec is the digest of what a container was made of.
	labelSpec = "io.sandboxlabs.spec"
)

// Config is what an Engine needs.
type Config struct {
	// Host is the engine's address; "" for DOCKER_HOST, or the usual socket.
	Host string
	// State is the folder of this sandbox's state.
	State string
	// Images brings in what services run.
	Images stack.Images
	// Registry tells the address of the store's endpoint on this host.
	Registry func() string
	// Serve makes the registry endpoint answer at an address of this host,
	// without port: that of the network's gateway, which containers reach.
	Serve func(ctx context.Context, gateway netip.Addr) error
	// PortOwner names the process that listens on a port of this host; "" when
	// that cannot be told.
	PortOwner func(addr netip.AddrPort) string
	Log       *zap.Logger
}

// Engine is the Docker engine of this host. Its methods say what is wrong with
// it and what to do.
type Engine struct {
	Config

	mu     sync.Mutex
	client *client.Client
}

// New returns an engine that is not connected yet.
func New(cfg Config) *Engine {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Engine{Config: cfg}
}

// Client returns the API client, which negotiates the version: engines from
// 20.10 (API 1.41) to 29 (at least 1.44) are in use. It does not connect yet.
func (e *Engine) Client() (*client.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, nil
	}
	opts := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if e.Host != "" {
		opts = append(opts, client.WithHost(e.Host))
	}
	c, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, fmt.Errorf("docker: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	e.client = c
	return c, nil
}

// Close ends idle connections.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client == nil {
		return nil
	}
	return e.client.Close()
}

// absent reports whether err says that there is no engine to ask: what the
// stack had in it is then gone, or out of reach.
func absent(err error) bool {
	return client.IsErrConnectionFailed(err) || errors.Is(err, fs.ErrNotExist)
}

// explain makes an error of the client say what to do about it.
func (e *Engine) explain(err error) error {
	if err == nil || !absent(err) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	address := e.address()
	socket, unix := strings.CutPrefix(address, "unix://")
	switch _, serr := os.Stat(socket); {
	case !unix:
		return stack.WithHint(fmt.Errorf("no Docker engine answers at %s: %w", address, errdefs.ErrFailedPrecondition), "DOCKER_HOST says where it is: is that right?")
	case errors.Is(err, fs.ErrPermission):
		return stack.WithHint(fmt.Errorf("the Docker engine at %s may not be used: %w", socket, errdefs.ErrPermissionDenied), "run sandbox's daemon as root: sudo sandbox up")
	case errors.Is(serr, fs.ErrNotExist):
		return stack.WithHint(
			fmt.Errorf("no Docker engine runs: there is no %s: %w", socket, errdefs.ErrFailedPrecondition),
			"sudo sandbox doctor --fix installs the distribution's; or go on without what needs it: sudo sandbox up --without "+Name,
		)
	}
	return stack.WithHint(fmt.Errorf("the Docker engine at %s does not answer: %w", socket, errdefs.ErrFailedPrecondition), "sudo systemctl restart docker; its log: journalctl -u docker")
}

func (e *Engine) address() string {
	if c, err := e.Client(); err == nil {
		return c.DaemonHost()
	}
	return client.DefaultDockerHost
}

// Labels are those of what a stage makes.
func (e *Engine) Labels(stage string) map[string]string {
	return map[string]string{LabelStage: stage, LabelState: e.State}
}

// ofStage selects what a stage has made; "" what any has.
func (e *Engine) ofStage(stage string) filters.Args {
	label := LabelStage
	if stage != "" {
		label += "=" + stage
	}
	return filters.NewArgs(filters.Arg("label", label), filters.Arg("label", LabelState+"="+e.State))
}

// inTheWay is the error about a thing that is not ours and has our name; nil
// if it is ours.
func (e *Engine) inTheWay(what string, labels map[string]string, hint string) error {
	state, ok := labels[LabelState]
	switch {
	case ok && state == e.State:
		return nil
	case ok:
		return stack.WithHint(
			fmt.Errorf("%s is in the way: it is of another sandbox, with the state folder %s: %w", what, state, errdefs.ErrAlreadyExists),
			"take that down first: sudo sandbox --state-dir "+state+" down",
		)
	}
	return stack.WithHint(fmt.Errorf("%s is in the way: Docker has one of that name that sandbox did not make: %w", what, errdefs.ErrAlreadyExists), hint)
}
