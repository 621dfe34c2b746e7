package raw

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/daemon/metrics"
	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
)

// gather returns the metrics of one container, by name and labels of their own.
func gather(t testing.TB, g prometheus.Gatherer, container string) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name, ours := f.GetName(), false
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "name":
					ours = l.GetValue() == container
				case "interface", "device", "failure_type":
					name += " " + l.GetValue()
				}
			}
			if ours {
				out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return out
}

// figures are what the kernel's own files say of a container, with nothing of
// this project in between: by the metric that should tell the same.
func figures(t *testing.T, dir string, pid int) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	number := func(metric, s string, unit float64) {
		if n, err := strconv.ParseFloat(s, 64); err == nil {
			out[metric] = n * unit
		}
	}
	keyed := func(file string) map[string]string {
		values := map[string]string{}
		for line := range strings.Lines(read(file)) {
			if f := strings.Fields(line); len(f) == 2 {
				values[f[0]] = f[1]
			}
		}
		return values
	}
	cpu := keyed("cpu.stat")
	number("container_cpu_usage_seconds_total", cpu["usage_usec"], 1e-6)
	number("container_cpu_user_seconds_total", cpu["user_usec"], 1e-6)
	number("container_cpu_system_seconds_total", cpu["system_usec"], 1e-6)
	number("container_cpu_cfs_periods_total", cpu["nr_periods"], 1)
	number("container_cpu_cfs_throttled_periods_total", cpu["nr_throttled"], 1)
	number("container_cpu_cfs_throttled_seconds_total", cpu["throttled_usec"], 1e-6)
	if quota := strings.Fields(read("cpu.max")); len(quota) == 2 {
		number("container_spec_cpu_quota", quota[0], 1)
		number("container_spec_cpu_period", quota[1], 1)
	}
	memory := keyed("memory.stat")
	number("container_memory_usage_bytes", read("memory.current"), 1)
	number("container_memory_max_usage_bytes", read("memory.peak"), 1)
	number("container_spec_memory_limit_bytes", read("memory.max"), 1)
	number("container_memory_rss", memory["anon"], 1)
	number("container_memory_cache", memory["file"], 1)
	number("container_memory_mapped_file", memory["file_mapped"], 1)
	if inactive, err := strconv.ParseFloat(memory["inactive_file"], 64); err == nil {
		out["container_memory_working_set_bytes"] = max(0, out["container_memory_usage_bytes"]-inactive)
	}
	number("container_memory_failures_total pgfault", memory["pgfault"], 1)
	number("container_oom_events_total", keyed("memory.events")["oom_kill"], 1)
	number("container_threads", read("pids.current"), 1)
	number("container_threads_max", read("pids.max"), 1)
	if read("pids.current") != "" {
		out["container_processes"] = float64(len(strings.Fields(read("cgroup.procs"))))
	}
	for line := range strings.Lines(read("io.stat")) {
		f := strings.Fields(line)
		device := f[0]
		if link, err := os.Readlink("/sys/dev/block/" + device); err == nil {
			device = "/dev/" + filepath.Base(link)
		}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			if metric := map[string]string{
				"rbytes": "container_fs_reads_bytes_total", "wbytes": "container_fs_writes_bytes_total",
				"rios": "container_fs_reads_total", "wios": "container_fs_writes_total",
			}[key]; metric != "" {
				number(metric+" "+device, value, 1)
			}
		}
	}
	links, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(links)) {
		name, rest, ok := strings.Cut(line, ":")
		if f := strings.Fields(rest); ok && strings.TrimSpace(name) != "lo" && len(f) > 11 {
			name = " " + strings.TrimSpace(name)
			number("container_network_receive_bytes_total"+name, f[0], 1)
			number("container_network_receive_packets_total"+name, f[1], 1)
			number("container_network_transmit_bytes_total"+name, f[8], 1)
			number("container_network_transmit_packets_total"+name, f[9], 1)
		}
	}
	return out
}

