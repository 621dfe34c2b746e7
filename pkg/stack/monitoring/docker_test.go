package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/volume"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/daemon/telemetry"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
	content "github.com/sandboxlabs/sandbox/sandbox/stack/monitoring"
)

const quickRule = `
groups:
  - name: test
    interval: 1s
    rules:
      - {alert: TestFailing, expr: test_failing > 0, for: 1s, labels: {severity: critical}, annotations: {summary: "It fails: {{ $value }}"}}
`

// TestStage: everything runs, sees its targets, is repaired, told of changes
// without being made anew, and taken away.
func TestStage(t *testing.T) {
	w := newWorld(t)
	notes := w.mustUp(api.UpOptions{})
	if !strings.HasPrefix(notes["grafana"], "not here: ") || notes["cluster"] != "no cluster yet" {
		t.Errorf("%q", notes)
	}
	w.checkStatus()
	w.checkTargets()

	// Watchdog arrives, and nothing else fires.
	eventually(t, "Watchdog arrives", time.Minute, func() (bool, any) {
		list := w.alerts.List()
		return slices.ContainsFunc(list, func(a api.Alert) bool { return a.Name == "Watchdog" && a.Status == api.AlertFiring }), list
	})
	firing, err := w.query(`ALERTS{alertname!="Watchdog"}`)
	if err != nil || len(firing) > 0 {
		t.Errorf("alerts on a fresh stack: %v, %v", firing, err)
	}
	w.checkQueries()
	w.checkDiscovery()

	// Again: nothing is done.
	before := w.ids()
	if notes := w.mustUp(api.UpOptions{}); notes["prometheus"] != "already there" || notes["configuration"] != "already there" {
		t.Errorf("%q", notes)
	}
	if got := w.ids(); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("%v became %v", before, got)
	}

	// Another rule is read by the same Prometheus; it fires, arrives, resolves.
	w.Content = overlaid(t, map[string]string{"prometheus/rules/test.yml": quickRule})
	w.mustUp(api.UpOptions{})
	if got := w.ids(); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("%v became %v", before, got)
	}
	w.failing.Store(7)
	eventually(t, "the alert arrives", time.Minute, func() (bool, any) { return w.told(api.AlertFiring), w.alerts.List() })
	w.failing.Store(0)
	eventually(t, "its end arrives", time.Minute, func() (bool, any) { return w.told(api.AlertResolved), w.alerts.List() })

	// A faulty rule is an error that says so, and harms nothing.
	w.Content = overlaid(t, map[string]string{"prometheus/rules/test.yml": "groups: [{name: x, rules: [{alert: A, expr: '('}]}]"})
	if _, err := w.up(t.Context(), api.UpOptions{}); err == nil || !strings.Contains(err.Error(), "faulty") {
		t.Errorf("a faulty rule: %v", err)
	}
	w.Content = content.Files
	w.mustUp(api.UpOptions{})

	w.checkRepair()
}

func (w *world) told(status string) bool {
	return slices.ContainsFunc(w.alerts.List(), func(a api.Alert) bool {
		return a.Name == "TestFailing" && a.Status == status && a.Annotations["summary"] == "It fails: 7" && a.Labels["instance"] == "web"
	})
}

