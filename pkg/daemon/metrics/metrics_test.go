package metrics

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// fakeEngine has the containers and statistics that it is given.
type fakeEngine struct {
	list  []api.Container
	stats map[string]api.Stats
	fail  error
}

func (e *fakeEngine) List(context.Context) ([]api.Container, error) { return e.list, e.fail }

func (e *fakeEngine) Stats(_ context.Context, ref string) (api.Stats, error) {
	s, ok := e.stats[ref]
	if !ok {
		return s, fmt.Errorf("container %s has exited: %w", ref, errdefs.ErrFailedPrecondition)
	}
	return s, nil
}

func running(id, name string) api.Container {
	return api.Container{
		ID: id, Name: name, Image: "demo-app:latest", Status: api.StatusRunning,
		Started: time.Unix(1000, 0), Cgroup: "/sys/fs/cgroup/sandbox/" + id,
	}
}

func full(id string) api.Stats {
	return api.Stats{
		ID: id, Time: time.Unix(2000, 500e6),
		CPU: &api.CPUStats{
			UsageUsec: 3_500_000, UserUsec: 2_000_000, SystemUsec: 1_500_000,
			Periods: 100, Throttled: 25, ThrottledUsec: 750_000, QuotaUsec: 50_000, PeriodUsec: 100_000,
		},
		Memory: &api.MemoryStats{
			Current: 64 << 20, Limit: 128 << 20, Swap: 1, Anon: 40 << 20, File: 20 << 20, InactiveFile: 14 << 20, FileMapped: 3 << 20,
			Kernel: 2 << 20, Peak: 100 << 20, PageFaults: 7, MajorPageFaults: 2, OOM: 4, OOMKill: 3,
		},
		Pids: &api.PidsStats{Current: 9, Limit: 20, Processes: 4},
		IO: &api.IOStats{Devices: []api.IODevice{
			{Major: 8, Minor: 0, ReadBytes: 10, WriteBytes: 20, ReadOps: 1, WriteOps: 2},
			{Major: 7, Minor: 3, ReadBytes: 30, WriteBytes: 40, ReadOps: 3, WriteOps: 4},
		}},
		Net: &api.NetStats{Interfaces: []api.NetInterface{{
			Name: "eth0", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDropped: 8,
		}}},
	}
}

