package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// statusTimeout bounds a look at a cluster that does not answer.
const statusTimeout = 3 * time.Second

// removeAll takes the cluster away, with all that is in it. There is nothing to
// take away where there is no engine; a cluster that is not ours stays.
func (s *Stage) removeAll(ctx context.Context, p stack.Progress) error {
	have, err := s.find(ctx)
	if errdefs.IsAlreadyExists(err) { // not ours
		p.Note("%s: left alone", err)
		return nil
	}
	if noEngine(err) {
		p.Note("no Docker engine runs")
		return nil
	}
	if err != nil {
		return err
	}
	if err := errors.Join(s.remove(ctx, have.nodes), s.removeTemplates(ctx)); err != nil {
		return err
	}
	p.Note("%d removed", len(have.nodes))
	return nil
}

func noEngine(err error) bool {
	return client.IsErrConnectionFailed(err) || errors.Is(err, fs.ErrNotExist)
}

// Status implements stack.Stage.
func (s *Stage) Status(ctx context.Context) ([]api.StatusItem, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	item := api.StatusItem{What: "cluster", State: stack.StateDown}
	have, err := s.find(ctx)
	if noEngine(err) {
		item.Note = "no Docker engine runs"
		return []api.StatusItem{item}, nil
	}
	if err != nil {
		return nil, err
	}
	if have.absent() {
		return []api.StatusItem{item}, nil
	}
	ingress := api.StatusItem{
		What: "ingress", State: stack.StateDown,
		Where: "http://" + netip.AddrPortFrom(loopback, have.spec.HTTP).String(),
		Note:  "https://" + netip.AddrPortFrom(loopback, have.spec.HTTPS).String(),
	}
	item.Where = "context " + clusterName
	if r, err := s.recorded(); err == nil && len(r.Users) > 0 {
		item.Access = "in " + r.Users[0].Path
		if more := len(r.Users) - 1; more > 0 {
			item.Access += fmt.Sprintf(", and %d more", more)
		}
	}
	switch {
	case !have.complete:
		item.State, item.Note = stack.StateDegraded, "half-made"
	case len(have.nodes) < have.spec.Nodes:
		item.State, item.Note = stack.StateDegraded, fmt.Sprintf("only %d of %d nodes are left", len(have.nodes), have.spec.Nodes)
	case !have.running():
		item.Note = "nodes: " + have.describe()
	default:
		item.State, item.Note, ingress.State = s.health(ctx, have)
	}
	return []api.StatusItem{item, ingress}, nil
}

// health asks the cluster.
func (s *Stage) health(ctx context.Context, have found) (state, note, ingress string) {
	c, err := s.client(ctx, have)
	if err == nil {
		defer c.Close()
	}
	since, serr := s.since(ctx, have.nodes)
	if err := errors.Join(err, serr); err != nil {
		return stack.StateDegraded, err.Error(), stack.StateDown
	}
	now, err := c.Look(ctx, since, systemNamespaces, apiServices)
	if err != nil {
		s.Log.Debug("look at the cluster", zap.Error(err))
		return stack.StateDegraded, "the API server does not answer", stack.StateDown
	}
	note = fmt.Sprintf("Kubernetes %s, %s, %d pods", now.Version, count(now.AllNodes, "node"), now.AllPods)
	if !now.Ready() {
		note = fmt.Sprintf("%d of %d nodes, %d of %d pods ready; not ready: %s", now.Nodes, now.AllNodes, now.Pods, now.AllPods, now.Missing[0])
		return stack.StateDegraded, note, stack.StateDegraded
	}
	return stack.StateUp, note, stack.StateUp
}
