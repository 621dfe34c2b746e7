// Package verify walks the whole path with the demo app, from a container made
// by hand to a cluster, and says which promises of the stack hold. Each is tried
// as its user would meet it. What a walk has made, it takes away; what one that
// was killed has left, the next one takes away first.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws/terraform"
)

// Label marks the raw containers of a walk.
const Label = "io.sandboxlabs.verify"

// Config is what a walk uses of the stack.
type Config struct {
	// Engine makes containers by hand.
	Engine engine.Engine
	Images stack.Images
	// NoMemoryLimit says why this host's containers can have none; "" when they
	// can.
	NoMemoryLimit func() string
	Docker        Docker
	Cluster       Cluster
	Monitoring    Monitoring
	// Tofu returns the path of OpenTofu or Terraform: errdefs.ErrNotFound if this
	// machine has neither.
	Tofu func(context.Context) (string, error)
	// Terraform is how one is pointed at the stage aws.
	Terraform func() (terraform.Options, error)
	// Folder is the walk's own, for files; Plugins keeps providers for the next.
	Folder, Plugins string
	// Alerts are those that the daemon has received.
	Alerts func() []api.Alert
	Log    *zap.Logger
}

// Cluster is the stage of that name.
type Cluster interface {
	// Kubectl runs kubectl as the cluster's administrator.
	Kubectl(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error)
	// Ingress is the URL at which this machine reaches the ingress controller.
	Ingress(ctx context.Context) (string, error)
}

// promise is one that the stack makes. Those that it needs come first.
type promise struct {
	name  string
	says  string
	needs []string
	keep  func(context.Context, stack.Progress) error
}

// Walk makes plans to try promises.
type Walk struct{ Config }

// New returns a walk over a stack.
func New(cfg Config) *Walk {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Walk{cfg}
}

// promises are all, in the order in which they are shown.
func (w *Walk) promises() []promise {
	return []promise{
		{"runs", "the demo app answers in a container made by hand", nil, w.answersRaw},
		{"memory", "a memory limit kills it in a container made by hand", nil, w.killedByLimit},
		{"docker", "the same image runs under Docker, and answers over HTTP", nil, w.answersDocker},
		{"deployed", "the same image runs in the cluster", nil, w.deploy},
		{"ingress", "it answers over HTTP through Ingress and Service", []string{"deployed"}, w.answersAs(ingressHost)},
		{"gateway", "it answers over HTTP through a Gateway's HTTPRoute", []string{"deployed"}, w.answersAs(gatewayHost)},
		{"dns", "pods find services by name", []string{"deployed"}, w.resolves},
		{"policy", "a NetworkPolicy blocks one pod and admits another", []string{"deployed"}, w.guards},
		{"volume", "what a pod wrote to a volume is there after it moved", []string{"deployed"}, w.keepsVolume},
		{"top", "kubectl top knows what pods use", []string{"deployed"}, w.knowsUsage},
		{"quiet", "no alert fires without a reason", nil, w.quiet},
		{"metrics", "Prometheus has the app's metrics", []string{"deployed", "quiet"}, w.measures},
		{"panels", "every panel of the dashboard has data", []string{"metrics"}, w.shows},
		{"state", "Terraform's state is kept in S3, and locked", nil, w.locks},
		{"vpc", "Terraform builds a VPC, and finds it as it is", []string{"state"}, w.builds},
		{"alert", "errors become an alert, which arrives, and ends", []string{"metrics"}, w.alerts},
	}
}

// Names lists the promises.
func (w *Walk) Names() (names []string) {
	for _, p := range w.promises() {
		names = append(names, p.name)
	}
	return names
}

// Plan makes the plan of a walk: all promises, or some and what these need.
func (w *Walk) Plan(only []string) (*stack.Plan, error) {
	for _, name := range only {
		if !slices.Contains(w.Names(), name) {
			return nil, fmt.Errorf("unknown promise %q: there are %s: %w", name, strings.Join(w.Names(), ", "), errdefs.ErrInvalidArgument)
		}
	}
	all := w.promises()
	wanted := map[string]bool{}
	for _, p := range slices.Backward(all) {
		if len(only) == 0 || slices.Contains(only, p.name) {
			wanted[p.name] = true
		}
		if wanted[p.name] {
			for _, need := range p.needs {
				wanted[need] = true
			}
		}
	}
	plan := &stack.Plan{}
	plan.Add(leftovers, nil, stack.Step{Name: "nothing of an earlier walk is left", Do: w.clean})
	for _, p := range all {
		if wanted[p.name] {
			plan.Add(p.name, append([]string{leftovers}, p.needs...), stack.Step{Name: p.says, Do: p.keep})
		}
	}
	plan.AddLast("end", stack.Step{Name: "nothing is left of this one", Do: w.clean})
	return plan, nil
}

const leftovers = "start"

// clean takes away what walks make.
func (w *Walk) clean(ctx context.Context, _ stack.Progress) error {
	return errors.Join(w.removeContainers(ctx), w.Docker.Remove(ctx, stageName, true), w.removeRules(ctx), os.RemoveAll(w.Folder), w.removeNamespace(ctx))
}

// poll asks until ask returns nil or the time is over: then its last error
// says what was missing.
func poll(ctx context.Context, patience time.Duration, ask func(context.Context) error) error {
	const pause = 200 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			if ctx.Err() == context.DeadlineExceeded {
				return fmt.Errorf("after %v: %w", patience, last)
			}
			return context.Cause(ctx)
		}
	}
}

// kept says how a promise was kept.
func kept(p stack.Progress, format string, args ...any) error {
	p.Note(format, args...)
	return nil
}
