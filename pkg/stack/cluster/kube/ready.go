package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Progress is how far a cluster is.
type Progress struct {
	Version         string // of the control plane's node's kubelet
	Nodes, AllNodes int    // ready, and all
	Pods, AllPods   int    // ready, and all that should be, of the namespaces asked for
	// Missing says in a few words what is not ready, "pod kube-system/coredns-x
	// (ContainerCreating)", in order; nothing when all is.
	Missing []string
	// Pod is the first of them that is a pod, NAMESPACE/NAME.
	Pod string
}

// Ready reports whether nothing is missing.
func (p Progress) Ready() bool { return len(p.Missing) == 0 }

// Since tells of each node when it was started. What the API says about a node
// and its pods may be from before: it is believed only when a kubelet, or a
// start of a container, has renewed it.
type Since map[string]time.Time

// Look asks for the nodes of since, the workloads and pods of some namespaces,
// and API services of some names.
func (c *Client) Look(ctx context.Context, since Since, namespaces, services []string) (Progress, error) {
	var p Progress
	if err := c.nodes(ctx, since, &p); err != nil {
		return p, err
	}
	for _, kind := range []string{"deployments", "daemonsets"} {
		if err := c.workloads(ctx, kind, namespaces, &p); err != nil {
			return p, err
		}
	}
	if err := c.pods(ctx, since, namespaces, &p); err != nil {
		return p, err
	}
	for _, name := range services {
		var s struct {
			Status struct{ Conditions conditions }
		}
		if err := c.Get(ctx, "/apis/apiregistration.k8s.io/v1/apiservices/"+name, &s); err != nil {
			return p, err
		}
		if !s.Status.Conditions.are("Available") {
			p.miss("API %s", name)
		}
	}
	return p, nil
}

func (p *Progress) miss(format string, args ...any) {
	p.Missing = append(p.Missing, fmt.Sprintf(format, args...))
}

type meta struct {
	Name, Namespace   string
	Generation        int64
	DeletionTimestamp *time.Time
	Labels            map[string]string
}

func (m meta) String() string { return m.Namespace + "/" + m.Name }

type conditions []struct{ Type, Status, Reason string }

func (cs conditions) are(kind string) bool {
	for _, c := range cs {
		if c.Type == kind {
			return c.Status == "True"
		}
	}
	return false
}

func (c *Client) nodes(ctx context.Context, since Since, p *Progress) error {
	var list struct {
		Items []struct {
			Metadata meta
			Status   struct {
				Conditions conditions
				NodeInfo   struct{ KubeletVersion string }
			}
		}
	}
	if err := c.Get(ctx, "/api/v1/nodes", &list); err != nil {
		return err
	}
	var leases struct {
		Items []struct {
			Metadata meta
			Spec     struct{ RenewTime time.Time }
		}
	}
	if err := c.Get(ctx, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", &leases); err != nil {
		return err
	}
	renewed := map[string]time.Time{}
	for _, l := range leases.Items {
		renewed[l.Metadata.Name] = l.Spec.RenewTime
	}
	ready := map[string]bool{}
	for _, n := range list.Items {
		name := n.Metadata.Name
		ready[name] = n.Status.Conditions.are("Ready") && renewed[name].After(since[name])
		if _, control := n.Metadata.Labels["node-role.kubernetes.io/control-plane"]; control {
			p.Version = n.Status.NodeInfo.KubeletVersion
		}
	}
	for name := range since {
		p.AllNodes++
		if ready[name] {
			p.Nodes++
		} else {
			p.miss("node %s", name)
		}
	}
	slices.Sort(p.Missing)
	return nil
}

// workloads finds those whose pods are not made yet: they are not in the list of
// pods, so they would not be missed there.
func (c *Client) workloads(ctx context.Context, kind string, namespaces []string, p *Progress) error {
	var list struct {
		Items []struct {
			Metadata meta
			Spec     struct{ Replicas *int }
			Status   struct {
				ObservedGeneration     int64
				UpdatedReplicas        int
				UpdatedNumberScheduled int
				DesiredNumberScheduled int
			}
		}
	}
	if err := c.Get(ctx, "/apis/apps/v1/"+kind, &list); err != nil {
		return err
	}
	for _, w := range list.Items {
		if !slices.Contains(namespaces, w.Metadata.Namespace) {
			continue
		}
		want, have := w.Status.DesiredNumberScheduled, w.Status.UpdatedNumberScheduled
		if w.Spec.Replicas != nil {
			want, have = *w.Spec.Replicas, w.Status.UpdatedReplicas
		}
		if w.Status.ObservedGeneration < w.Metadata.Generation || have < want {
			p.miss("%s %s", strings.TrimSuffix(kind, "s"), w.Metadata)
		}
	}
	return nil
}

// ended are phases of pods that nobody waits for: their workloads have others.
var ended = []string{"Succeeded", "Failed"}

type pod struct {
	Metadata meta
	Spec     struct{ NodeName string }
	Status   struct {
		Phase             string
		Reason            string
		Conditions        conditions
		ContainerStatuses []struct {
			State struct {
				Waiting    *struct{ Reason string }
				Running    *struct{ StartedAt time.Time }
				Terminated *struct{ Reason string }
			}
		}
	}
}

func (c *Client) pods(ctx context.Context, since Since, namespaces []string, p *Progress) error {
	var list struct{ Items []pod }
	if err := c.Get(ctx, "/api/v1/pods", &list); err != nil {
		return err
	}
	var missing []string
	first := ""
	for _, pod := range list.Items {
		if !slices.Contains(namespaces, pod.Metadata.Namespace) || pod.Metadata.DeletionTimestamp != nil || slices.Contains(ended, pod.Status.Phase) {
			continue
		}
		p.AllPods++
		if why := pod.missing(since[pod.Spec.NodeName]); why != "" {
			missing = append(missing, fmt.Sprintf("pod %s (%s)", pod.Metadata, why))
			if id := pod.Metadata.String(); first == "" || id < first {
				first = id
			}
		} else {
			p.Pods++
		}
	}
	slices.Sort(missing)
	p.Missing, p.Pod = append(p.Missing, missing...), first
	return nil
}

// missing says why the pod, on a node that was started then, is not ready.
func (p *pod) missing(started time.Time) string {
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			return c.State.Waiting.Reason
		case c.State.Terminated != nil:
			return c.State.Terminated.Reason
		case c.State.Running != nil && c.State.Running.StartedAt.Before(started.Truncate(time.Second)):
			return "from before the node's start"
		}
	}
	if p.Status.Conditions.are("Ready") {
		return ""
	}
	for _, c := range p.Status.Conditions {
		if c.Type == "PodScheduled" && c.Status != "True" {
			return c.Reason
		}
	}
	if p.Status.Reason != "" {
		return p.Status.Reason
	}
	if p.Status.Phase == "Running" {
		return "not ready"
	}
	return p.Status.Phase
}
