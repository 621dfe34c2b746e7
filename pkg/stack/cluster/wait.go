package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster/kube"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster/kubeconfig"
)

const (
	// apiTimeout bounds the start of the control plane; 12 s on two cores.
	apiTimeout = 3 * time.Minute
	// podsTimeout bounds what follows; a minute on two cores.
	podsTimeout = 6 * time.Minute
	// Who waits should not keep busy whom he waits for: a look at the pods is six
	// requests.
	apiPoll  = 200 * time.Millisecond
	podsPoll = 500 * time.Millisecond
	// lookEvery is how often it is looked whether the nodes still run.
	lookEvery = 5 // polls
)

// entry is the way to the API server from this machine.
func (s *Stage) entry(ctx context.Context, n node) (kubeconfig.Entry, error) {
	var none kubeconfig.Entry
	c, err := s.Docker.Client()
	if err != nil {
		return none, err
	}
	have, err := c.ContainerInspect(ctx, n.ID)
	if err != nil {
		return none, fmt.Errorf("inspect node %s: %w", n.Name, err)
	}
	const port = "6443/tcp"
	bound := have.HostConfig.PortBindings[port]
	if len(bound) != 1 || bound[0].HostPort == "" {
		return none, fmt.Errorf("node %s does not publish port %s: %w", n.Name, port, errdefs.ErrFailedPrecondition)
	}
	conf, err := s.readFile(ctx, n, adminConf)
	if err != nil {
		return none, err
	}
	return kubeconfig.Read(conf, clusterName, "https://"+bound[0].HostIP+":"+bound[0].HostPort)
}

// client asks the API server.
func (s *Stage) client(ctx context.Context, f found) (*kube.Client, error) {
	n, ok := f.controlPlane()
	if !ok {
		return nil, fmt.Errorf("the cluster has no control plane: %w", errdefs.ErrFailedPrecondition)
	}
	e, err := s.entry(ctx, n)
	if err != nil {
		return nil, err
	}
	return kube.New(e)
}

// apiServer waits until the API server is ready. Then the cluster is complete:
// what it lacks from now on can be repaired.
func (u *up) apiServer(ctx context.Context, p stack.Progress) error {
	c, err := u.client(ctx, u.have)
	if err != nil {
		return err
	}
	defer c.Close()
	begun := time.Now()
	err = u.wait(ctx, apiTimeout, apiPoll, func(ctx context.Context) (string, error) {
		if err := c.Live(ctx); err != nil {
			return err.Error(), nil
		}
		return "", nil
	}, func(missing string) {})
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	if u.created {
		n, _ := u.have.controlPlane()
		if err := u.writeFile(ctx, n, completeMark, []byte(time.Now().UTC().Format(time.RFC3339)+"\n")); err != nil {
			return err
		}
		u.have.complete, u.created = true, false
	}
	e, err := u.entry(ctx, u.have.nodes[0])
	if err != nil {
		return err
	}
	if took := time.Since(begun); took > time.Second {
		p.Note("%s, ready after %.1f s", e.Server, took.Seconds())
	} else {
		p.Note("%s", e.Server)
	}
	return nil
}

// pods waits until all that the cluster itself needs is ready.
func (u *up) pods(ctx context.Context, p stack.Progress) error {
	c, err := u.client(ctx, u.have)
	if err != nil {
		return err
	}
	defer c.Close()
	since, err := u.since(ctx, u.have.nodes)
	if err != nil {
		return err
	}
	var last kube.Progress
	err = u.wait(ctx, podsTimeout, podsPoll, func(ctx context.Context) (string, error) {
		now, err := c.Look(ctx, since, systemNamespaces, apiServices)
		switch {
		case errdefs.IsUnavailable(err) || errdefs.IsNotFound(err):
			return err.Error(), nil
		case err != nil:
			return "", err
		}
		if last = now; now.Ready() {
			return "", nil
		}
		return now.Missing[0], nil
	}, func(missing string) {
		p.Note("%d of %d nodes, %d of %d pods ready; waiting for %s", last.Nodes, last.AllNodes, last.Pods, last.AllPods, missing)
	})
	if err != nil {
		return u.withLog(ctx, err, last.Pod)
	}
	p.Note("%d, on %s, of Kubernetes %s", last.AllPods, count(last.AllNodes, "node"), last.Version)
	return nil
}

// withLog puts the end of a pod's log behind an error that is about it.
func (u *up) withLog(ctx context.Context, err error, pod string) error {
	late := errors.As(err, new(*lateError))
	namespace, name, ok := strings.Cut(pod, "/")
	n, _ := u.have.controlPlane()
	if !late || !ok || ctx.Err() != nil {
		return err
	}
	for _, which := range []string{"--previous=true", "--previous=false"} { // what crashed said why
		out, lerr := u.kubectl(ctx, n, nil, "logs", "--namespace", namespace, name, "--all-containers", "--tail=5", which)
		if text := strings.TrimSpace(string(out)); lerr == nil && text != "" {
			return fmt.Errorf("%w; the end of its log:\n%s", err, text)
		}
	}
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// wait asks missing until it says that nothing is, and tells what it said. Nodes
// that end while it waits end it.
func (u *up) wait(ctx context.Context, timeout, poll time.Duration, missing func(context.Context) (string, error), tell func(string)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &lateError{timeout})
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	said := ""
	for i := 0; ; i++ {
		what, err := missing(ctx)
		switch {
		case ctx.Err() != nil:
			return late(ctx, said)
		case err != nil:
			return err
		case what == "":
			return nil
		case what != said:
			u.Log.Debug("waiting", zap.String("for", what))
			said = what
		}
		tell(said)
		if i%lookEvery == 0 {
			if _, err := u.since(ctx, u.have.nodes); err != nil && ctx.Err() == nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return late(ctx, said)
		}
	}
}

func late(ctx context.Context, said string) error {
	err := context.Cause(ctx)
	if e := (*lateError)(nil); errors.As(err, &e) {
		return stack.WithHint(
			fmt.Errorf("%w: %s", err, said),
			"look at it: kubectl --context "+clusterName+" get pods -A; sudo sandbox up waits again; sudo sandbox down, then up, makes the cluster anew",
		)
	}
	return err
}

// lateError says how long was waited.
type lateError struct{ timeout time.Duration }

func (e *lateError) Error() string { return fmt.Sprintf("not ready after %v", e.timeout) }
func (e *lateError) Unwrap() error { return errdefs.ErrUnavailable }
