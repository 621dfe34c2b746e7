package stack

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Checker is a Stage that knows choices that it cannot follow as things are.
type Checker interface {
	// Check refuses them before anything is begun, or remembered. What it cannot
	// tell now it leaves to the stage's steps.
	Check(ctx context.Context, opts api.UpOptions) error
}

// Check refuses choices that name no service, or that the stages to bring up
// cannot follow.
func (g *Graph) Check(ctx context.Context, opts api.UpOptions) error {
	if opts.Nodes < 0 || opts.Nodes > maxNodes {
		return fmt.Errorf("a cluster of %d nodes: it may have 1 to %d: %w", opts.Nodes, maxNodes, errdefs.ErrInvalidArgument)
	}
	if err := g.checkPorts(opts.Ports); err != nil {
		return err
	}
	p, err := g.Up(opts)
	if err != nil {
		return err
	}
	for _, s := range g.stages {
		c, ok := s.(Checker)
		if !ok || !slices.ContainsFunc(p.nodes, func(n node) bool { return n.stage == s.Name() }) {
			continue
		}
		if err := c.Check(ctx, opts); err != nil {
			return err
		}
	}
	return nil
}

func (g *Graph) checkPorts(moved map[string]uint16) error {
	usual := map[string]uint16{}
	for _, s := range g.stages {
		maps.Copy(usual, choices(s).Ports)
	}
	names := slices.Sorted(maps.Keys(usual))
	for _, name := range slices.Sorted(maps.Keys(moved)) {
		if usual[name] == 0 {
			return fmt.Errorf("port of %q: the services are %s: %w", name, strings.Join(names, ", "), errdefs.ErrInvalidArgument)
		}
	}
	owner := map[uint16]string{}
	for _, name := range names {
		port := usual[name]
		if moved[name] != 0 {
			port = moved[name]
		}
		if other := owner[port]; other != "" {
			return WithHint(
				fmt.Errorf("%s and %s cannot both have port %d: %w", other, name, port, errdefs.ErrInvalidArgument),
				fmt.Sprintf("sudo sandbox up --port %s=%d --port %s=%d", other, usual[other], name, usual[name]),
			)
		}
		owner[port] = name
	}
	return nil
}

// Covers reports whether one `up` does all that another would, apart from the
// stages that it is about: by the choices of the other, if it has any, and for
// the same user.
func Covers(one, other api.UpOptions) bool {
	if other.Nodes != 0 && other.Nodes != one.Nodes || other.Archive != "" || other.Offline && !one.Offline {
		return false
	}
	for name, port := range other.Ports {
		if one.Ports[name] != port {
			return false
		}
	}
	return other.User == nil || one.User != nil && *one.User == *other.User
}
