package main

import (
	"github.com/sandboxlabs/sandbox/pkg/engine/raw"
	"github.com/sandboxlabs/sandbox/pkg/host"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/stack/monitoring"
	"github.com/sandboxlabs/sandbox/pkg/verify"
	"go.uber.org/zap"
)

// newWalk returns what tries the promises of this machine's stack.
func newWalk(h *host.Host, engine *raw.Engine, containers *docker.Engine, c *cluster.Stage, m *monitoring.Stage, observed observation, log *zap.Logger) *verify.Walk {
	return verify.New(verify.Config{
		Engine: engine, Images: containers.Images, Cluster: c, Monitoring: m, Alerts: observed.alerts.List, Log: log.Named("verify"),
		NoMemoryLimit: func() string { return h.Lacks("memory") },
	})
}
