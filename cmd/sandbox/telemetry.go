package main

import (
	"context"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/cli"
	"github.com/sandboxlabs/sandbox/pkg/daemon/alerts"
	"github.com/sandboxlabs/sandbox/pkg/daemon/metrics"
	"github.com/sandboxlabs/sandbox/pkg/daemon/telemetry"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/stack/monitoring"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"go.uber.org/zap"
)

// observation is what the daemon has with Prometheus and Alertmanager.
type observation struct {
	*telemetry.Server
	exporter *metrics.Exporter
	alerts   *alerts.Store
}

func newObservation(dirs state.Dirs, engine *raw.Engine, opts cli.Serving, log *zap.Logger) observation {
	log = log.Named("telemetry")
	o := observation{
		exporter: metrics.New(daemonVersion(), engine, log),
		alerts:   &alerts.Store{Path: dirs.Alerts(), Log: log},
	}
	o.Server = &telemetry.Server{
		Port: opts.TelemetryPort, Metrics: o.exporter.Daemon(), Containers: o.exporter.Containers(), Alerts: o.alerts, Log: log,
	}
	if o.Port == 0 {
		o.Port = telemetry.DefaultPort
	}
	return o
}

// discover finds what there is to scrape outside of the cluster: containers of
// both engines that ask for it, and LocalStack.
func discover(engine *raw.Engine, containers *docker.Engine) telemetry.Discover {
	return telemetry.Join(
		telemetry.Containers(engine.List),
		telemetry.Containers(monitoring.Scraped(containers)),
		func(ctx context.Context) ([]telemetry.Target, error) {
			at, ok, err := monitoring.Published(ctx, containers, "sandbox-"+aws.ServiceName, aws.DefaultPort)
			if err != nil || !ok {
				return nil, err
			}
			return []telemetry.Target{telemetry.LocalStack(at.String())}, nil
		},
	)
}

// rows are what status shows of it.
func (o observation) rows() []api.StatusItem {
	if item, ok := o.Status(); ok {
		return []api.StatusItem{item}
	}
	return nil
}