// newSysfs returns a sysfs that knows the disk 8:0.
func newSysfs(t *testing.T) string {
	t.Helper()
	sys := t.TempDir()
	if err := os.MkdirAll(filepath.Join(sys, "dev", "block"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../devices/pci0000:00/block/sda", filepath.Join(sys, "dev", "block", "8:0")); err != nil {
		t.Fatal(err)
	}
	return sys
}

const everything = `
container_cpu_cfs_periods_total{id="/sandbox/a1",image="demo-app:latest",name="web"} 100
container_cpu_cfs_throttled_periods_total{id="/sandbox/a1",image="demo-app:latest",name="web"} 25
container_cpu_cfs_throttled_seconds_total{id="/sandbox/a1",image="demo-app:latest",name="web"} 0.75
container_cpu_system_seconds_total{id="/sandbox/a1",image="demo-app:latest",name="web"} 1.5
container_cpu_usage_seconds_total{cpu="total",id="/sandbox/a1",image="demo-app:latest",name="web"} 3.5
container_cpu_user_seconds_total{id="/sandbox/a1",image="demo-app:latest",name="web"} 2
container_fs_reads_bytes_total{device="/dev/sda",id="/sandbox/a1",image="demo-app:latest",name="web"} 10
container_fs_reads_bytes_total{device="7:3",id="/sandbox/a1",image="demo-app:latest",name="web"} 30
container_fs_reads_total{device="/dev/sda",id="/sandbox/a1",image="demo-app:latest",name="web"} 1
container_fs_reads_total{device="7:3",id="/sandbox/a1",image="demo-app:latest",name="web"} 3
container_fs_writes_bytes_total{device="/dev/sda",id="/sandbox/a1",image="demo-app:latest",name="web"} 20
container_fs_writes_bytes_total{device="7:3",id="/sandbox/a1",image="demo-app:latest",name="web"} 40
container_fs_writes_total{device="/dev/sda",id="/sandbox/a1",image="demo-app:latest",name="web"} 2
container_fs_writes_total{device="7:3",id="/sandbox/a1",image="demo-app:latest",name="web"} 4
container_last_seen{id="/sandbox/a1",image="demo-app:latest",name="web"} 2000.5
container_memory_cache{id="/sandbox/a1",image="demo-app:latest",name="web"} 2.097152e+07
container_memory_failures_total{failure_type="pgfault",id="/sandbox/a1",image="demo-app:latest",name="web",scope="hierarchy"} 7
container_memory_failures_total{failure_type="pgmajfault",id="/sandbox/a1",image="demo-app:latest",name="web",scope="hierarchy"} 2
container_memory_kernel_usage{id="/sandbox/a1",image="demo-app:latest",name="web"} 2.097152e+06
container_memory_mapped_file{id="/sandbox/a1",image="demo-app:latest",name="web"} 3.145728e+06
container_memory_max_usage_bytes{id="/sandbox/a1",image="demo-app:latest",name="web"} 1.048576e+08
container_memory_rss{id="/sandbox/a1",image="demo-app:latest",name="web"} 4.194304e+07
container_memory_swap{id="/sandbox/a1",image="demo-app:latest",name="web"} 1
container_memory_usage_bytes{id="/sandbox/a1",image="demo-app:latest",name="web"} 6.7108864e+07
container_memory_working_set_bytes{id="/sandbox/a1",image="demo-app:latest",name="web"} 5.24288e+07
container_network_receive_bytes_total{id="/sandbox/a1",image="demo-app:latest",interface="eth0",name="web"} 1
container_network_receive_errors_total{id="/sandbox/a1",image="demo-app:latest",interface="eth0",name="web"} 3
container_network_receive_packets_dropped_total{id="/sandbox/a1",image="demo-app:latest",interface="eth0",name="web"} 4
container_network_receive_packets_total{id="/sandbox/a1",image="demo-app:latest",interface="eth0",name="web"} 2
container_network_transmit_bytes_total{id="/sandbox/a1",image="demo-app:latest",interface="eth0",name="web"} 5
container_network_transmit_errors_total{id="/sandbox/a1",image="demo-app:latest",interface="eth0",name="web"} 7
container_network_transmit_packets_dropped_total{id="/sandbox/a1",image="demo-app:latest",interface="eth0",name="web"} 8
container_network_transmit_packets_total{id="/sandbox/a1",image="demo-app:latest",interface="eth0",name="web"} 6
container_oom_events_total{id="/sandbox/a1",image="demo-app:latest",name="web"} 3
container_processes{id="/sandbox/a1",image="demo-app:latest",name="web"} 4
container_scrape_error 0
container_spec_cpu_period{id="/sandbox/a1",image="demo-app:latest",name="web"} 100000
container_spec_cpu_quota{id="/sandbox/a1",image="demo-app:latest",name="web"} 50000
container_spec_memory_limit_bytes{id="/sandbox/a1",image="demo-app:latest",name="web"} 1.34217728e+08
container_start_time_seconds{id="/sandbox/a1",image="demo-app:latest",name="web"} 1000
container_threads{id="/sandbox/a1",image="demo-app:latest",name="web"} 9
container_threads_max{id="/sandbox/a1",image="demo-app:latest",name="web"} 20
sandbox_containers{status="created"} 0
sandbox_containers{status="exited"} 1
sandbox_containers{status="paused"} 0
sandbox_containers{status="running"} 1
`

// series gathers what the collector tells, a line each, sorted.
func series(t *testing.T, c prometheus.Collector) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	return text(t, r)
}

func text(t *testing.T, g prometheus.Gatherer) string {
	t.Helper()
	problems, err := testutil.GatherAndLint(g)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		// cAdvisor's names are older than the rules for names.
		if !strings.HasPrefix(p.Metric, "container_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("\n")
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			b.WriteString(f.GetName())
			if len(labels) > 0 {
				b.WriteString("{" + strings.Join(labels, ",") + "}")
			}
			fmt.Fprintf(&b, " %v\n", value)
		}
	}
	return b.String()
}

func TestEverything(t *testing.T) {
	e := &fakeEngine{
		list:  []api.Container{running("a1", "web"), {ID: "b2", Status: api.StatusExited}},
		stats: map[string]api.Stats{"a1": full("a1")},
	}
	if got := series(t, NewContainers(e, newSysfs(t), zap.NewNop())); got != everything {
		t.Errorf("got:%s\nwant:%s", got, everything)
	}
}

