package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
)

// Labels of nodes: kind's own, and ours with the spec.
const (
	labelKind = "io.x-k8s.kind.cluster"
	labelRole = "io.x-k8s.kind.role"
	labelSpec = "io.sandboxlabs.cluster"

	roleControlPlane = "control-plane"
	roleWorker       = "worker"
)

// completeMark is a file in the control plane's node that says that the cluster
// was made to the end.
const completeMark = "/kind/sandbox-complete"

// node is one container that is a node.
type node struct {
	ID, Name string
	Role     string
	State    container.ContainerState
}

// found are the nodes that there are.
type found struct {
	nodes []node // the control plane's first
	spec  spec
	// complete says that the cluster was once up.
	complete bool
}

func (f found) absent() bool { return len(f.nodes) == 0 }

func (f found) controlPlane() (node, bool) {
	if f.absent() || f.nodes[0].Role != roleControlPlane {
		return node{}, false
	}
	return f.nodes[0], true
}

// running reports whether all nodes run.
func (f found) running() bool {
	return !slices.ContainsFunc(f.nodes, func(n node) bool { return n.State != container.StateRunning })
}

// find looks for the cluster's nodes. A cluster of the same name that is not
// ours is an error.
func (s *Stage) find(ctx context.Context) (found, error) {
	var f found
	c, err := s.Docker.Client()
	if err != nil {
		return f, err
	}
	list, err := c.ContainerList(ctx, container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", labelKind+"="+clusterName)),
	})
	if err != nil {
		return f, fmt.Errorf("list nodes: %w", err)
	}
	var foreign []string
	other := ""
	for _, have := range list {
		n := node{ID: have.ID, Role: have.Labels[labelRole], State: have.State}
		if len(have.Names) > 0 {
			n.Name = strings.TrimPrefix(have.Names[0], "/")
		}
		if have.Labels[docker.LabelStage] != Name || have.Labels[docker.LabelState] != s.Docker.State {
			foreign, other = append(foreign, n.Name), have.Labels[docker.LabelState]
			continue
		}
		if err := json.Unmarshal([]byte(have.Labels[labelSpec]), &f.spec); err != nil {
			return f, fmt.Errorf("label %s of node %s: %w", labelSpec, n.Name, err)
		}
		f.nodes = append(f.nodes, n)
	}
	if len(foreign) > 0 {
		slices.Sort(foreign)
		if other != "" {
			return f, stack.WithHint(
				fmt.Errorf("there is a cluster of another sandbox, with the state folder %s (%s): %w", other, strings.Join(foreign, ", "), errdefs.ErrAlreadyExists),
				"take that down first: sudo sandbox --state-dir "+other+" down; or go on without: sudo sandbox up --without "+Name,
			)
		}
		return f, stack.WithHint(
			fmt.Errorf("there is a kind cluster named %s that sandbox did not make (%s): %w", clusterName, strings.Join(foreign, ", "), errdefs.ErrAlreadyExists),
			"if nobody needs it: kind delete cluster --name "+clusterName+", or docker rm -f -v "+strings.Join(foreign, " ")+"; or go on without: sudo sandbox up --without "+Name,
		)
	}
	slices.SortFunc(f.nodes, func(a, b node) int {
		// "control-plane" sorts before "worker".
		return strings.Compare(a.Role+a.Name, b.Role+b.Name)
	})
	if n, ok := f.controlPlane(); ok && n.State != container.StateDead && n.State != container.StateRemoving {
		_, err := c.ContainerStatPath(ctx, n.ID, completeMark)
		if err != nil && !errdefs.IsNotFound(err) {
			return f, fmt.Errorf("look into node %s: %w", n.Name, err)
		}
		f.complete = err == nil
	}
	return f, nil
}

// look decides what there is to do, and removes what cannot be repaired.
func (u *up) look(ctx context.Context, p stack.Progress) error {
	u.spec = wanted(u.opts)
	have, err := u.find(ctx)
	if err != nil {
		return err
	}
	if err := u.removeTemplates(ctx); err != nil {
		return err
	}
	switch {
	case have.absent():
		p.Note("none")
	case have.complete:
		u.have, u.spec = have, have.spec
		if err := have.spec.fits(u.opts); err != nil {
			return err
		}
		p.Note("%s", have.describe())
		return nil
	default:
		// kind cannot go on where it was killed; and Kubernetes keeps its data in
		// the control plane's node.
		why := "half-made"
		if _, ok := have.controlPlane(); !ok {
			why = "the control plane's was removed: made anew, without what was in the cluster"
			u.Log.Warn("cluster is made anew", zap.Int("nodes left", len(have.nodes)), zap.Int("nodes", have.spec.Nodes))
		}
		if u.opts.Nodes == 0 {
			u.spec.Nodes = have.spec.Nodes
		}
		if err := u.remove(ctx, have.nodes); err != nil {
			return err
		}
		p.Note("%s", why)
	}
	if err := u.namesInTheWay(ctx); err != nil {
		return err
	}
	return u.freePorts()
}

