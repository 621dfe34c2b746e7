package raw

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
)

// sample is what Percent is computed from.
type sample struct {
	at    time.Time
	usage time.Duration
}

// Stats reads the container's cgroup and its network links.
func (e *Engine) Stats(_ context.Context, ref string) (api.Stats, error) {
	c, err := e.lookup(ref)
	if err != nil {
		return api.Stats{}, err
	}
	if err := c.require("read the statistics of", api.StatusCreated, api.StatusRunning, api.StatusPaused); err != nil {
		return api.Stats{}, err
	}
	root, err := cgroup.Mount()
	if err != nil {
		return api.Stats{}, err
	}
	s := api.Stats{ID: c.id(), Name: c.name(), Time: time.Now().UTC()}
	cg, err := cgroup.Open(root, e.CgroupParent+"/"+c.id())
	if err != nil {
		return s, fmt.Errorf("read the statistics of container %s: %w", c.name(), err)
	}
	defer cg.Close()
	stats, err := cg.Stats()
	if err != nil {
		return s, fmt.Errorf("read the statistics of container %s: %w", c.name(), err)
	}
	fillStats(&s, stats)
	if s.Pids != nil {
		pids, err := cg.PIDs(true)
		if err != nil {
			return s, fmt.Errorf("read the statistics of container %s: %w", c.name(), err)
		}
		s.Pids.Processes = uint64(len(pids))
	}
	s.CPU.Percent = c.cpuPercent(sample{s.Time, stats.CPU.Usage})
	if s.Net, err = readNetStats(fmt.Sprintf("/proc/%d/net/dev", c.snapshot().PID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	return s, nil
}

// cpuPercent relates the CPU time since the previous sample to the time itself.
func (c *container) cpuPercent(now sample) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.cpu
	c.cpu = now
	passed := now.at.Sub(last.at)
	if last.at.IsZero() || passed <= 0 {
		return 0
	}
	return 100 * float64(now.usage-last.usage) / float64(passed)
}

func fillStats(s *api.Stats, from *cgroup.Stats) {
	limit := func(n uint64) uint64 {
		if n == cgroup.Unlimited {
			return 0
		}
		return n
	}
	s.CPU = &api.CPUStats{
		UsageUsec:  uint64(from.CPU.Usage.Microseconds()),
		UserUsec:   uint64(from.CPU.User.Microseconds()),
		SystemUsec: uint64(from.CPU.System.Microseconds()),
	}
	if t := from.CPU.Throttling; t != nil {
		s.CPU.Periods, s.CPU.Throttled, s.CPU.ThrottledUsec = t.Periods, t.Throttled, uint64(t.Time.Microseconds())
		if s.CPU.QuotaUsec = limit(from.CPU.Quota); s.CPU.QuotaUsec > 0 {
			s.CPU.PeriodUsec = from.CPU.Period
		}
	}
	if m := from.Memory; m != nil {
		s.Memory = &api.MemoryStats{
			Current: m.Current, Limit: limit(m.Max), Anon: m.Detail.Anon, File: m.Detail.File,
			OOM: m.Events.OOM, OOMKill: m.Events.OOMKill,
			FileMapped: m.Detail.FileMapped, InactiveFile: m.Detail.InactiveFile, Kernel: m.Detail.Kernel, Peak: m.Peak,
			PageFaults: m.Detail.PageFaults, MajorPageFaults: m.Detail.MajorPageFaults,
		}
		if m.Swap != nil {
			s.Memory.Swap = m.Swap.Current
		}
	}
	if p := from.PIDs; p != nil {
		s.Pids = &api.PidsStats{Current: p.Current, Limit: limit(p.Max), Max: p.Refused}
	}
	if from.IO != nil {
		s.IO = &api.IOStats{}
		for _, d := range from.IO {
			s.IO.ReadBytes += d.ReadBytes
			s.IO.WriteBytes += d.WriteBytes
			s.IO.ReadOps += d.ReadIOs
			s.IO.WriteOps += d.WriteIOs
			s.IO.Devices = append(s.IO.Devices, api.IODevice{
				Major: d.Major, Minor: d.Minor,
				ReadBytes: d.ReadBytes, WriteBytes: d.WriteBytes, ReadOps: d.ReadIOs, WriteOps: d.WriteIOs,
			})
		}
	}
}

// readNetStats reads a network namespace's links but for loopback, and adds
// them up, from /proc/PID/net/dev (proc_pid_net(5)): two header lines, then a
// line each of NAME: 8 receive counters, 8 transmit counters.
func readNetStats(path string) (*api.NetStats, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var s api.NetStats
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		link := api.NetInterface{Name: strings.TrimSpace(name)}
		if !ok || link.Name == "lo" || len(fields) < 12 {
			continue
		}
		for i, to := range map[int]*uint64{
			0: &link.RxBytes, 1: &link.RxPackets, 2: &link.RxErrors, 3: &link.RxDropped,
			8: &link.TxBytes, 9: &link.TxPackets, 10: &link.TxErrors, 11: &link.TxDropped,
		} {
			if *to, err = strconv.ParseUint(fields[i], 10, 64); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
		}
		s.RxBytes += link.RxBytes
		s.RxPackets += link.RxPackets
		s.TxBytes += link.TxBytes
		s.TxPackets += link.TxPackets
		s.Interfaces = append(s.Interfaces, link)
	}
	return &s, lines.Err()
}
