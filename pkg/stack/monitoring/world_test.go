package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/volume"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/daemon/alerts"
	"github.com/sandboxlabs/sandbox/pkg/daemon/metrics"
	"github.com/sandboxlabs/sandbox/pkg/daemon/telemetry"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
	"github.com/sandboxlabs/sandbox/pkg/state"
	content "github.com/sandboxlabs/sandbox/sandbox/stack/monitoring"
)

func TestMain(m *testing.M) { os.Exit(dockertest.MainWithNodes(m)) }

// openRecipes skips the test where images are missing.
func openRecipes(t *testing.T, names ...string) dockertest.Images {
	t.Helper()
	root, err := dockertest.Kept()
	if err != nil {
		t.Skip(err)
	}
	if _, err := os.Stat(filepath.Join(root, "images", "index.json")); err != nil {
		t.Skipf("no images are built: %v (go test ./images -run TestRecipes)", err)
	}
	store, err := image.Open(state.Dirs{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	for _, name := range names {
		if _, err := store.Resolve(name); err != nil {
			t.Skipf("%v (go test ./images -run TestRecipes/%s)", err, name)
		}
	}
	endpoint := &registry.Server{Store: store, Addr: "127.0.0.1:0"}
	endpoint.Start(t.Context())
	return dockertest.Images{Store: store, Endpoint: endpoint}
}

// world is a stack of the stages docker and monitoring, with what the daemon
// does for them.
type world struct {
	*Stage
	t         *testing.T
	graph     *stack.Graph
	alerts    *alerts.Store
	telemetry *telemetry.Server
	failing   atomic.Int64 // what the app tells of itself
}

// oneContainer is an engine that has a container, and tells its statistics.
type oneContainer struct{}

func (oneContainer) List(context.Context) ([]api.Container, error) {
	return []api.Container{{ID: "abc", Name: "web", Image: "demo-app", Status: api.StatusRunning, Started: time.Now()}}, nil
}

func (oneContainer) Stats(context.Context, string) (api.Stats, error) {
	return api.Stats{Time: time.Now(), CPU: &api.CPUStats{UsageUsec: uint64(time.Now().UnixMicro()) / 4, Periods: 10, Throttled: 1, QuotaUsec: 1, PeriodUsec: 1},
		Memory: &api.MemoryStats{Current: 1 << 20, Limit: 2 << 20}}, nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	host := dockertest.Host(t)
	images := openRecipes(t, "prometheus", "alertmanager", "node-exporter")
	w := &world{t: t}
	// An app on this host that the daemon fetches the metrics of.
	app := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintf(rw, "# TYPE test_failing gauge\ntest_failing %d\n# TYPE http_requests_total counter\nhttp_requests_total{status=\"200\",path=\"/\"} %d\n", w.failing.Load(), time.Now().Unix())
	}))
	t.Cleanup(app.Close)
	dirs := state.Dirs{Root: filepath.Join(t.TempDir(), "lib")}
	exporter := metrics.New(api.Version{Version: "test"}, oneContainer{}, nil)
	w.alerts = &alerts.Store{Path: dirs.Alerts()}
	w.telemetry = &telemetry.Server{
		Metrics: exporter.Daemon(), Containers: exporter.Containers(), Alerts: w.alerts,
		Discover: func(context.Context) ([]telemetry.Target, error) {
			return []telemetry.Target{{Job: "app", Instance: "web", URL: app.URL}}, nil
		},
	}
	w.telemetry.Start(t.Context())
	engine := docker.New(docker.Config{
		Host: host, State: dirs.Root, Images: images, Registry: images.Endpoint.Address,
		Serve: func(_ context.Context, gateway netip.Addr) error {
			return errors.Join(images.Endpoint.ServeAt(gateway), w.telemetry.ServeAt(gateway))
		},
	})
	w.Stage = New(Config{Dirs: dirs, Docker: engine, Images: images, Content: content.Files, Telemetry: w.telemetry.Address})
	var err error
	if w.graph, err = stack.New(docker.NewStage(engine), w.Stage); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.down(api.DownOptions{Purge: true}); err != nil {
			t.Errorf("down --purge: %v", err)
		}
		c := dockertest.Client(t)
		if left, err := c.ContainerList(context.Background(), container.ListOptions{All: true}); err != nil || len(left) > 0 {
			t.Errorf("containers left: %v, %v", left, err)
		}
		if left, err := c.VolumeList(context.Background(), volume.ListOptions{}); err != nil || len(left.Volumes) > 0 {
			t.Errorf("volumes left: %v, %v", left, err)
		}
		if _, err := os.Stat(dirs.StageDir(Name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("configuration left: %v", err)
		}
		_ = engine.Close()
	})
	return w
}

func (w *world) up(ctx context.Context, opts api.UpOptions) (notes map[string]string, err error) {
	plan, err := w.graph.Up(opts)
	if err != nil {
		w.t.Fatal(err)
	}
	notes = map[string]string{}
	err = plan.Run(ctx, func(task api.Task) {
		if task.Stage == Name { // its steps come one after the other
			notes[task.Name] = task.Note
		}
	})
	return notes, err
}

func (w *world) mustUp(opts api.UpOptions) map[string]string {
	w.t.Helper()
	begun := time.Now()
	notes, err := w.up(w.t.Context(), opts)
	if err != nil {
		w.t.Fatalf("up: %v", err)
	}
	w.t.Logf("measured: up in %.1f s: %v", time.Since(begun).Seconds(), notes)
	return notes
}

func (w *world) down(opts api.DownOptions) error {
	plan, err := w.graph.Down(opts)
	if err != nil {
		return err
	}
	return plan.Run(context.Background(), func(api.Task) {})
}

// ask calls Prometheus's API and decodes its data.
func (w *world) ask(path string, into any) error {
	set, err := w.settings()
	if err != nil {
		return err
	}
	body, err := get(w.t.Context(), local(set.port("prometheus"), "/api/v1/"+path))
	if err != nil {
		return err
	}
	return json.Unmarshal(body, &struct{ Data any }{into})
}

// query returns the values of an instant query, by their labels.
func (w *world) query(expr string) (map[string]string, error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if err := w.ask("query?query="+url.QueryEscape(expr), &data); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, r := range data.Result {
		out[fmt.Sprint(r.Metric)] = fmt.Sprint(r.Value[1])
	}
	return out, nil
}

func (w *world) ids() map[string]string {
	w.t.Helper()
	list, err := dockertest.Client(w.t).ContainerList(w.t.Context(), container.ListOptions{All: true})
	if err != nil {
		w.t.Fatal(err)
	}
	ids := map[string]string{}
	for _, c := range list {
		ids[c.Names[0]] = c.ID
	}
	return ids
}

func eventually(t *testing.T, what string, within time.Duration, ok func() (bool, any)) {
	t.Helper()
	begun := time.Now()
	var last any
	for time.Since(begun) < within {
		var done bool
		if done, last = ok(); done {
			t.Logf("measured: %s after %.1f s", what, time.Since(begun).Seconds())
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("not within %v: %s; last: %v", within, what, last)
}

// overlaid is the content with files added.
func overlaid(t *testing.T, files map[string]string) fs.FS {
	t.Helper()
	out := fstest.MapFS{}
	err := fs.WalkDir(content.Files, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(content.Files, name)
		out[name] = &fstest.MapFile{Data: b}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}
