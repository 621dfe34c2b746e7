// Package metrics tells Prometheus of the daemon, and of the raw engine's
// containers in the words of cAdvisor, so that what is written for the
// containers of Docker or Kubernetes holds for hand-made ones.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// timeout bounds a scrape: Prometheus gives up after 10 s.
const timeout = 8 * time.Second

// Exporter serves the metrics.
type Exporter struct {
	daemon, containers *prometheus.Registry
	collector          *Containers
	log                *zap.Logger
}

// New returns an exporter of the daemon of this version, and of the engine's
// containers.
func New(version api.Version, engine Engine, log *zap.Logger) *Exporter {
	if log == nil {
		log = zap.NewNop()
	}
	e := &Exporter{
		daemon: prometheus.NewRegistry(), containers: prometheus.NewRegistry(),
		collector: NewContainers(engine, "/sys", log), log: log,
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "sandbox_build_info",
		Help:        "1; which version of sandbox this is.",
		ConstLabels: prometheus.Labels{"version": version.Version, "revision": version.Commit, "goversion": version.GoVersion},
	})
	build.Set(1)
	e.daemon.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), e.collector.exits)
	e.containers.MustRegister(e.collector)
	return e
}

// Register adds to what the daemon tells of itself.
func (e *Exporter) Register(c prometheus.Collector) error { return e.daemon.Register(c) }

// Exited is to be called when a container of the engine has ended.
func (e *Exporter) Exited(c api.Container, exit api.Exit) { e.collector.Exited(c, exit) }

// Daemon is /metrics.
func (e *Exporter) Daemon() http.Handler { return e.handler(e.daemon) }

// Containers is /metrics/cadvisor, the path that it has in a kubelet.
func (e *Exporter) Containers() http.Handler { return e.handler(e.containers) }

func (e *Exporter) handler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorLog: zap.NewStdLog(e.log), Registry: e.daemon, EnableOpenMetrics: true,
		// What one container hides does not hide the others.
		ErrorHandling: promhttp.ContinueOnError,
		// Prometheus is the only one to ask; more are a mistake, or an attack.
		MaxRequestsInFlight: 4,
		Timeout:             timeout,
	})
}
