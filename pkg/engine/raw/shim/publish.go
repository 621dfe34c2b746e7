package shim

import (
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/network/proxy"
)

// publish takes the published ports on the host, and serves those ways to them
// that the kernel's NAT does not.
func (s *shim) publish() (ports []api.PortMapping, err error) {
	if len(s.opts.Publish) == 0 {
		return nil, nil
	}
	if s.proxy, err = proxy.Listen(s.opts.Publish, s.opts.IP); err != nil {
		return nil, err
	}
	return s.proxy.Ports(), nil
}

func (s *shim) unpublish() error {
	if s.proxy == nil {
		return nil
	}
	return s.proxy.Close()
}
