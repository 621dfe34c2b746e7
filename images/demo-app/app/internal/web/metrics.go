package web

import (
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/knobs"
)

// metrics are what the app says of itself to Prometheus. Rate, errors and
// duration of requests are three of the four golden signals; process_* and go_*
// tell of the fourth, saturation.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

func newMetrics(info Info, board *knobs.Board) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total",
			Help: "Requests that were answered.",
		}, []string{"method", "path", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "http_request_duration_seconds",
			Help:    "Time from a request's arrival to the end of its answer.",
			Buckets: prometheus.DefBuckets,
		}, []string{"method", "path"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "http_requests_in_flight",
			Help: "Requests that are being answered now.",
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "build_info",
		Help: "1; which version this is.",
		ConstLabels: prometheus.Labels{
			"version": info.Version, "goversion": runtime.Version(), "environment": info.Environment,
		},
	})
	build.Set(1)
	m.registry.MustRegister(
		m.requests, m.duration, m.inFlight, build, knobCollector{board},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, EnableOpenMetrics: true})
}

// knobCollector shows the knobs beside what they cause.
type knobCollector struct{ board *knobs.Board }

var knobDesc = prometheus.NewDesc("demo_app_knob", "The position of a knob, in cores, seconds or bytes.", []string{"knob"}, nil)

// Describe implements prometheus.Collector.
func (c knobCollector) Describe(ch chan<- *prometheus.Desc) { ch <- knobDesc }

// Collect implements prometheus.Collector.
func (c knobCollector) Collect(ch chan<- prometheus.Metric) {
	s, _ := c.board.Get()
	for knob, v := range map[string]float64{
		"error_rate": s.ErrorRate,
		"latency":    seconds(s.Latency),
		"jitter":     seconds(s.Jitter),
		"cpu":        s.CPU,
		"memory":     float64(s.Memory),
		"leak":       float64(s.Leak),
		"log_noise":  s.LogNoise,
		"healthy":    truth(s.Healthy),
		"ready":      truth(s.Ready),
	} {
		ch <- prometheus.MustNewConstMetric(knobDesc, prometheus.GaugeValue, v, knob)
	}
}

func seconds(d knobs.Duration) float64 { return float64(d) / 1e9 }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