// TestLittle: a host that counts little is told of with no zeros that would look
// like measurements.
func TestLittle(t *testing.T) {
	e := &fakeEngine{
		list:  []api.Container{running("a1", "web")},
		stats: map[string]api.Stats{"a1": {ID: "a1", Time: time.Unix(5, 0), CPU: &api.CPUStats{UsageUsec: 1e6}}},
	}
	got := series(t, NewContainers(e, t.TempDir(), zap.NewNop()))
	if strings.Contains(got, "memory") || strings.Contains(got, "cfs") || strings.Contains(got, "oom") || strings.Contains(got, "processes") ||
		!strings.Contains(got, `container_cpu_usage_seconds_total{cpu="total",id="/sandbox/a1",image="demo-app:latest",name="web"} 1`) {
		t.Error(got)
	}
}

// TestFailures: a container that ends while it is asked is no error, others are.
func TestFailures(t *testing.T) {
	e := &fakeEngine{list: []api.Container{running("a1", "web"), running("b2", "gone")}, stats: map[string]api.Stats{"a1": full("a1")}}
	c := NewContainers(e, t.TempDir(), zap.NewNop())
	if got := series(t, c); !strings.Contains(got, "container_scrape_error 0") || strings.Contains(got, "gone") {
		t.Error(got)
	}
	e.fail = errors.New("no engine")
	if got := series(t, c); got != "\ncontainer_scrape_error 1\n" {
		t.Error(got)
	}
}

// TestOOMKilled: the kill is told of when its container is no more, not twice,
// not with a count that goes back, and not for ever.
func TestOOMKilled(t *testing.T) {
	e := &fakeEngine{list: []api.Container{running("a1", "web")}, stats: map[string]api.Stats{"a1": full("a1")}}
	c := NewContainers(e, t.TempDir(), zap.NewNop())
	const mine = `container_oom_events_total{id="/sandbox/a1",image="demo-app:latest",name="web"} `
	if got := series(t, c); !strings.Contains(got, mine+"3\n") {
		t.Fatal(got)
	}
	c.Exited(running("a1", "web"), api.Exit{Code: 137, OOMKilled: true, At: time.Now()})
	c.Exited(running("c3", "short"), api.Exit{Code: 137, OOMKilled: true, At: time.Now()}) // never scraped
	c.Exited(running("d4", "old"), api.Exit{Code: 137, OOMKilled: true, At: time.Now().Add(-remembered - time.Second)})
	c.Exited(running("e5", "well"), api.Exit{At: time.Now()})
	// The list is of before the exit: each series is to be there once.
	if got := series(t, c); strings.Count(got, mine) != 1 {
		t.Error(got)
	}
	e.list, e.stats = nil, nil
	got := series(t, c)
	for want, n := range map[string]int{mine + "3\n": 1, `name="short"} 1` + "\n": 1, "old": 0, "well": 0} {
		if strings.Count(got, want) != n {
			t.Errorf("%q is there %d times, not %d, in:%s", want, strings.Count(got, want), n, got)
		}
	}
	for i := range 10 * maxRemembered {
		c.Exited(running(fmt.Sprintf("f%d", i), "loop"), api.Exit{OOMKilled: true, At: time.Now()})
	}
	if n := strings.Count(series(t, c), "container_oom_events_total"); n != maxRemembered {
		t.Errorf("%d series of containers that are no more", n)
	}
	for reason, want := range map[string]float64{"done": 1, "error": 0, "oom_killed": 3 + 10*maxRemembered} {
		if got := testutil.ToFloat64(c.exits.WithLabelValues(reason)); got != want {
			t.Errorf("%s: %v ends, want %v", reason, got, want)
		}
	}
}

func TestExporter(t *testing.T) {
	e := New(api.Version{Version: "1.2.3", Commit: "abc", GoVersion: "go1"}, &fakeEngine{}, nil)
	for _, c := range []struct {
		h    http.Handler
		want []string
		not  string
	}{
		{e.Daemon(), []string{`sandbox_build_info{goversion="go1",revision="abc",version="1.2.3"} 1`, "process_resident_memory_bytes ", "go_goroutines ", `sandbox_container_exits_total{reason="oom_killed"} 0`}, "container_scrape_error"},
		{e.Containers(), []string{"container_scrape_error 0", `sandbox_containers{status="running"} 0`}, "go_goroutines"},
	} {
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		for _, want := range c.want {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%q is not in:\n%s", want, w.Body)
			}
		}
		if strings.Contains(w.Body.String(), c.not) {
			t.Errorf("%q is in:\n%s", c.not, w.Body)
		}
	}
}