// exported returns a gatherer of the engine's containers.
func exported(t testing.TB, e *Engine) prometheus.Gatherer {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(metrics.NewContainers(e, "/sys", e.Log)); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestMetrics: what Prometheus is told of a busy container is what the kernel's
// files say: between what they said just before and just after, and within one
// percent of that.
func TestMetrics(t *testing.T) {
	e, _ := newEngine(t)
	spec := api.ContainerSpec{
		Name: "busy", Image: testImage, Network: api.Network{Mode: "bridge"},
		// It computes, writes to memory and disk, and sends.
		Command: []string{"sh", "-c", `
			dd if=/dev/urandom of=/file bs=1M count=8 2>/dev/null; sync
			sleep 1000 &
			while :; do i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; cat /file >/dev/null; ping -c 1 -w 1 "$(ip route | awk '/default/ {print $3}')" >/dev/null; done`},
	}
	without := lacking(t)
	if without["memory"] == "" {
		spec.Resources.Memory = 128 << 20
	}
	root, err := cgroup.Mount()
	if err != nil {
		t.Fatal(err)
	}
	has, err := cgroup.Available(root)
	if err != nil {
		t.Fatal(err)
	}
	if without["pids"] == "" {
		spec.Resources.PidsLimit = 40
	}
	if has&cgroup.CPU != 0 {
		spec.Resources.NanoCPUs = 300_000_000
	}
	c, err := e.Create(t.Context(), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), c.ID, nil); err != nil {
		t.Fatal(err)
	}
	if c, err = e.Inspect(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	g := exported(t, e)
	before := figures(t, c.Cgroup, c.PID)
	got := gather(t, g, "busy")
	after := figures(t, c.Cgroup, c.PID)
	if len(before) < 4 {
		t.Fatalf("the files say only %v", before)
	}
	compared := 0
	for metric, low := range before {
		high, ok := after[metric]
		value, told := got[metric]
		if !ok {
			continue // a child of the shell, which has ended
		}
		if !told {
			t.Errorf("%s is not told of; the files say %v", metric, low)
			continue
		}
		low, high = min(low, high), max(low, high)
		slack := 0.01 * math.Abs(high)
		if strings.HasSuffix(metric, "_processes") || strings.HasSuffix(metric, "_threads") {
			slack = 2 // children that come and go
		}
		if value < low-slack || value > high+slack {
			t.Errorf("%s is %v; the files say %v, then %v", metric, value, low, high)
		}
		compared++
	}
	t.Logf("measured: %d figures are those of the kernel's files; of %d metrics", compared, len(got))
	if start := got["container_start_time_seconds"]; math.Abs(start-float64(c.Started.UnixNano())/1e9) > 0.001 {
		t.Errorf("started at %v, want %v", start, c.Started)
	}
	if has&cgroup.CPU != 0 && got["container_cpu_cfs_throttled_periods_total"] == 0 {
		t.Error("it was never throttled")
	}
	if without["pids"] == "" && got["container_threads_max"] != 40 {
		t.Errorf("limit of threads %v", got["container_threads_max"])
	}
	if without["memory"] == "" && (got["container_spec_memory_limit_bytes"] != 128<<20 || got["container_memory_cache"] < 8<<20) {
		t.Errorf("limit %v, cache %v", got["container_spec_memory_limit_bytes"], got["container_memory_cache"])
	}
}

// TestMetricsOfOOMKill: Prometheus is told of a kill after the container is gone.
func TestMetricsOfOOMKill(t *testing.T) {
	if why := lacking(t)["memory"]; why != "" {
		t.Skip(why)
	}
	e, _ := newEngine(t)
	collector := metrics.NewContainers(e, "/sys", e.Log)
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(collector); err != nil {
		t.Fatal(err)
	}
	c, err := e.Create(t.Context(), api.ContainerSpec{
		Name: "hungry", Image: testImage, Network: api.Network{Mode: "none"}, Resources: api.Resources{Memory: 16 << 20},
		Command: []string{"sh", "-c", "x=x; while :; do x=$x$x; done"},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), c.ID, nil); err != nil {
		t.Fatal(err)
	}
	exit, err := e.Wait(t.Context(), c.ID)
	if err != nil || !exit.OOMKilled {
		t.Fatalf("%+v, %v", exit, err)
	}
	collector.Exited(c, exit)
	told := func(when string) {
		t.Helper()
		if got := gather(t, r, "hungry"); len(got) != 1 || got["container_oom_events_total"] != 1 {
			t.Errorf("%s: %v", when, got)
		}
	}
	told("after its end")
	if err := e.Remove(t.Context(), c.ID, false); err != nil {
		t.Fatal(err)
	}
	told("after its removal")
}

// BenchmarkMetrics is a scrape with 50 containers that run.
func BenchmarkMetrics(b *testing.B) {
	e, _ := newEngine(b)
	for i := range 50 {
		c, err := e.Create(b.Context(), api.ContainerSpec{Name: fmt.Sprint("c", i), Image: testImage, Network: api.Network{Mode: "bridge"}, Command: []string{"sleep", "1000"}}, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := e.Start(b.Context(), c.ID, nil); err != nil {
			b.Fatal(err)
		}
	}
	g := exported(b, e)
	series := 0
	b.ReportAllocs()
	for b.Loop() {
		families, err := g.Gather()
		if err != nil {
			b.Fatal(err)
		}
		series = 0
		for _, f := range families {
			series += len(f.GetMetric())
		}
	}
	b.ReportMetric(float64(series), "series")
}
