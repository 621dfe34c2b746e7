package main

import (
	"time"

	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
)

// stats is the data of a stats event as runc writes it, which is what tools parse:
// the names are cgroup v1's. Times are nanoseconds, sizes bytes.
type stats struct {
	CPU     cpuStats                `json:"cpu"`
	Memory  memoryStats             `json:"memory"`
	Pids    pidsStats               `json:"pids"`
	Blkio   blkioStats              `json:"blkio"`
	Hugetlb map[string]hugetlbStats `json:"hugetlb"`
}

type cpuStats struct {
	Usage struct {
		Total  time.Duration `json:"total"`
		Kernel time.Duration `json:"kernel"`
		User   time.Duration `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64        `json:"periods"`
		ThrottledPeriods uint64        `json:"throttledPeriods"`
		ThrottledTime    time.Duration `json:"throttledTime"`
	} `json:"throttling"`
	PSI *psi `json:"psi,omitempty"`
}

type memoryStats struct {
	Cache uint64            `json:"cache"` // page cache
	Usage memoryEntry       `json:"usage"`
	Swap  memoryEntry       `json:"swap"` // memory and swap together, as in cgroup v1
	Raw   map[string]uint64 `json:"raw,omitempty"`
	PSI   *psi              `json:"psi,omitempty"`
}

type memoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage"`
	Max     uint64 `json:"max"` // highest usage
	Failcnt uint64 `json:"failcnt"`
}

type pidsStats struct {
	Current uint64 `json:"current"`
	Limit   uint64 `json:"limit"` // 0: none
}

type blkioStats struct {
	Bytes []blkioEntry `json:"ioServiceBytesRecursive"`
	Count []blkioEntry `json:"ioServicedRecursive"`
	PSI   *psi         `json:"psi,omitempty"`
}

type blkioEntry struct {
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
	Op    string `json:"op"`
	Value uint64 `json:"value"`
}

type hugetlbStats struct {
	Usage   uint64 `json:"usage"`
	Max     uint64 `json:"max"`
	Failcnt uint64 `json:"failcnt"`
}

type psi struct {
	Some stall `json:"some"`
	Full stall `json:"full"`
}

type stall struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  int64   `json:"total"` // microseconds
}

func newStats(c *cgroup.Stats) *stats {
	s := &stats{Hugetlb: map[string]hugetlbStats{}}
	s.CPU.Usage.Total, s.CPU.Usage.Kernel, s.CPU.Usage.User = c.CPU.Usage, c.CPU.System, c.CPU.User
	if t := c.CPU.Throttling; t != nil {
		s.CPU.Throttling.Periods, s.CPU.Throttling.ThrottledPeriods, s.CPU.Throttling.ThrottledTime = t.Periods, t.Throttled, t.Time
	}
	s.CPU.PSI, s.Memory.PSI, s.Blkio.PSI = newPSI(c.CPUPressure), newPSI(c.MemoryPressure), newPSI(c.IOPressure)
	if m := c.Memory; m != nil {
		s.Memory.set(m)
	}
	if p := c.PIDs; p != nil {
		s.Pids.Current = p.Current
		if p.Max != cgroup.Unlimited {
			s.Pids.Limit = p.Max
		}
	}
	for _, d := range c.IO {
		entry := func(op string, v uint64) blkioEntry { return blkioEntry{d.Major, d.Minor, op, v} }
		s.Blkio.Bytes = append(s.Blkio.Bytes, entry("Read", d.ReadBytes), entry("Write", d.WriteBytes), entry("Discard", d.DiscardBytes))
		s.Blkio.Count = append(s.Blkio.Count, entry("Read", d.ReadIOs), entry("Write", d.WriteIOs), entry("Discard", d.DiscardsIOs))
	}
	for _, h := range c.HugeTLB {
		s.Hugetlb[h.PageSize] = hugetlbStats{Usage: h.Current, Failcnt: h.Refused}
	}
	return s
}

func (s *memoryStats) set(m *cgroup.MemoryStats) {
	d := &m.Detail
	s.Cache = d.File
	s.Usage = memoryEntry{Limit: m.Max, Usage: m.Current, Max: m.Peak, Failcnt: m.Events.Max}
	if m.Swap != nil {
		s.Swap = memoryEntry{Limit: m.Swap.Max, Usage: m.Current + m.Swap.Current}
		if m.Swap.Max != cgroup.Unlimited && m.Max != cgroup.Unlimited {
			s.Swap.Limit += m.Max
		}
	}
	s.Raw = map[string]uint64{
		"anon": d.Anon, "file": d.File, "shmem": d.Shmem, "file_mapped": d.FileMapped, "file_dirty": d.FileDirty,
		"file_writeback": d.FileWriteback, "active_anon": d.ActiveAnon, "inactive_anon": d.InactiveAnon,
		"active_file": d.ActiveFile, "inactive_file": d.InactiveFile, "unevictable": d.Unevictable, "kernel": d.Kernel,
		"kernel_stack": d.KernelStack, "pagetables": d.PageTables, "sock": d.Sock, "slab": d.Slab,
		"slab_reclaimable": d.SlabReclaimable, "pgfault": d.PageFaults, "pgmajfault": d.MajorPageFaults,
	}
}

func newPSI(p *cgroup.Pressure) *psi {
	if p == nil {
		return nil
	}
	line := func(s cgroup.Stall) stall { return stall{s.Avg10, s.Avg60, s.Avg300, s.Total.Microseconds()} }
	return &psi{line(p.Some), line(p.Full)}
}
