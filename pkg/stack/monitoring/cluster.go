package monitoring

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Cluster is the cluster of the stack, as this stage needs it.
type Cluster interface {
	// Reach tells how a container in Docker's network gets to the API server.
	// It is errdefs.ErrNotFound while there is no cluster, and
	// errdefs.ErrUnavailable while there is one that is not ready.
	Reach(ctx context.Context) (Reach, error)
	// Apply makes the objects of manifests (YAML documents) what these say, and
	// waits until Deployments among them are available.
	Apply(ctx context.Context, manifests []byte) error
	// Secret returns a secret's data: errdefs.ErrNotFound if there is none.
	Secret(ctx context.Context, namespace, name string) (map[string][]byte, error)
}

// Reach is the way to an API server.
type Reach struct {
	APIServer string // HOST:PORT, of which the certificate holds
	CA        []byte // PEM, of who has signed that
}

// What the folder of Prometheus has of the cluster.
const (
	clusterFile   = "prometheus/cluster.yml"
	clusterFolder = "prometheus/cluster"
)

const (
	namespace   = "sandbox-monitoring"
	tokenSecret = "prometheus-token"
	// nobody is the user of Prometheus in its container.
	nobody = 65534
	// tokenTimeout bounds how long Kubernetes may take to make a token.
	tokenTimeout = time.Minute
)

// controlPlane are the components beside the API server, as kubeadm runs them.
var controlPlane = []struct {
	Job, Component string
	Port           int
	TLS            bool
}{
	{"kube-controller-manager", "kube-controller-manager", 10257, true},
	{"kube-scheduler", "kube-scheduler", 10259, true},
	{"etcd", "etcd", 2381, false},
}

// Connect has Prometheus watch the cluster, if there is one: it is the stage's
// last step, and one of the stage cluster's, for either may be up first.
func (s *Stage) Connect(ctx context.Context, p stack.Progress) error {
	set, err := s.settings()
	if errdefs.IsFailedPrecondition(err) {
		p.Note("stage %s is not up yet", Name)
		return nil
	}
	if err != nil {
		return err
	}
	var reach Reach
	if s.Cluster == nil {
		err = errdefs.ErrNotFound
	} else {
		reach, err = s.Cluster.Reach(ctx)
	}
	if errdefs.IsNotFound(err) {
		if set.APIServer != "" {
			p.Note("no cluster any more")
			return s.disconnect(ctx)
		}
		p.Note("no cluster yet")
		return nil
	}
	if errdefs.IsUnavailable(err) {
		p.Note("the cluster is not ready yet") // its stage connects it when it is
		return nil
	}
	if err != nil {
		return fmt.Errorf("reach the cluster: %w", err)
	}
	if _, _, err := net.SplitHostPort(reach.APIServer); err != nil {
		return fmt.Errorf("address of the cluster's API server: %w", err)
	}
	token, err := s.access(ctx)
	if err != nil {
		return err
	}
	if err := s.writeCluster(reach, token); err != nil {
		return err
	}
	if set, err = s.settings(); err != nil {
		return err
	}
	if err := s.reload(ctx, set.prometheus()); err != nil {
		return err
	}
	if err := s.kubeStateMetrics(ctx, p); err != nil {
		return err
	}
	p.Note("watches %s", reach.APIServer)
	return nil
}

// access makes Prometheus somebody in the cluster, and returns its token.
func (s *Stage) access(ctx context.Context) ([]byte, error) {
	manifests, err := fs.ReadFile(s.Content, "cluster/prometheus.yml")
	if err != nil {
		return nil, err
	}
	if err := s.Cluster.Apply(ctx, manifests); err != nil {
		return nil, fmt.Errorf("let Prometheus into the cluster: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, tokenTimeout, fmt.Errorf("the cluster has made no token in %v: %w", tokenTimeout, errdefs.ErrUnavailable))
	defer cancel()
	for {
		data, err := s.Cluster.Secret(ctx, namespace, tokenSecret)
		if err == nil && len(data["token"]) > 0 {
			return data["token"], nil
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("token of Prometheus in the cluster: %w", err)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// writeCluster puts what Prometheus needs of the cluster into its folder:
// cluster.yml last, for it refers to the other two.
func (s *Stage) writeCluster(reach Reach, token []byte) error {
	config, err := ClusterConfig(s.Content, reach)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set, err := s.settings()
	if err != nil {
		return err
	}
	// The record first: what it does not know of, configure removes.
	set.APIServer = reach.APIServer
	if err := state.WriteJSON(s.Dirs.Stage(Name), set); err != nil {
		return err
	}
	if _, err := put(set.dir, clusterFolder+"/ca.crt", reach.CA); err != nil {
		return err
	}
	if err := putSecret(filepath.Join(set.dir, clusterFolder, "token"), token); err != nil {
		return err
	}
	if _, err := put(set.dir, clusterFile, config); err != nil {
		return err
	}
	if err := set.digest(); err != nil {
		return err
	}
	return state.WriteJSON(s.Dirs.Stage(Name), set)
}

// ClusterConfig is what Prometheus scrapes of a cluster: its file cluster.yml,
// beside which it finds the cluster's CA and its own token.
func ClusterConfig(content fs.FS, reach Reach) ([]byte, error) {
	text, err := fs.ReadFile(content, clusterFile)
	if err != nil {
		return nil, err
	}
	return fill(clusterFile, text, map[string]any{"APIServer": reach.APIServer, "ControlPlane": controlPlane})
}

// putSecret writes a file that only Prometheus reads, and root.
func putSecret(path string, data []byte) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	if err := state.WriteFile(path, data, 0o400); err != nil {
		return err
	}
	return os.Chown(path, nobody, nobody)
}

// kubeStateMetrics runs kube-state-metrics in the cluster.
func (s *Stage) kubeStateMetrics(ctx context.Context, p stack.Progress) error {
	img, err := s.Images.Ensure(ctx, "kube-state-metrics", p)
	if err != nil {
		return err
	}
	text, err := fs.ReadFile(s.Content, "cluster/kube-state-metrics.yml")
	if err != nil {
		return err
	}
	manifests, err := fill("kube-state-metrics.yml", text, map[string]any{"Image": img.Name})
	if err != nil {
		return err
	}
	if err := s.Cluster.Apply(ctx, manifests); err != nil {
		return fmt.Errorf("run kube-state-metrics in the cluster: %w", err)
	}
	return nil
}

// disconnect has Prometheus forget a cluster that is gone.
func (s *Stage) disconnect(ctx context.Context) error {
	if err := s.record(func(set *settings) { set.APIServer = "" }); err != nil {
		return err
	}
	if err := s.configure(ctx, nil, stack.Progress{}); err != nil {
		return err
	}
	set, err := s.settings()
	if err != nil {
		return err
	}
	return s.reload(ctx, set.prometheus())
}
