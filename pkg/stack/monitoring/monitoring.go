// Package monitoring is the stage that watches all others: Prometheus,
// Alertmanager, node-exporter and Grafana in Docker, and kube-state-metrics in
// the cluster if there is one. Alerts go to the daemon.
package monitoring

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Name of the stage.
const Name = "monitoring"

// Config is what the stage is made of.
type Config struct {
	Dirs   state.Dirs
	Docker *docker.Engine
	Images stack.Images
	// Builds are the stages without which no image is built from its recipe.
	Builds []string
	// Content are the files of sandbox/stack/monitoring.
	Content fs.FS
	// Telemetry tells at which address in Docker's network the daemon hands out
	// metrics and receives alerts; false if it does not.
	Telemetry func() (netip.AddrPort, bool)
	// Cluster may be nil.
	Cluster Cluster
}

// Stage implements stack.Stage.
type Stage struct {
	Config
	// mu is held while the configuration, or the record of it, changes: the
	// stage cluster may Connect at any moment.
	mu sync.Mutex
}

// New returns the stage.
func New(cfg Config) *Stage { return &Stage{Config: cfg} }

func (s *Stage) Name() string { return Name }

// Needs implements stack.Stage.
func (s *Stage) Needs() []string { return append([]string{docker.Name}, s.Builds...) }

// Choices implements stack.Chooser.
func (s *Stage) Choices() stack.Choices { return stack.Choices{Ports: maps.Clone(ports)} }

// Up implements stack.Stage. Alertmanager comes before Prometheus, which would
// else complain of it at first, and Grafana last: it may not be to be had.
func (s *Stage) Up(opts api.UpOptions) []stack.Step {
	return []stack.Step{
		{Name: "configuration", Do: func(ctx context.Context, p stack.Progress) error { return s.configure(ctx, moved(opts.Ports), p) }},
		{Name: "ports", Do: s.checkPorts},
		{Name: "alertmanager", Do: s.run((*settings).alertmanager)},
		{Name: "node-exporter", Do: s.run((*settings).nodeExporter)},
		{Name: "prometheus", Do: s.run((*settings).prometheus)},
		{Name: "grafana", Do: s.grafana},
		{Name: "cluster", Do: s.Connect},
	}
}

// moved is never nil: without a choice the ports are the usual ones again, also
// after a choice that did not work out.
func moved(chosen map[string]uint16) map[string]uint16 {
	if chosen == nil {
		return map[string]uint16{}
	}
	return chosen
}

// Down implements stack.Stage. What was measured stays in the volumes, unless
// it is a purge.
func (s *Stage) Down(opts api.DownOptions) []stack.Step {
	return []stack.Step{
		{Name: "services", Do: func(ctx context.Context, _ stack.Progress) error { return s.Docker.Remove(ctx, Name, opts.Purge) }},
		{Name: "configuration", Do: func(context.Context, stack.Progress) error { return s.forget() }},
	}
}

// checkPorts refuses to begin where a port is another's. Grafana may not come,
// and is asked when it does.
func (s *Stage) checkPorts(ctx context.Context, p stack.Progress) error {
	set, err := s.settings()
	if err != nil {
		return err
	}
	if err := s.Docker.CheckPorts(ctx, set.alertmanager(), set.nodeExporter(), set.prometheus()); err != nil {
		return err
	}
	p.Note("free, or its own already")
	return nil
}

// run makes a step of a service: it runs as it is described, with the
// configuration that is in its folder.
func (s *Stage) run(describe func(*settings) docker.Service) func(context.Context, stack.Progress) error {
	return func(ctx context.Context, p stack.Progress) error {
		set, err := s.settings()
		if err != nil {
			return err
		}
		service := describe(&set)
		if err := s.Docker.Run(ctx, service, p); err != nil {
			return err
		}
		return s.reload(ctx, service)
	}
}

// grafana runs Grafana, if its image is to be had: it is in no package registry,
// so that offline, without an archive, there is none. All else works without.
func (s *Stage) grafana(ctx context.Context, p stack.Progress) error {
	_, err := s.Images.Ensure(ctx, "grafana", p)
	missing := ""
	if err != nil {
		if ctx.Err() != nil || !errdefs.IsNotFound(err) && !errdefs.IsUnavailable(err) {
			return err
		}
		missing = err.Error()
	}
	if missing == "" {
		set, err := s.settings()
		if err != nil {
			return err
		}
		if err := s.Docker.Run(ctx, set.grafana(), p); err != nil {
			return err
		}
	}
	// Prometheus scrapes it, or must not.
	if err := s.record(func(set *settings) { set.Grafana, set.NoGrafana = missing == "", missing }); err != nil {
		return err
	}
	if err := s.configure(ctx, nil, stack.Progress{}); err != nil {
		return err
	}
	set, err := s.settings()
	if err != nil {
		return err
	}
	if err := s.reload(ctx, set.prometheus()); err != nil {
		return err
	}
	if missing != "" {
		p.Note("not here: %s; the dashboards' queries work in Prometheus, too", missing)
	}
	return nil
}

// forget removes what the containers were shown. It holds a token of the
// cluster's, which is of no use when they are gone.
func (s *Stage) forget() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.RemoveAll(s.Dirs.StageDir(Name)); err != nil {
		return fmt.Errorf("remove the configuration of the stage: %w", err)
	}
	if err := os.RemoveAll(s.Dirs.Stage(Name)); err != nil {
		return fmt.Errorf("remove the record of the stage: %w", err)
	}
	return nil
}

// Status implements stack.Stage.
func (s *Stage) Status(ctx context.Context) ([]api.StatusItem, error) {
	set, err := s.settings()
	if errdefs.IsFailedPrecondition(err) {
		set = s.defaults() // not up
	} else if err != nil {
		return nil, err
	}
	var items []api.StatusItem
	for _, service := range []docker.Service{set.prometheus(), set.alertmanager(), set.nodeExporter()} {
		item, err := s.Docker.Status(ctx, service)
		if err != nil {
			return nil, err
		}
		if service.Name != "node-exporter" {
			item.Where = "http://" + item.Where
		}
		items = append(items, item)
	}
	if set.NoGrafana != "" {
		return append(items, api.StatusItem{What: "grafana", State: stack.StateAbsent, Note: brief(set.NoGrafana)}), nil
	}
	item, err := s.Docker.Status(ctx, set.grafana())
	if err != nil {
		return nil, err
	}
	item.Where = "http://" + item.Where
	if item.State == stack.StateUp {
		item.Access = "user " + grafanaUser + ", password " + grafanaPassword
	}
	return append(items, item), nil
}

// brief is an error without what was tried: up has told that.
func brief(s string) string {
	const most = 80
	s, _, _ = strings.Cut(s, " (tried")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
