// Package cluster is the stage that has a Kubernetes cluster run: kind's nodes
// in Docker, the network, storage and DNS that come with them, metrics-server,
// and an ingress controller that this machine reaches.
package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster/kubeconfig"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Name of the stage; the cluster and its context are called sandbox, and so
// begin the names of its nodes.
const (
	Name        = "cluster"
	clusterName = "sandbox"
)

// Services of the stage in api.Settings.Ports, with their usual ports.
const (
	ServiceIngress    = "ingress"
	ServiceIngressTLS = "ingress-tls"

	defaultHTTP  = 8080
	defaultHTTPS = 8443
)

// Images, by the names of their recipes. The others that a cluster starts with
// are inside of the node's.
const nodeImage = "kind-node"

var addonImages = []string{"metrics-server", "traefik"}

// systemNamespaces are those that must be ready.
var systemNamespaces = []string{"kube-system", "local-path-storage", "traefik"}

// apiServices are those that must answer.
var apiServices = []string{"v1beta1.metrics.k8s.io"}

// loopback is where this machine's ports are.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Config is what the stage is made of.
type Config struct {
	Dirs   state.Dirs
	Docker *docker.Engine
	Images stack.Images
	// Builds are the stages without which no image is built from its recipe.
	Builds []string
	// Then are steps for when the cluster is up, of who waits for one.
	Then []stack.Step
	// User is who asked for the cluster: he gets its context in his kubeconfig.
	// With nil, or a false, nobody does.
	User func(api.UpOptions) (kubeconfig.User, bool)
	Log  *zap.Logger
}

// Stage implements stack.Stage.
type Stage struct {
	Config
	// creating is held while kind works: it is told about Docker by the process's
	// environment.
	creating sync.Mutex
}

// New returns the stage.
func New(cfg Config) *Stage {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Stage{Config: cfg}
}

func (s *Stage) Name() string { return Name }

// Needs implements stack.Stage.
func (s *Stage) Needs() []string { return append([]string{docker.Name}, s.Builds...) }

// Choices implements stack.Chooser.
func (s *Stage) Choices() stack.Choices {
	return stack.Choices{Nodes: true, Ports: map[string]uint16{ServiceIngress: defaultHTTP, ServiceIngressTLS: defaultHTTPS}}
}

// Up implements stack.Stage.
func (s *Stage) Up(opts api.UpOptions) []stack.Step {
	u := &up{Stage: s, opts: opts}
	return append([]stack.Step{
		{Name: "nodes that are there", Do: u.look},
		{Name: "images", Do: u.ensureImages},
		{Name: "nodes", Do: u.nodes, Undo: u.undoNodes},
		{Name: "API server", Do: u.apiServer, Undo: u.undoNodes},
		{Name: "kubeconfig", Do: u.kubeconfig},
		{Name: "add-ons", Do: u.addons},
		{Name: "pods", Do: u.pods},
	}, s.Then...)
}

// Down implements stack.Stage.
func (s *Stage) Down(api.DownOptions) []stack.Step {
	return []stack.Step{
		{Name: "nodes", Do: s.removeAll},
		{Name: "kubeconfig", Do: s.removeContexts},
	}
}

// Check implements stack.Checker: what would take another cluster.
func (s *Stage) Check(ctx context.Context, opts api.UpOptions) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	have, err := s.find(ctx)
	if err != nil || !have.complete {
		return nil //nolint:nilerr // for the steps to tell
	}
	return have.spec.fits(opts)
}

// up is one bringing up.
type up struct {
	*Stage
	opts api.UpOptions

	have    found // by look
	spec    spec  // what is, or is to be
	node    stack.Image
	images  map[string]stack.Image // by the recipe's name
	created bool                   // in this run, and not complete yet
	applied atomic.Bool            // the add-ons, while the cluster was created
}

// spec is what the nodes of a cluster are made of. Each has it as a label, so
// that one that is left tells what the others were.
type spec struct {
	Nodes int    `json:"nodes"`
	HTTP  uint16 `json:"http"`  // of this machine, for the ingress controller
	HTTPS uint16 `json:"https"` // likewise
	Image string `json:"image"` // digest of the node image
}

// wanted completes the user's choices.
func wanted(opts api.UpOptions) spec {
	w := spec{Nodes: max(opts.Nodes, 1), HTTP: defaultHTTP, HTTPS: defaultHTTPS}
	if port := opts.Ports[ServiceIngress]; port != 0 {
		w.HTTP = port
	}
	if port := opts.Ports[ServiceIngressTLS]; port != 0 {
		w.HTTPS = port
	}
	return w
}

// fits refuses choices that a cluster cannot follow without being made anew,
// which would take away what is in it.
func (s spec) fits(opts api.UpOptions) error {
	want := wanted(opts)
	var differ string
	switch {
	case opts.Nodes != 0 && want.Nodes != s.Nodes:
		differ = fmt.Sprintf("has %d nodes, not %d", s.Nodes, want.Nodes)
	case opts.Ports[ServiceIngress] != 0 && want.HTTP != s.HTTP:
		differ = fmt.Sprintf("has its ingress at port %d, not %d", s.HTTP, want.HTTP)
	case opts.Ports[ServiceIngressTLS] != 0 && want.HTTPS != s.HTTPS:
		differ = fmt.Sprintf("has its TLS ingress at port %d, not %d", s.HTTPS, want.HTTPS)
	default:
		return nil
	}
	return stack.WithHint(
		fmt.Errorf("the cluster %s, and only a new one can change that: %w", differ, errdefs.ErrFailedPrecondition),
		"sudo sandbox down takes it away with all that is in it, then sudo sandbox up again; or go on with it as it is: the same --nodes and --port as before",
	)
}

// ensureImages brings in what the nodes are made of, if there are none yet, and
// what they are to run.
func (u *up) ensureImages(ctx context.Context, p stack.Progress) error {
	names := addonImages
	if u.have.absent() {
		names = append([]string{nodeImage}, names...)
	}
	u.images = map[string]stack.Image{}
	from := map[string]int{}
	for _, name := range names {
		p.Note("%s", name)
		img, err := u.Images.Ensure(ctx, name, p)
		if err != nil {
			return err
		}
		u.images[name] = img
		from[img.From]++
	}
	p.Note("%d, from %s", len(names), list(from))
	return nil
}