func (w *world) checkStatus() {
	t := w.t
	t.Helper()
	for _, s := range w.graph.Status(t.Context()) {
		if s.Status != stack.StateUp || s.Error != "" {
			t.Errorf("%+v", s)
		}
		if s.Name != Name {
			continue
		}
		got := map[string]string{}
		for _, it := range s.Items {
			got[it.What] = it.State + " " + it.Where
		}
		gateway, _ := w.telemetry.Address()
		want := map[string]string{
			"prometheus": "up http://127.0.0.1:9090", "alertmanager": "up http://127.0.0.1:9093",
			"node-exporter": "up " + gateway.Addr().String() + ":9100", "grafana": "absent ",
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// checkTargets: all are up, and they are the right ones.
func (w *world) checkTargets() {
	w.t.Helper()
	w.checkJobs("[alertmanager app containers node prometheus sandbox]")
}

// checkJobs waits until the targets are those of the jobs, and up.
func (w *world) checkJobs(want string) {
	w.t.Helper()
	eventually(w.t, "all targets are up", 2*time.Minute, func() (bool, any) {
		var data struct {
			ActiveTargets []struct {
				Labels    map[string]string
				Health    string
				LastError string
			}
		}
		if err := w.ask("targets", &data); err != nil {
			return false, err
		}
		var jobs []string
		for _, target := range data.ActiveTargets {
			if target.Health != "up" {
				return false, target
			}
			jobs = append(jobs, target.Labels["job"])
		}
		slices.Sort(jobs)
		return fmt.Sprint(jobs) == want, jobs
	})
}

// checkQueries: every panel's query is one that Prometheus answers, and those on
// what is there have data.
func (w *world) checkQueries() {
	t := w.t
	t.Helper()
	// rate() takes two samples.
	eventually(t, "the app's rate", time.Minute, func() (bool, any) {
		got, err := w.query("sum(rate(http_requests_total[5m]))")
		return len(got) == 1, err
	})
	empty := w.emptyPanels()
	for _, title := range []string{"Requests", "Error rate", "Alerts firing", "Targets down", "Request rate", "Errors by path",
		"CPU usage of containers", "CPU throttling", "Memory usage of containers", "Memory usage of the limit", "Memory usage of this machine", "OOM kills"} {
		if slices.Contains(empty, title) {
			t.Errorf("panel %s has no data", title)
		}
	}
}

// emptyPanels are those whose queries have no data. Each is one that Prometheus
// answers.
func (w *world) emptyPanels() (empty []string) {
	t := w.t
	t.Helper()
	b, err := fs.ReadFile(content.Files, "grafana/dashboards/golden-signals.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		with := 0
		for _, target := range p.Targets {
			got, err := w.query(target.Expr)
			if err != nil {
				t.Errorf("panel %s: %s: %v", p.Title, target.Expr, err)
			}
			with += len(got)
		}
		if with == 0 && len(p.Targets) > 0 {
			empty = append(empty, p.Title)
		}
	}
	return empty
}

// checkDiscovery: containers of Docker that ask to be scraped are found where
// this host reaches them, and so is what a service publishes.
func (w *world) checkDiscovery() {
	t := w.t
	t.Helper()
	c := dockertest.Client(t)
	image := "127.0.0.1" // what the stage has pulled
	for _, have := range must(c.ContainerList(t.Context(), container.ListOptions{}))(t) {
		if have.Names[0] == "/sandbox-alertmanager" {
			image = have.Image
		}
	}
	var ids []string
	for name, network := range map[string]string{"asks": "bridge", "asks-not": "bridge", "asks-alone": "none"} {
		labels := map[string]string{"prometheus.io/scrape": fmt.Sprint(name != "asks-not")}
		made := must(c.ContainerCreate(t.Context(), &container.Config{Image: image, Labels: labels}, &container.HostConfig{NetworkMode: container.NetworkMode(network)}, nil, nil, name))(t)
		ids = append(ids, made.ID)
		if err := c.ContainerStart(t.Context(), made.ID, container.StartOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		for _, id := range ids {
			if err := c.ContainerRemove(context.Background(), id, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
				t.Error(err)
			}
		}
	}()
	targets, err := telemetry.Containers(Scraped(w.Docker))(t.Context())
	if err != nil || len(targets) != 1 || targets[0].Instance != "asks" || !strings.HasSuffix(targets[0].URL, ":8080/metrics") || targets[0].Labels["engine"] != "docker" {
		t.Errorf("%+v, %v", targets, err)
	}
	for port, want := range map[uint16]string{9090: "127.0.0.1:9090", 9091: "invalid AddrPort"} {
		at, ok, err := Published(t.Context(), w.Docker, "sandbox-prometheus", port)
		if err != nil || at.String() != want || ok != at.IsValid() {
			t.Errorf("port %d of Prometheus is at %v, %t, %v", port, at, ok, err)
		}
	}
	for _, name := range []string{"asks", "nobody"} {
		if at, ok, err := Published(t.Context(), w.Docker, name, 9090); ok || err != nil {
			t.Errorf("%s: %v, %v", name, at, err)
		}
	}
}

// must ends the test with an error.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// checkRepair: what is killed, stopped, removed, changed by hand or on the wrong
// port is as it should be after the next up, with what was measured.
func (w *world) checkRepair() {
	t := w.t
	t.Helper()
	c := dockertest.Client(t)
	if err := c.ContainerKill(t.Context(), "sandbox-prometheus", "KILL"); err != nil {
		t.Fatal(err)
	}
	if err := c.ContainerRemove(t.Context(), "sandbox-alertmanager", container.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.ContainerPause(t.Context(), "sandbox-node-exporter"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(w.Dirs.StageDir(Name), "prometheus", "rules")); err != nil {
		t.Fatal(err)
	}
	w.mustUp(api.UpOptions{Settings: api.Settings{Ports: map[string]uint16{"prometheus": 19090}}})
	var rules struct{ Groups []any }
	if err := w.ask("rules", &rules); err != nil || len(rules.Groups) != 3 {
		t.Errorf("%d groups of rules, %v", len(rules.Groups), err)
	}
	set, err := w.settings()
	if err != nil || set.port("prometheus") != 19090 {
		t.Errorf("%+v, %v", set, err)
	}
	// What was measured before is still there.
	var data struct{ Result []any }
	if err := w.ask(fmt.Sprintf("query_range?query=max(test_failing)&start=%d&end=%d&step=5", time.Now().Add(-5*time.Minute).Unix(), time.Now().Unix()), &data); err != nil || len(data.Result) != 1 {
		t.Errorf("earlier samples: %v, %v", data, err)
	}
	w.checkTargets()

	// An up that is broken off at any moment is mended by the next.
	for _, after := range []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond, time.Second} {
		if err := c.ContainerRemove(t.Context(), "sandbox-prometheus", container.RemoveOptions{Force: true}); err != nil && !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, err := w.up(ctx, api.UpOptions{})
		cancel()
		t.Logf("broken off after %v: %v", after, err)
	}
	w.mustUp(api.UpOptions{})
	w.checkTargets()

	// Down leaves the volumes, and up finds them again.
	if err := w.down(api.DownOptions{}); err != nil {
		t.Fatal(err)
	}
	if ids := w.ids(); len(ids) > 0 {
		t.Errorf("after down: %v", ids)
	}
	if left, err := c.VolumeList(t.Context(), volume.ListOptions{}); err != nil || len(left.Volumes) != 2 {
		t.Errorf("volumes after down: %+v, %v", left.Volumes, err)
	}
	items, err := w.Status(t.Context())
	if err != nil || len(items) != 4 || items[0].State != stack.StateDown {
		t.Errorf("%+v, %v", items, err)
	}
}

// TestCluster: Prometheus takes up a cluster's targets when there is one, and
// drops them with it.
func TestCluster(t *testing.T) {
	w := newWorld(t)
	openRecipes(t, "kube-state-metrics")
	cluster := &fakeCluster{secrets: 2}
	w.Cluster = cluster
	w.mustUp(api.UpOptions{})
	jobs := func(t *testing.T, what string, want int) {
		t.Helper()
		eventually(t, what, time.Minute, func() (bool, any) {
			var data struct{ ScrapePools []string }
			err := w.ask("scrape_pools", &data)
			return err == nil && len(data.ScrapePools) == want, data.ScrapePools
		})
	}
	const without, with = 6, 6 + 11
	jobs(t, "jobs without a cluster", without)
	cluster.up = true
	before := w.ids()
	if err := w.Connect(t.Context(), stack.Progress{}); err != nil {
		t.Fatal(err)
	}
	jobs(t, "jobs with a cluster", with)
	if len(cluster.applied) != 2 || !strings.Contains(cluster.applied[0], "name: prometheus-token") || !strings.Contains(cluster.applied[1], `image: "kube-state-metrics:`) {
		t.Errorf("%q", cluster.applied)
	}
	w.mustUp(api.UpOptions{}) // which connects again, to no effect
	jobs(t, "jobs after another up", with)
	cluster.up = false
	if err := w.Connect(t.Context(), stack.Progress{}); err != nil {
		t.Error(err)
	}
	jobs(t, "jobs after the cluster's end", without)
	if got := w.ids(); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("%v became %v", before, got)
	}
}

// fakeCluster makes a token after it was asked for it so many times.
type fakeCluster struct {
	up      bool
	secrets int
	applied []string
}

func (c *fakeCluster) Reach(context.Context) (Reach, error) {
	if !c.up {
		return Reach{}, errdefs.ErrNotFound
	}
	return Reach{APIServer: "sandbox-control-plane:6443", CA: []byte(testCA)}, nil
}

func (c *fakeCluster) Apply(_ context.Context, manifests []byte) error {
	c.applied = append(c.applied, string(manifests))
	return nil
}

func (c *fakeCluster) Secret(_ context.Context, namespace, name string) (map[string][]byte, error) {
	if c.secrets--; c.secrets > 0 {
		return nil, fmt.Errorf("secret %s/%s: %w", namespace, name, errdefs.ErrNotFound)
	}
	return map[string][]byte{"token": []byte("secret")}, nil
}

const testCA = `-----BEGIN CERTIFICATE-----
MIIBhTCCASugAwIBAgIQIRi6zePL6mKjOipn+dNuaTAKBggqhkjOPQQDAjASMRAw
DgYDVQQKEwdBY21lIENvMB4XDTE3MTAyMDE5NDMwNloXDTE4MTAyMDE5NDMwNlow
EjEQMA4GA1UEChMHQWNtZSBDbzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABD0d
7VNhbWvZLWPuj/RtHFjvtJBEwOkhbN/BnnE8rnZR8+sbwnc/KhCk3FhnpHZnQz7B
5aETbbIgmuvewdjvSBSjYzBhMA4GA1UdDwEB/wQEAwICpDATBgNVHSUEDDAKBggr
BgEFBQcDATAPBgNVHRMBAf8EBTADAQH/MCkGA1UdEQQiMCCCDmxvY2FsaG9zdDo1
NDUzgg4xMjcuMC4wLjE6NTQ1MzAKBggqhkjOPQQDAgNIADBFAiEA2zpJEPQyz6/l
Wf86aX6PepsntZv2GYlA5UpabfT2EZICICpJ5h/iI+i341gBmLiAFQOyTDT+/wQc
6MF9+Yw1Yy0t
-----END CERTIFICATE-----
`
