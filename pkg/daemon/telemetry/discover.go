package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Labels by which a container asks to be scraped: the same words as the
// annotations of pods and services that are customary in Kubernetes.
const (
	scrapeLabel = "prometheus.io/scrape" // "true"
	portLabel   = "prometheus.io/port"   // 8080 if not given
	pathLabel   = "prometheus.io/path"   // /metrics if not given
	jobLabel    = "prometheus.io/job"    // the container's name if not given
)

const defaultPort = 8080

// Containers finds an engine's containers that ask to be scraped.
func Containers(list func(context.Context) ([]api.Container, error)) Discover {
	return func(ctx context.Context) ([]Target, error) {
		all, err := list(ctx)
		if err != nil {
			return nil, fmt.Errorf("list containers: %w", err)
		}
		var out []Target
		for _, c := range all {
			if t, ok := targetOf(c); ok {
				out = append(out, t)
			}
		}
		return out, nil
	}
}

// targetOf reads a container's labels. The address is the engine's word, never
// the label's: a label must not send the daemon elsewhere.
func targetOf(c api.Container) (Target, bool) {
	labels := c.Spec.Labels
	if labels[scrapeLabel] != "true" || c.Status != api.StatusRunning {
		return Target{}, false
	}
	host := c.IP
	if host == "" {
		if c.Spec.Network.Mode != "host" {
			return Target{}, false // it is in no network
		}
		host = "127.0.0.1"
	}
	port := uint64(defaultPort)
	if p, ok := labels[portLabel]; ok {
		var err error
		if port, err = strconv.ParseUint(p, 10, 16); err != nil || port == 0 {
			return Target{}, false
		}
	}
	path := labels[pathLabel]
	if path == "" {
		path = "/metrics"
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	t := Target{
		Job: labels[jobLabel], Instance: c.Name,
		URL:    "http://" + net.JoinHostPort(host, strconv.FormatUint(port, 10)) + path,
		Labels: map[string]string{"container": c.Name, "engine": c.Engine},
	}
	if t.Job == "" {
		t.Job = c.Name
	}
	return t, true
}

// LocalStack is the target of a LocalStack at ADDRESS:PORT of this host.
func LocalStack(hostport string) Target {
	return Target{
		Job: "localstack", Instance: hostport, URL: "http://" + hostport + "/_localstack/health",
		Health: func(_ int, body []byte) []Reading { return localStackHealth(body) },
	}
}

// localStackHealth reads the answer of /_localstack/health: a state for each
// service, "available" when it has not been used yet, then "running".
func localStackHealth(body []byte) []Reading {
	var health struct {
		Services map[string]string `json:"services"`
		Version  string            `json:"version"`
		Edition  string            `json:"edition"`
	}
	if json.Unmarshal(body, &health) != nil {
		return nil
	}
	out := []Reading{{
		Name: "localstack_info", Help: "1; which LocalStack it is.", Value: 1,
		Labels: map[string]string{"version": health.Version, "edition": health.Edition},
	}}
	for service, state := range health.Services {
		r := Reading{
			Name: "localstack_service_up", Help: "Whether a service can be used: it is running, or starts when it is.",
			Labels: map[string]string{"service": service},
		}
		if state == "running" || state == "available" {
			r.Value = 1
		}
		if state != "disabled" {
			out = append(out, r)
		}
	}
	return out
}
