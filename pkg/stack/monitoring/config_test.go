package monitoring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"go.yaml.in/yaml/v3"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
	content "github.com/sandboxlabs/sandbox/sandbox/stack/monitoring"
)

var gateway = netip.MustParseAddrPort("172.30.0.1:5056")

// newStage returns a stage that has no Docker.
func newStage(t *testing.T) *Stage {
	t.Helper()
	root := t.TempDir()
	return New(Config{
		Dirs: state.Dirs{Root: filepath.Join(root, "lib"), Run: filepath.Join(root, "run")}, Content: content.Files,
		Telemetry: func() (netip.AddrPort, bool) { return gateway, true },
	})
}

func (s *Stage) mustConfigure(t *testing.T, ports map[string]uint16) settings {
	t.Helper()
	if err := s.configure(t.Context(), ports, stack.Progress{}); err != nil {
		t.Fatal(err)
	}
	set, err := s.settings()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func (set *settings) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(set.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// documents decodes each YAML document of text: it must be YAML, at least.
func documents(t *testing.T, text []byte) (docs []map[string]any) {
	t.Helper()
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var doc map[string]any
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		docs = append(docs, doc)
	}
}

func TestConfigure(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // the daemon's may be anything
	s := newStage(t)
	set := s.mustConfigure(t, map[string]uint16{"grafana": 3002, "localstack": 1})
	if set.Daemon != gateway || fmt.Sprint(set.Ports) != "map[grafana:3002]" || len(set.Digests) != 3 {
		t.Errorf("%+v", set)
	}
	config := set.read(t, "prometheus/prometheus.yml")
	for _, want := range []string{`targets: ["172.30.0.1:5056"]`, `targets: ["172.30.0.1:9100"]`, "url: http://172.30.0.1:5056/targets"} {
		if !strings.Contains(config, want) {
			t.Errorf("%q is not in\n%s", want, config)
		}
	}
	if strings.Contains(config, "grafana") || strings.Contains(config, "{{") {
		t.Errorf("before there is a Grafana:\n%s", config)
	}
	if text := set.read(t, "alertmanager/alertmanager.yml"); !strings.Contains(text, "url: http://172.30.0.1:5056/alerts") {
		t.Error(text)
	}
	// The services' users read them, and find neither tests nor templates.
	err := filepath.WalkDir(set.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if want := fs.FileMode(0o644); err == nil && !e.IsDir() && fi.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, fi.Mode())
		} else if err == nil && e.IsDir() && fi.Mode().Perm() != 0o755 {
			t.Errorf("folder %s has mode %v", path, fi.Mode())
		}
		if strings.Contains(path, "tests") || e.Name() == "cluster.yml" {
			t.Errorf("%s is there", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	// Nothing changes when nothing changes, not even a file's time.
	before := stamps(t, set.dir)
	again := s.mustConfigure(t, nil)
	if got := stamps(t, set.dir); !slices.Equal(got, before) || fmt.Sprint(again) != fmt.Sprint(set) {
		t.Errorf("%v became %v", before, got)
	}
	// What is damaged, superfluous or half-written is mended, in the same folder.
	inode := fileID(t, set.folder("prometheus"))
	for _, name := range []string{"prometheus/rules/old.yml", "prometheus/.prometheus.yml.123", "prometheus/cluster.yml"} {
		if err := os.WriteFile(filepath.Join(set.dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(set.dir, "prometheus/rules/targets.yml")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(set.dir, "alertmanager/alertmanager.yml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again = s.mustConfigure(t, nil)
	if fmt.Sprint(again.Digests) != fmt.Sprint(set.Digests) || fileID(t, set.folder("prometheus")) != inode {
		t.Errorf("%v, %v", again.Digests, set.Digests)
	}
	for _, name := range []string{"prometheus/rules/old.yml", "prometheus/.prometheus.yml.123", "prometheus/cluster.yml"} {
		if _, err := os.Stat(filepath.Join(set.dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	// Another address of the daemon is another configuration of both.
	gateway2 := netip.MustParseAddrPort("172.31.0.1:5057")
	s.Telemetry = func() (netip.AddrPort, bool) { return gateway2, true }
	moved := s.mustConfigure(t, nil)
	if moved.Digests["prometheus"] == set.Digests["prometheus"] || moved.Digests["alertmanager"] == set.Digests["alertmanager"] || moved.Digests["grafana"] != set.Digests["grafana"] {
		t.Errorf("%v, %v", moved.Digests, set.Digests)
	}
	if moved.Ports["grafana"] != 3002 {
		t.Errorf("ports are forgotten: %v", moved.Ports)
	}

	if err := s.forget(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.settings(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := os.Stat(set.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := s.forget(); err != nil {
		t.Error(err)
	}
}

func TestNoTelemetry(t *testing.T) {
	s := newStage(t)
	s.Telemetry = func() (netip.AddrPort, bool) { return netip.AddrPort{}, false }
	err := s.configure(t.Context(), nil, stack.Progress{})
	hint, ok := errors.AsType[interface {
		error
		Hint() string
	}](err)
	if !errdefs.IsFailedPrecondition(err) || !ok || hint.Hint() == "" {
		t.Error(err)
	}
}

// stamps are the files of a folder, with their times.
func stamps(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			out = append(out, fmt.Sprint(path, fi.ModTime()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func fileID(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestClusterFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the token is made Prometheus's, which takes root")
	}
	s := newStage(t)
	before := s.mustConfigure(t, nil)
	reach := Reach{APIServer: "sandbox-control-plane:6443", CA: []byte("CA")}
	if err := s.writeCluster(reach, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	set := s.mustConfigure(t, nil) // which must leave it
	if set.APIServer != reach.APIServer || set.Digests["prometheus"] == before.Digests["prometheus"] {
		t.Errorf("%+v", set)
	}
	var st syscall.Stat_t
	token := filepath.Join(set.dir, "prometheus/cluster/token")
	if err := syscall.Stat(token, &st); err != nil || st.Uid != nobody || st.Mode&0o777 != 0o400 {
		t.Errorf("token: %v, user %d, mode %o", err, st.Uid, st.Mode)
	}
	text := set.read(t, "prometheus/cluster.yml")
	docs := documents(t, []byte(text))
	jobs := map[string]bool{}
	for _, job := range docs[0]["scrape_configs"].([]any) {
		jobs[job.(map[string]any)["job_name"].(string)] = true
	}
	for _, want := range []string{"apiserver", "kubelet", "cadvisor", "kube-proxy", "kube-controller-manager", "kube-scheduler", "etcd", "coredns", "kube-state-metrics", "pods", "services"} {
		if !jobs[want] {
			t.Errorf("no job %s in\n%s", want, text)
		}
	}
	// A new token is no new configuration: it is read at each scrape.
	if err := s.writeCluster(reach, []byte("another")); err != nil {
		t.Fatal(err)
	}
	if again, _ := s.settings(); again.Digests["prometheus"] != set.Digests["prometheus"] || set.read(t, "prometheus/cluster/token") != "another" {
		t.Errorf("%v", again.Digests)
	}
	// The cluster is gone.
	if err := s.record(func(set *settings) { set.APIServer = "" }); err != nil {
		t.Fatal(err)
	}
	if gone := s.mustConfigure(t, nil); gone.Digests["prometheus"] != before.Digests["prometheus"] {
		t.Errorf("%v, %v", gone.Digests, before.Digests)
	}
	if _, err := os.Stat(token); err == nil {
		t.Error("the token is still there")
	}
}

// TestManifests: what goes into the cluster carries our label.
func TestManifests(t *testing.T) {
	for _, name := range []string{"cluster/prometheus.yml", "cluster/kube-state-metrics.yml"} {
		text, err := fs.ReadFile(content.Files, name)
		if err == nil {
			text, err = fill(name, text, map[string]any{"Image": "kube-state-metrics:v2.18.0"})
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range documents(t, text) {
			meta, _ := doc["metadata"].(map[string]any)
			labels, _ := meta["labels"].(map[string]any)
			if doc["kind"] == nil || meta["name"] == nil || labels["io.sandboxlabs.stage"] != Name {
				t.Errorf("%s: %v %v has labels %v", name, doc["kind"], meta["name"], labels)
			}
		}
	}
}

func TestConnectWithout(t *testing.T) {
	s := newStage(t)
	if err := s.Connect(t.Context(), stack.Progress{}); err != nil {
		t.Errorf("before the stage is up: %v", err)
	}
	s.mustConfigure(t, nil)
	if err := s.Connect(t.Context(), stack.Progress{}); err != nil {
		t.Errorf("without a cluster: %v", err)
	}
	s.Cluster = brokenCluster{}
	if err := s.Connect(t.Context(), stack.Progress{}); err == nil || !strings.Contains(err.Error(), "reach the cluster: broken") {
		t.Error(err)
	}
}

type brokenCluster struct{ Cluster }

func (brokenCluster) Reach(context.Context) (Reach, error) { return Reach{}, errors.New("broken") }

// TestPortsOfAFailedUp: a port that an `up` asked for, and did not get there
// with, is not the next one's.
func TestPortsOfAFailedUp(t *testing.T) {
	s := newStage(t)
	configure := func(chosen map[string]uint16) string {
		t.Helper()
		if err := s.Up(api.UpOptions{Settings: api.Settings{Ports: chosen}})[0].Do(t.Context(), stack.Progress{}); err != nil {
			t.Fatal(err)
		}
		set, err := s.settings()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(set.Ports)
	}
	if got := configure(map[string]uint16{"prometheus": 22}); got != "map[prometheus:22]" {
		t.Error(got)
	}
	if got := configure(nil); got != "map[]" {
		t.Errorf("the next up: %s", got)
	}
}
