package main

import (
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster/kubeconfig"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/stack/internals"
	"github.com/sandboxlabs/sandbox/pkg/stack/monitoring"
	"github.com/sandboxlabs/sandbox/pkg/state"
	content "github.com/sandboxlabs/sandbox/sandbox/stack/monitoring"
	"go.uber.org/zap"
)

// newCluster returns the stage that has the cluster, and the one that watches
// it. Whoever asks for the cluster gets its context.
func newCluster(dirs state.Dirs, containers *docker.Engine, observed observation, log *zap.Logger) (*cluster.Stage, *monitoring.Stage) {
	watch := monitoring.New(monitoring.Config{
		Dirs: dirs, Builds: []string{internals.Name}, Docker: containers, Images: containers.Images, Content: content.Files, Telemetry: observed.Address,
	})
	c := cluster.New(cluster.Config{
		Dirs: dirs, Docker: containers, Images: containers.Images, Log: log.Named("cluster"),
		Builds: []string{internals.Name},
		// Either may be up first.
		Then: []stack.Step{{Name: "monitoring", Do: watch.Connect}},
		User: func(opts api.UpOptions) (kubeconfig.User, bool) {
			u := opts.User
			if u == nil {
				return kubeconfig.User{}, false
			}
			return kubeconfig.User{UID: u.UID, GID: u.GID, Path: u.Kubeconfig}, true
		},
	})
	watch.Cluster = monitoring.Kubectl(c.Kubectl)
	return c, watch
}
