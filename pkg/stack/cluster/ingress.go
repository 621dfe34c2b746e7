package cluster

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// Ingress is the URL at which this machine reaches the ingress controller.
func (s *Stage) Ingress(ctx context.Context) (string, error) {
	have, err := s.find(ctx)
	if err != nil {
		return "", err
	}
	if have.absent() {
		return "", stack.WithHint(fmt.Errorf("there is no cluster: %w", errdefs.ErrFailedPrecondition), "sudo sandbox up --only "+Name)
	}
	return "http://" + netip.AddrPortFrom(loopback, have.spec.HTTP).String(), nil
}
