package telemetry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Target is something to scrape that is not where Prometheus could reach it, or
// comes and goes. The daemon fetches its metrics.
type Target struct {
	Job, Instance string
	// URL is where the daemon finds the metrics.
	URL string
	// Labels are added to the target's series.
	Labels map[string]string
	// Health is set where URL tells how something is, and not in Prometheus's
	// format: it makes metrics of the answer.
	Health func(status int, body []byte) []Reading
}

// Reading is one value of a gauge.
type Reading struct {
	Name, Help string
	Labels     map[string]string
	Value      float64
}

// Discover finds what there is to scrape now. What it finds in spite of an error
// counts.
type Discover func(ctx context.Context) ([]Target, error)

// Join makes one of several.
func Join(all ...Discover) Discover {
	return func(ctx context.Context) ([]Target, error) {
		var out []Target
		var errs []error
		for _, d := range all {
			found, err := d(ctx)
			out, errs = append(out, found...), append(errs, err)
		}
		return out, errors.Join(errs...)
	}
}

// key names a target in a path.
func (t Target) key() string {
	sum := sha256.Sum256([]byte(t.Job + "\x00" + t.Instance + "\x00" + t.URL))
	return hex.EncodeToString(sum[:8])
}

const (
	// fetchTimeout is less than Prometheus waits for.
	fetchTimeout = 8 * time.Second
	// maxMetrics bounds what a target may answer, in bytes.
	maxMetrics = 16 << 20
	maxHealth  = 1 << 20
	// maxTargets bounds the list: each is scraped every few seconds.
	maxTargets = 200
)

type targets struct {
	discover Discover
	at       netip.AddrPort
	log      *zap.Logger
	client   *http.Client
}

// newClient asks what answers on this machine: through no proxy, and only who
// was asked, wherever that points to.
func newClient() *http.Client {
	return &http.Client{
		Timeout:       fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:               nil,
			DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
			DisableCompression:  true, // the answer is passed on as it is
			MaxIdleConnsPerHost: 1,
			IdleConnTimeout:     time.Minute,
		},
	}
}

// group is one element of what http_sd asks for.
type group struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// list answers http_sd. When nothing could be looked for, Prometheus is to go
// on with what it has: the answer is then an error.
func (t *targets) list(w http.ResponseWriter, r *http.Request) {
	found, err := t.discover(r.Context())
	if err != nil {
		t.log.Warn("look for targets", zap.Error(err))
		if len(found) == 0 {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	if len(found) > maxTargets {
		t.log.Warn("too many targets", zap.Int("found", len(found)), zap.Int("taken", maxTargets))
		found = found[:maxTargets]
	}
	groups := make([]group, 0, len(found))
	for _, target := range found {
		labels := map[string]string{}
		for name, value := range target.Labels {
			if !strings.HasPrefix(name, "__") {
				labels[name] = value
			}
		}
		labels["job"], labels["instance"] = target.Job, target.Instance
		labels["__metrics_path__"] = TargetsPath + "/" + target.key()
		groups = append(groups, group{[]string{t.at.String()}, labels})
	}
	slices.SortFunc(groups, func(a, b group) int {
		return strings.Compare(a.Labels["__metrics_path__"], b.Labels["__metrics_path__"])
	})
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(groups)
}

// relay answers with one target's metrics.
func (t *targets) relay(w http.ResponseWriter, r *http.Request) {
	found, err := t.discover(r.Context())
	i := slices.IndexFunc(found, func(target Target) bool { return target.key() == r.PathValue("key") })
	if i < 0 {
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		http.Error(w, "there is no such target (any more)", http.StatusNotFound)
		return
	}
	target := found[i]
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, target.URL, nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	for _, name := range []string{"Accept", "Accept-Encoding", "User-Agent", "X-Prometheus-Scrape-Timeout-Seconds"} {
		if v := r.Header.Values(name); v != nil {
			req.Header[name] = v
		}
	}
	if target.Health != nil {
		t.health(w, req, target)
		return
	}
	resp, err := t.client.Do(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for _, name := range []string{"Content-Type", "Content-Encoding"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(resp.StatusCode)
	if n, err := io.Copy(w, io.LimitReader(resp.Body, maxMetrics+1)); err != nil || n > maxMetrics {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
}

// health makes metrics of what a target answers, if it does: probe_success is
// what Prometheus's blackbox exporter calls it.
func (t *targets) health(w http.ResponseWriter, req *http.Request, target Target) {
	req.Header = http.Header{}
	begun := time.Now()
	success := 0.0
	var readings []Reading
	if resp, err := t.client.Do(req); err == nil {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxHealth))
		_ = resp.Body.Close()
		if err == nil && resp.StatusCode == http.StatusOK {
			success = 1
			readings = target.Health(resp.StatusCode, body)
		}
	}
	readings = append(readings,
		Reading{Name: "probe_success", Help: "Whether the target answered well.", Value: success},
		Reading{Name: "probe_duration_seconds", Help: "How long the target took to answer.", Value: time.Since(begun).Seconds()})
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = io.WriteString(w, format(readings))
}

// format writes gauges in Prometheus's text format.
func format(readings []Reading) string {
	slices.SortStableFunc(readings, func(a, b Reading) int { return strings.Compare(a.Name, b.Name) })
	var b strings.Builder
	for i, r := range readings {
		if i == 0 || readings[i-1].Name != r.Name {
			fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n", r.Name, r.Help, r.Name)
		}
		b.WriteString(r.Name)
		if len(r.Labels) > 0 {
			var pairs []string
			for name, value := range r.Labels {
				pairs = append(pairs, name+`="`+escape.Replace(strings.ToValidUTF8(value, "\uFFFD"))+`"`)
			}
			slices.Sort(pairs)
			b.WriteString("{" + strings.Join(pairs, ",") + "}")
		}
		fmt.Fprintf(&b, " %g\n", r.Value)
	}
	return b.String()
}

// escape is for the value of a label.
var escape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
