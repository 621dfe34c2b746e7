package cluster

import (
	"context"
	"net/netip"
)

// Ingress is the URL at which this machine reaches the ingress controller.
func (s *Stage) Ingress(ctx context.Context) (string, error) {
	have, err := s.find(ctx)
	if err != nil && !noEngine(err) {
		return "", err
	}
	if have.absent() {
		return "", errNone()
	}
	return "http://" + netip.AddrPortFrom(loopback, have.spec.HTTP).String(), nil
}