func (f found) describe() string {
	states := map[string]int{}
	for _, n := range f.nodes {
		states[n.State]++
	}
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(states)) {
		parts = append(parts, fmt.Sprintf("%d %s", states[state], state))
	}
	return strings.Join(parts, ", ")
}

// start has all nodes run. Docker restarts them after a reboot, unless they were
// stopped; kind's entrypoint adapts a node to another address.
func (u *up) start(ctx context.Context, p stack.Progress) error {
	c, err := u.Docker.Client()
	if err != nil {
		return err
	}
	missing := u.have.missing()
	if u.have.running() && len(missing) == 0 {
		p.Note("%d, already there", len(u.have.nodes))
		return nil
	}
	was := u.have.describe()
	errs := each(u.have.nodes, func(n node) error {
		switch n.State {
		case container.StateRunning:
			return nil
		case container.StatePaused:
			if err := c.ContainerUnpause(ctx, n.ID); err != nil {
				return fmt.Errorf("unpause node %s: %w", n.Name, err)
			}
			return nil
		}
		if err := c.ContainerStart(ctx, n.ID, container.StartOptions{}); err != nil {
			return u.startError(n, err)
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if u.have, err = u.find(ctx); err != nil {
		return err
	}
	if len(missing) > 0 {
		if err := u.join(ctx, missing, p); err != nil {
			return err
		}
		p.Note("%d, were %s; made anew: %s", len(u.have.nodes), was, strings.Join(missing, ", "))
		return nil
	}
	p.Note("%d, were %s: started again", len(u.have.nodes), was)
	return nil
}

// since tells when the nodes were started; a node that does not run is an error,
// with its last words.
func (s *Stage) since(ctx context.Context, nodes []node) (map[string]time.Time, error) {
	c, err := s.Docker.Client()
	if err != nil {
		return nil, err
	}
	since := map[string]time.Time{}
	for _, n := range nodes {
		have, err := c.ContainerInspect(ctx, n.ID)
		if err != nil {
			return nil, fmt.Errorf("inspect node %s: %w", n.Name, err)
		}
		if !have.State.Running {
			return nil, fmt.Errorf("node %s ended with exit code %d%s: %w", n.Name, have.State.ExitCode, lastWords(ctx, c, n.ID), errdefs.ErrUnavailable)
		}
		at, err := time.Parse(time.RFC3339Nano, have.State.StartedAt)
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", n.Name, err)
		}
		since[n.Name] = at
	}
	return since, nil
}

// remove takes nodes away with their nameless volumes, side by side.
func (s *Stage) remove(ctx context.Context, nodes []node) error {
	c, err := s.Docker.Client()
	if err != nil {
		return err
	}
	return errors.Join(each(nodes, func(n node) error { return removeContainer(ctx, c, n.ID, "node "+n.Name) })...)
}

// removeContainer waits for one that somebody else is removing.
func removeContainer(ctx context.Context, c *client.Client, id, what string) error {
	err := c.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if errdefs.IsConflict(err) {
		gone, errs := c.ContainerWait(ctx, id, container.WaitConditionRemoved)
		select {
		case <-gone:
			return nil
		case err = <-errs:
		}
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove %s: %w", what, err)
	}
	return nil
}

// gateway is the address of this machine in Docker's network, where nodes find
// the registry.
func (s *Stage) gateway(ctx context.Context) (string, error) {
	c, err := s.Docker.Client()
	if err != nil {
		return "", err
	}
	have, err := c.NetworkInspect(ctx, docker.NetworkName, network.InspectOptions{})
	if err != nil {
		return "", fmt.Errorf("inspect network %s: %w", docker.NetworkName, err)
	}
	for _, pool := range have.IPAM.Config {
		if strings.Contains(pool.Gateway, ".") {
			return pool.Gateway, nil
		}
	}
	return "", fmt.Errorf("network %s has no IPv4 gateway: %w", docker.NetworkName, errdefs.ErrFailedPrecondition)
}
