package docker

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/stack"
)

const (
	// NetworkName is Docker's network for everything that the stack runs: the
	// nodes of the cluster and the services reach each other in it by name.
	NetworkName = "sandbox"
	// bridgeName is the network's link on the host.
	bridgeName = "sandbox-docker"
	// resumeFor is how long a machine may take from the start of the daemon to
	// that of Docker.
	resumeFor  = 5 * time.Minute
	resumePoll = 2 * time.Second
)

// network makes the network, unless it is there, and has the store's endpoint
// answer at its gateway.
func (s *Stage) network(ctx context.Context, p stack.Progress) error {
	c, err := s.engine.Client()
	if err != nil {
		return err
	}
	note := "already there"
	have, err := s.engine.inspectNetwork(ctx, c)
	if errdefs.IsNotFound(err) {
		note = "made"
		have, err = s.engine.createNetwork(ctx, c)
	}
	if err != nil {
		return s.engine.explain(err)
	}
	gateway, err := gatewayOf(have)
	if err != nil {
		return err
	}
	if err := s.engine.Serve(ctx, gateway); err != nil {
		return fmt.Errorf("serve images at %s: %w", gateway, err)
	}
	p.Note("%s, gateway %s", note, gateway)
	return nil
}

// Resume has the endpoint answer at the gateway again if the network is there:
// after a reboot Docker starts the nodes of the cluster by itself, and they pull
// before anybody says `up`. Docker may start later than this process.
func (e *Engine) Resume(ctx context.Context) {
	tick := time.NewTicker(resumePoll)
	defer tick.Stop()
	for end := time.Now().Add(resumeFor); time.Now().Before(end); {
		err := e.resume(ctx)
		if err == nil {
			return
		}
		e.Log.Debug("serve images to Docker's network", zap.Error(err))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (e *Engine) resume(ctx context.Context) error {
	c, err := e.Client()
	if err != nil {
		return err
	}
	have, err := e.inspectNetwork(ctx, c)
	if errdefs.IsNotFound(err) || errdefs.IsAlreadyExists(err) {
		return nil // nothing of ours
	}
	if err != nil {
		return err
	}
	gateway, err := gatewayOf(have)
	if err != nil {
		return err
	}
	return e.Serve(ctx, gateway)
}

func (e *Engine) createNetwork(ctx context.Context, c *client.Client) (network.Inspect, error) {
	look := func() (network.Inspect, error) { return e.inspectNetwork(ctx, c) }
	_, err := c.NetworkCreate(ctx, NetworkName, network.CreateOptions{
		Driver: "bridge",
		Labels: e.Labels(Name),
		Options: map[string]string{
			"com.docker.network.bridge.name": bridgeName,
		},
	})
	if err != nil {
		return underWay(ctx, fmt.Errorf("create network %s: %w", NetworkName, err), look)
	}
	return look()
}

func (e *Engine) inspectNetwork(ctx context.Context, c *client.Client) (network.Inspect, error) {
	have, err := c.NetworkInspect(ctx, NetworkName, network.InspectOptions{})
	if err != nil {
		return have, fmt.Errorf("inspect network %s: %w", NetworkName, err)
	}
	return have, e.inTheWay("network "+NetworkName, have.Labels, "remove it: docker network rm "+NetworkName)
}

func gatewayOf(n network.Inspect) (netip.Addr, error) {
	for _, c := range n.IPAM.Config {
		if addr, err := netip.ParseAddr(c.Gateway); err == nil && addr.Is4() {
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("network %s has no IPv4 gateway: %w", n.Name, errdefs.ErrFailedPrecondition)
}

// removeNetwork takes the network away. What others have put into it keeps it.
func (e *Engine) removeNetwork(ctx context.Context, c *client.Client) error {
	have, err := e.inspectNetwork(ctx, c)
	switch {
	case errdefs.IsNotFound(err), errdefs.IsAlreadyExists(err):
		return nil // there is none, or it is not ours
	case err != nil:
		return err
	}
	err = c.NetworkRemove(ctx, NetworkName)
	switch {
	case err == nil || errdefs.IsNotFound(err):
		return nil
	case len(have.Containers) > 0:
		var names []string
		for _, endpoint := range have.Containers {
			names = append(names, endpoint.Name)
		}
		return stack.WithHint(
			fmt.Errorf("remove network %s: %s %w", NetworkName, join(names), errStillInIt),
			"remove them, or docker network disconnect "+NetworkName+" NAME, then: sudo sandbox down",
		)
	}
	return fmt.Errorf("remove network %s: %w", NetworkName, err)
}
