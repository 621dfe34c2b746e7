package cgroup

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Unlimited is the value of a limit that is not set, "max" in the file.
const Unlimited = math.MaxUint64

// Stats is what the kernel has counted for a cgroup and everything below it. A
// nil part means that the controller is not enabled for the cgroup, or that the
// kernel does not count it.
type Stats struct {
	CPU     CPUStats
	Memory  *MemoryStats
	PIDs    *PIDsStats
	IO      []IOStats // one for each disk that was used; nil without the controller
	HugeTLB []HugeTLBStats

	// Pressure stall information: the time that processes have lost waiting.
	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// CPUStats is cpu.stat. The first three need no controller.
type CPUStats struct {
	Usage, User, System time.Duration

	Throttling *Throttling // nil without the cpu controller
	Weight     uint64      // cpu.weight, 1 to 10000; 0 while cpu.idle is set
	Quota      uint64      // cpu.max: microseconds in each Period; or Unlimited
	Period     uint64      // microseconds
}

// Throttling counts what cpu.max has done.
type Throttling struct {
	Periods   uint64 // in which the cgroup wanted to run
	Throttled uint64 // in which it was stopped, its quota used up
	Time      time.Duration
}

// MemoryStats is the memory controller's account, in bytes.
type MemoryStats struct {
	Current uint64
	Peak    uint64 // 0 before Linux 5.19
	Max     uint64
	High    uint64
	Low     uint64
	Swap    *SwapStats // nil without swap accounting

	Events MemoryEvents
	Detail MemoryDetail
}

// SwapStats are memory.swap.current and memory.swap.max, in bytes.
type SwapStats struct {
	Current, Max uint64
}

// MemoryEvents is memory.events: how often something has happened.
type MemoryEvents struct {
	Low, High, Max     uint64 // the limit of that name was met
	OOM                uint64 // an allocation was about to fail
	OOMKill            uint64 // processes killed
	OOMGroupKill       uint64
	SwapMax, SwapFails uint64 // memory.swap.events
}

// MemoryDetail is what memory.stat says about the kinds of memory, in bytes, and
// about page faults, in events.
type MemoryDetail struct {
	Anon, File, Shmem                    uint64
	FileMapped, FileDirty, FileWriteback uint64
	ActiveAnon, InactiveAnon             uint64
	ActiveFile, InactiveFile             uint64
	Unevictable                          uint64
	Kernel, KernelStack, PageTables      uint64
	Sock                                 uint64
	Slab, SlabReclaimable                uint64
	PageFaults, MajorPageFaults          uint64
}

// PIDsStats is the pids controller's account: processes and threads.
type PIDsStats struct {
	Current, Max, Peak uint64 // Peak: 0 before Linux 6.1
	Refused            uint64 // forks that failed because of a limit
}

// IOStats is a line of io.stat.
type IOStats struct {
	Major, Minor              uint32
	ReadBytes, WriteBytes     uint64
	ReadIOs, WriteIOs         uint64
	DiscardBytes, DiscardsIOs uint64
}

// HugeTLBStats is the account of one size of huge pages, in bytes.
type HugeTLBStats struct {
	PageSize     string // as in the files' names: "2MB"
	Current, Max uint64
	Reserved     uint64
	Refused      uint64 // allocations that failed because of the limit
}

// Pressure is a *.pressure file: the share of time in which some, or all, of the
// processes that could run were waiting for the resource.
type Pressure struct {
	Some, Full Stall
}

// Stall is a line of a pressure file. The averages are percentages of the last
// 10, 60 and 300 seconds.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// Stats reads the cgroup's statistics.
func (c *Cgroup) Stats() (*Stats, error) {
	r := reader{cgroup: c, buf: make([]byte, 0, 8192)}
	s := &Stats{
		CPU:            r.cpu(),
		Memory:         r.memory(),
		PIDs:           r.pids(),
		IO:             r.io(),
		HugeTLB:        r.hugetlb(),
		CPUPressure:    r.pressure("cpu.pressure"),
		MemoryPressure: r.pressure("memory.pressure"),
		IOPressure:     r.pressure("io.pressure"),
	}
	return s, r.err
}

// reader reads files one after the other into one buffer, and keeps the first
// error.
type reader struct {
	cgroup *Cgroup
	buf    []byte
	err    error
}

// read returns the file's content, valid until the next call, and nil if the
// cgroup has no such file.
func (r *reader) read(file string) []byte {
	b, err := r.cgroup.read(file, r.buf)
	if err == nil {
		r.buf = b // it may have grown
		return b
	}
	// EOPNOTSUPP: a pressure file of a kernel booted with psi=0.
	if r.err == nil && !isMissing(err) && !errors.Is(err, unix.EOPNOTSUPP) {
		r.err = err
	}
	return nil
}

// number returns the number in a file, zero if the cgroup has no such file.
func (r *reader) number(file string) uint64 { return parseNumber(r.read(file)) }

func (r *reader) cpu() CPUStats {
	var s CPUStats
	var t Throttling
	for key, n := range flatKeyed(r.read("cpu.stat")) {
		switch string(key) {
		case "usage_usec":
			s.Usage = microseconds(n)
		case "user_usec":
			s.User = microseconds(n)
		case "system_usec":
			s.System = microseconds(n)
		case "nr_periods":
			t.Periods, s.Throttling = n, &t
		case "nr_throttled":
			t.Throttled = n
		case "throttled_usec":
			t.Time = microseconds(n)
		}
	}
	if s.Throttling != nil {
		s.Weight = r.number("cpu.weight")
		quota, period, _ := bytes.Cut(r.read("cpu.max"), []byte(" "))
		s.Quota, s.Period = parseNumber(quota), parseNumber(period)
	}
	return s
}

func (r *reader) memory() *MemoryStats {
	current := r.read("memory.current")
	if current == nil {
		return nil
	}
	s := &MemoryStats{
		Current: parseNumber(current),
		Peak:    r.number("memory.peak"),
		Max:     r.number("memory.max"),
		High:    r.number("memory.high"),
		Low:     r.number("memory.low"),
	}
	if swap := r.read("memory.swap.current"); swap != nil {
		s.Swap = &SwapStats{Current: parseNumber(swap)}
		s.Swap.Max = r.number("memory.swap.max")
	}
	for key, n := range flatKeyed(r.read("memory.events")) {
		switch string(key) {
		case "low":
			s.Events.Low = n
		case "high":
			s.Events.High = n
		case "max":
			s.Events.Max = n
		case "oom":
			s.Events.OOM = n
		case "oom_kill":
			s.Events.OOMKill = n
		case "oom_group_kill":
			s.Events.OOMGroupKill = n
		}
	}
	for key, n := range flatKeyed(r.read("memory.swap.events")) {
		switch string(key) {
		case "max":
			s.Events.SwapMax = n
		case "fail":
			s.Events.SwapFails = n
		}
	}
	s.Detail.parse(r.read("memory.stat"))
	return s
}

func (d *MemoryDetail) parse(b []byte) {
	for key, n := range flatKeyed(b) {
		switch string(key) {
		case "anon":
			d.Anon = n
		case "file":
			d.File = n
		case "shmem":
			d.Shmem = n
		case "file_mapped":
			d.FileMapped = n
		case "file_dirty":
			d.FileDirty = n
		case "file_writeback":
			d.FileWriteback = n
		case "active_anon":
			d.ActiveAnon = n
		case "inactive_anon":
			d.InactiveAnon = n
		case "active_file":
			d.ActiveFile = n
		case "inactive_file":
			d.InactiveFile = n
		case "unevictable":
			d.Unevictable = n
		case "kernel":
			d.Kernel = n
		case "kernel_stack":
			d.KernelStack = n
		case "pagetables":
			d.PageTables = n
		case "sock":
			d.Sock = n
		case "slab":
			d.Slab = n
		case "slab_reclaimable":
			d.SlabReclaimable = n
		case "pgfault":
			d.PageFaults = n
		case "pgmajfault":
			d.MajorPageFaults = n
		}
	}
}

func (r *reader) pids() *PIDsStats {
	current := r.read("pids.current")
	if current == nil {
		return nil
	}
	s := &PIDsStats{Current: parseNumber(current)}
	s.Max, s.Peak = r.number("pids.max"), r.number("pids.peak")
	s.Refused = lookup(r.read("pids.events"), "max")
	return s
}

func (r *reader) io() []IOStats {
	file := r.read("io.stat")
	if file == nil {
		return nil
	}
	list := make([]IOStats, 0, bytes.Count(file, []byte("\n")))
	for line := range bytes.Lines(file) {
		number, rest, _ := bytes.Cut(line, []byte(" "))
		major, minor, ok := bytes.Cut(number, []byte(":"))
		if !ok {
			continue
		}
		s := IOStats{Major: uint32(parseNumber(major)), Minor: uint32(parseNumber(minor))}
		for key, value := range subkeys(rest) {
			n := parseNumber(value)
			switch string(key) {
			case "rbytes":
				s.ReadBytes = n
			case "wbytes":
				s.WriteBytes = n
			case "rios":
				s.ReadIOs = n
			case "wios":
				s.WriteIOs = n
			case "dbytes":
				s.DiscardBytes = n
			case "dios":
				s.DiscardsIOs = n
			}
		}
		list = append(list, s)
	}
	return list
}

func (r *reader) hugetlb() []HugeTLBStats {
	enabled := parseControllers(r.read("cgroup.controllers"))
	if enabled&HugeTLB == 0 {
		return nil // the usual case, without reading the directory
	}
	entries, err := list(r.cgroup.fd)
	if err != nil {
		r.err = errors.Join(r.err, err)
		return nil
	}
	var all []HugeTLBStats
	for _, entry := range entries {
		size, ok := strings.CutPrefix(entry.Name(), "hugetlb.")
		if !ok {
			continue
		}
		if size, ok = strings.CutSuffix(size, ".current"); !ok || strings.Contains(size, ".") {
			continue
		}
		prefix := "hugetlb." + size
		all = append(all, HugeTLBStats{
			PageSize: size,
			Current:  r.number(prefix + ".current"),
			Max:      r.number(prefix + ".max"),
			Reserved: r.number(prefix + ".rsvd.current"),
			Refused:  lookup(r.read(prefix+".events"), "max"),
		})
	}
	return all
}

// pressure reads lines such as "some avg10=0.12 avg60=0.00 avg300=0.00 total=345".
func (r *reader) pressure(file string) *Pressure {
	b := r.read(file)
	if b == nil {
		return nil
	}
	p := &Pressure{}
	for line := range bytes.Lines(b) {
		kind, rest, _ := bytes.Cut(line, []byte(" "))
		stall := &p.Some
		if string(kind) == "full" {
			stall = &p.Full
		}
		for key, value := range subkeys(rest) {
			switch string(key) {
			case "avg10":
				stall.Avg10 = parsePercent(value)
			case "avg60":
				stall.Avg60 = parsePercent(value)
			case "avg300":
				stall.Avg300 = parsePercent(value)
			case "total":
				stall.Total = microseconds(parseNumber(value))
			}
		}
	}
	return p
}

func microseconds(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }
