package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// sample is one container at the moment of a scrape.
type sample struct {
	api.Stats
	started time.Time
	device  func(major, minor uint32) string
}

// metric is one of cAdvisor's: name, help and labels are those of its
// docs/storage/prometheus.md. What the host does not count is left out.
type metric struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values func(s *sample, emit func(v float64, labels ...string))
}

func (m *metric) collect(ch chan<- prometheus.Metric, labels []string, s *sample) {
	m.values(s, func(v float64, more ...string) {
		all := append(append(make([]string, 0, len(labels)+len(more)), labels...), more...)
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, all...)
	})
}

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append(append([]string(nil), labelNames...), labels...), nil)
}

var oomEvents = newDesc("container_oom_events_total", "Count of out of memory events observed for the container: processes killed.")

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

type emitter = func(v float64, labels ...string)

var table = []metric{
	{newDesc("container_last_seen", "Last time a container was seen by the exporter."), gauge,
		func(s *sample, emit emitter) { emit(unix(s.Time)) }},
	{newDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds."), gauge,
		func(s *sample, emit emitter) { emit(unix(s.started)) }},

	{newDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "cpu"), counter,
		cpu(func(c *api.CPUStats, emit emitter) { emit(seconds(c.UsageUsec), "total") })},
	{newDesc("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds."), counter,
		cpu(func(c *api.CPUStats, emit emitter) { emit(seconds(c.UserUsec)) })},
	{newDesc("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds."), counter,
		cpu(func(c *api.CPUStats, emit emitter) { emit(seconds(c.SystemUsec)) })},
	// Only with a limit, as in cAdvisor: who has none cannot be throttled.
	{newDesc("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals."), counter,
		limited(func(c *api.CPUStats, emit emitter) { emit(float64(c.Periods)) })},
	{newDesc("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals."), counter,
		limited(func(c *api.CPUStats, emit emitter) { emit(float64(c.Throttled)) })},
	{newDesc("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled."), counter,
		limited(func(c *api.CPUStats, emit emitter) { emit(seconds(c.ThrottledUsec)) })},
	{newDesc("container_spec_cpu_period", "CPU period of the container, in microseconds."), gauge,
		limited(func(c *api.CPUStats, emit emitter) { emit(float64(c.PeriodUsec)) })},
	{newDesc("container_spec_cpu_quota", "CPU quota of the container, in microseconds of each period."), gauge,
		limited(func(c *api.CPUStats, emit emitter) { emit(float64(c.QuotaUsec)) })},

	{newDesc("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed."), gauge,
		memory(func(m *api.MemoryStats, emit emitter) { emit(float64(m.Current)) })},
	{newDesc("container_memory_working_set_bytes", "Current working set in bytes: usage less the files that the kernel would take back first."), gauge,
		memory(func(m *api.MemoryStats, emit emitter) { emit(float64(m.Current - min(m.Current, m.InactiveFile))) })},
	{newDesc("container_memory_rss", "Size of RSS in bytes: anonymous memory."), gauge,
		memory(func(m *api.MemoryStats, emit emitter) { emit(float64(m.Anon)) })},
	{newDesc("container_memory_cache", "Number of bytes of page cache memory."), gauge,
		memory(func(m *api.MemoryStats, emit emitter) { emit(float64(m.File)) })},
	{newDesc("container_memory_mapped_file", "Size of memory mapped files in bytes."), gauge,
		memory(func(m *api.MemoryStats, emit emitter) { emit(float64(m.FileMapped)) })},
	{newDesc("container_memory_kernel_usage", "Size of kernel memory allocated in bytes."), gauge,
		memory(func(m *api.MemoryStats, emit emitter) { emit(float64(m.Kernel)) })},
	{newDesc("container_memory_swap", "Container swap usage in bytes."), gauge,
		memory(func(m *api.MemoryStats, emit emitter) { emit(float64(m.Swap)) })},
	{newDesc("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes."), gauge,
		memory(func(m *api.MemoryStats, emit emitter) {
			if m.Peak > 0 {
				emit(float64(m.Peak))
			}
		})},
	{newDesc("container_memory_failures_total", "Cumulative count of memory allocation failures.", "failure_type", "scope"), counter,
		memory(func(m *api.MemoryStats, emit emitter) {
			emit(float64(m.PageFaults), "pgfault", "hierarchy")
			emit(float64(m.MajorPageFaults), "pgmajfault", "hierarchy")
		})},
	{newDesc("container_spec_memory_limit_bytes", "Memory limit for the container in bytes; 0 for none."), gauge,
		memory(func(m *api.MemoryStats, emit emitter) { emit(float64(m.Limit)) })},
	{oomEvents, counter,
		memory(func(m *api.MemoryStats, emit emitter) { emit(float64(m.OOMKill)) })},

	{newDesc("container_processes", "Number of processes running inside the container."), gauge,
		pids(func(p *api.PidsStats, emit emitter) { emit(float64(p.Processes)) })},
	{newDesc("container_threads", "Number of threads running inside the container."), gauge,
		pids(func(p *api.PidsStats, emit emitter) { emit(float64(p.Current)) })},
	{newDesc("container_threads_max", "Maximum number of threads allowed inside the container; 0 for no limit."), gauge,
		pids(func(p *api.PidsStats, emit emitter) { emit(float64(p.Limit)) })},

	{newDesc("container_fs_reads_bytes_total", "Cumulative count of bytes read.", "device"), counter,
		disk(func(d *api.IODevice) uint64 { return d.ReadBytes })},
	{newDesc("container_fs_writes_bytes_total", "Cumulative count of bytes written.", "device"), counter,
		disk(func(d *api.IODevice) uint64 { return d.WriteBytes })},
	{newDesc("container_fs_reads_total", "Cumulative count of reads completed.", "device"), counter,
		disk(func(d *api.IODevice) uint64 { return d.ReadOps })},
	{newDesc("container_fs_writes_total", "Cumulative count of writes completed.", "device"), counter,
		disk(func(d *api.IODevice) uint64 { return d.WriteOps })},

	{newDesc("container_network_receive_bytes_total", "Cumulative count of bytes received.", "interface"), counter,
		link(func(n *api.NetInterface) uint64 { return n.RxBytes })},
	{newDesc("container_network_receive_packets_total", "Cumulative count of packets received.", "interface"), counter,
		link(func(n *api.NetInterface) uint64 { return n.RxPackets })},
	{newDesc("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.", "interface"), counter,
		link(func(n *api.NetInterface) uint64 { return n.RxErrors })},
	{newDesc("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving.", "interface"), counter,
		link(func(n *api.NetInterface) uint64 { return n.RxDropped })},
	{newDesc("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", "interface"), counter,
		link(func(n *api.NetInterface) uint64 { return n.TxBytes })},
	{newDesc("container_network_transmit_packets_total", "Cumulative count of packets transmitted.", "interface"), counter,
		link(func(n *api.NetInterface) uint64 { return n.TxPackets })},
	{newDesc("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting.", "interface"), counter,
		link(func(n *api.NetInterface) uint64 { return n.TxErrors })},
	{newDesc("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting.", "interface"), counter,
		link(func(n *api.NetInterface) uint64 { return n.TxDropped })},
}

func cpu(values func(*api.CPUStats, emitter)) func(*sample, emitter) {
	return func(s *sample, emit emitter) {
		if s.CPU != nil {
			values(s.CPU, emit)
		}
	}
}

func limited(values func(*api.CPUStats, emitter)) func(*sample, emitter) {
	return cpu(func(c *api.CPUStats, emit emitter) {
		if c.QuotaUsec > 0 {
			values(c, emit)
		}
	})
}

func memory(values func(*api.MemoryStats, emitter)) func(*sample, emitter) {
	return func(s *sample, emit emitter) {
		if s.Memory != nil {
			values(s.Memory, emit)
		}
	}
}

func pids(values func(*api.PidsStats, emitter)) func(*sample, emitter) {
	return func(s *sample, emit emitter) {
		if s.Pids != nil {
			values(s.Pids, emit)
		}
	}
}

func disk(value func(*api.IODevice) uint64) func(*sample, emitter) {
	return func(s *sample, emit emitter) {
		if s.IO == nil {
			return
		}
		for i := range s.IO.Devices {
			d := &s.IO.Devices[i]
			emit(float64(value(d)), s.device(d.Major, d.Minor))
		}
	}
}

func link(value func(*api.NetInterface) uint64) func(*sample, emitter) {
	return func(s *sample, emit emitter) {
		if s.Net == nil {
			return
		}
		for i := range s.Net.Interfaces {
			n := &s.Net.Interfaces[i]
			emit(float64(value(n)), n.Name)
		}
	}
}

func seconds(usec uint64) float64 { return float64(usec) / 1e6 }

func unix(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
