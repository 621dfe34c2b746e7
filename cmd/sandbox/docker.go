package main

import (
	"context"
	"net/netip"

	"github.com/sandboxlabs/sandbox/pkg/daemon/images"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
	"github.com/sandboxlabs/sandbox/pkg/linux/socket"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"go.uber.org/zap"
)

// newDocker returns this machine's Docker engine, which takes images from the
// endpoint, and in whose network the daemon is observed.
func newDocker(dirs state.Dirs, service imageService, endpoint *registry.Server, observed observation, log *zap.Logger) *docker.Engine {
	return docker.New(docker.Config{
		State:    dirs.Root,
		Images:   images.ForStack{Service: service.Service, Address: endpoint.Address},
		Registry: endpoint.Address,
		Serve: func(_ context.Context, gateway netip.Addr) error {
			// Without metrics everything else works; status, and the stage that
			// needs them, tell why there are none.
			if err := observed.ServeAt(gateway); err != nil {
				log.Warn("telemetry", zap.Error(err))
			}
			return endpoint.ServeAt(gateway)
		},
		PortOwner: func(at netip.AddrPort) string {
			owner, err := socket.Listener("/proc", "tcp", at.Addr().AsSlice(), at.Port())
			if err != nil {
				return ""
			}
			return owner.String()
		},
		Log: log.Named("docker"),
	})
}
