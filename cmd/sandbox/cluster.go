package main

import (
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster/kubeconfig"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/stack/internals"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"go.uber.org/zap"
)

// newCluster returns the stage that has the cluster. Whoever asks for it gets
// its context.
func newCluster(dirs state.Dirs, containers *docker.Engine, log *zap.Logger) *cluster.Stage {
	return cluster.New(cluster.Config{
		Dirs: dirs, Builds: []string{internals.Name}, Docker: containers, Images: containers.Images, Log: log.Named("cluster"),
		User: func(opts api.UpOptions) (kubeconfig.User, bool) {
			u := opts.User
			if u == nil {
				return kubeconfig.User{}, false
			}
			return kubeconfig.User{UID: u.UID, GID: u.GID, Path: u.Kubeconfig}, true
		},
	})
}
