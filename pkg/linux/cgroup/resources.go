package cgroup

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// pids plans pids.max.
func (p *plan) pids(r *specs.LinuxResources) error {
	if r.Pids == nil || r.Pids.Limit == nil {
		return nil
	}
	limit := *r.Pids.Limit
	if limit == 0 {
		// The container's first process is cloned into the cgroup and is itself
		// counted: with 1 it can start, and never fork, which is what 0 means to
		// a process that is moved in.
		limit = 1
	}
	p.set(setting{
		file: "pids.max", value: formatSigned(limit), source: "linux.resources.pids.limit",
		why:     "processes and threads in the cgroup; above it fork(2) and clone(2) fail with EAGAIN",
		without: "a fork bomb in the container can use up the host's process IDs",
	})
	return nil
}

// blockIO plans io.weight, or io.bfq.weight where the kernel has the BFQ
// scheduler, and io.max.
func (p *plan) blockIO(r *specs.LinuxResources) error {
	io := r.BlockIO
	if io == nil {
		return nil
	}
	// BFQ has the scale of config.json, 10 to 1000; io.weight goes to 10000.
	file, scale := "io.weight", weightFromBlkio
	if p.cgroup.has("io.bfq.weight") {
		file, scale = "io.bfq.weight", func(weight uint16) uint64 { return uint64(weight) }
	}
	weight := func(value, source string) {
		p.set(setting{
			file: file, value: value, source: source,
			why:     "the share of a disk's time beside the cgroup's siblings when they compete; 100 is normal",
			without: "the container competes for disks at the normal weight",
		})
	}
	if value(io.Weight) != 0 {
		weight(strconv.FormatUint(scale(*io.Weight), 10), "linux.resources.blockIO.weight")
	}
	for _, d := range io.WeightDevice {
		if value(d.Weight) != 0 {
			weight(deviceNumber(d.LinuxBlockIODevice)+" "+strconv.FormatUint(scale(*d.Weight), 10), "linux.resources.blockIO.weightDevice")
		}
		if value(d.LeafWeight) != 0 {
			p.leafWeight()
		}
	}
	if value(io.LeafWeight) != 0 {
		p.leafWeight()
	}
	p.throttle(io.ThrottleReadBpsDevice, "rbps", "throttleReadBpsDevice", "bytes a second that the cgroup may read from the disk")
	p.throttle(io.ThrottleWriteBpsDevice, "wbps", "throttleWriteBpsDevice", "bytes a second that the cgroup may write to the disk")
	p.throttle(io.ThrottleReadIOPSDevice, "riops", "throttleReadIOPSDevice", "reads a second that the cgroup may make from the disk")
	p.throttle(io.ThrottleWriteIOPSDevice, "wiops", "throttleWriteIOPSDevice", "writes a second that the cgroup may make to the disk")
	return nil
}

func (p *plan) leafWeight() {
	p.warn("linux.resources.blockIO.leafWeight is not applied: cgroup v2 has no such parameter; only cgroups without children hold processes there")
}

// throttle plans one key of io.max, whose lines are "MAJ:MIN key=value …". The
// keys that a write does not name keep their values.
func (p *plan) throttle(devices []specs.LinuxThrottleDevice, key, field, why string) {
	for _, d := range devices {
		rate := "max" // zero ends a limit
		if d.Rate != 0 {
			rate = strconv.FormatUint(d.Rate, 10)
		}
		p.set(setting{
			file: "io.max", value: deviceNumber(d.LinuxBlockIODevice) + " " + key + "=" + rate,
			source: "linux.resources.blockIO." + field, why: why,
			without: "the container can use the whole disk",
		})
	}
}

func deviceNumber(d specs.LinuxBlockIODevice) string {
	return strconv.FormatInt(d.Major, 10) + ":" + strconv.FormatInt(d.Minor, 10)
}

// weightFromBlkio converts a weight of cgroup v1 (10 to 1000) to one of io.weight
// (1 to 10000), in proportion, as runc and crun do.
func weightFromBlkio(weight uint16) uint64 {
	return 1 + (uint64(min(max(weight, 10), 1000))-10)*9999/990
}

// hugetlb plans hugetlb.<size>.max, which limits use, and hugetlb.<size>.rsvd.max,
// which limits what is reserved by mmap(2): a limit met there is an error for the
// program, one met at a page fault is SIGBUS.
func (p *plan) hugetlb(r *specs.LinuxResources) error {
	for _, page := range r.HugepageLimits {
		if page.Pagesize == "" || strings.Trim(page.Pagesize, "0123456789KMGB") != "" {
			return fmt.Errorf("linux.resources.hugepageLimits: page size %q: %w", page.Pagesize, fs.ErrInvalid)
		}
		limit := strconv.FormatUint(page.Limit, 10)
		p.set(setting{
			file: "hugetlb." + page.Pagesize + ".max", value: limit, source: "linux.resources.hugepageLimits",
			why:     "huge pages of this size, in bytes, that the cgroup may use",
			without: "the container can use all huge pages of this size",
		})
		p.set(setting{
			file: "hugetlb." + page.Pagesize + ".rsvd.max", value: limit, source: "linux.resources.hugepageLimits",
			why:      "huge pages of this size, in bytes, that the cgroup may reserve with mmap(2)",
			without:  "the container can reserve all huge pages of this size",
			optional: true, // Linux 5.7
		})
	}
	return nil
}

// rdma plans rdma.max.
func (p *plan) rdma(r *specs.LinuxResources) error {
	for _, device := range slices.Sorted(maps.Keys(r.Rdma)) {
		if device == "" || strings.ContainsAny(device, " \t\n") {
			return fmt.Errorf("linux.resources.rdma: device %q: %w", device, fs.ErrInvalid)
		}
		line := device
		if handles := r.Rdma[device].HcaHandles; handles != nil {
			line += " hca_handle=" + strconv.FormatUint(uint64(*handles), 10)
		}
		if objects := r.Rdma[device].HcaObjects; objects != nil {
			line += " hca_object=" + strconv.FormatUint(uint64(*objects), 10)
		}
		p.set(setting{
			file: "rdma.max", value: line, source: "linux.resources.rdma",
			why:     "the handles and objects of an RDMA adapter that the cgroup may hold",
			without: "the container can use up the adapter's handles and objects",
		})
	}
	return nil
}

// network warns of net_cls and net_prio, which only cgroup v1 had.
func (p *plan) network(r *specs.LinuxResources) error {
	if r.Network != nil && (value(r.Network.ClassID) != 0 || len(r.Network.Priorities) > 0) {
		p.warn("linux.resources.network is not applied: cgroup v2 has no net_cls and net_prio; the container's packets carry no class and no priority")
	}
	return nil
}

// processFiles are files that act on processes instead of limiting them. A bundle
// must not, for example, pull a process of the host into its cgroup.
var processFiles = []string{"cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze", "cgroup.type"}

// unified plans the files that config.json names itself. Their lines are written
// one by one, since the kernel reads one line of, for example, io.max at a time.
func (p *plan) unified(r *specs.LinuxResources) error {
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		source := "linux.resources.unified[" + strconv.Quote(file) + "]"
		if strings.Contains(file, "/") || !strings.Contains(strings.Trim(file, "."), ".") {
			return fmt.Errorf("%s: want the name of a cgroup v2 file, such as memory.high: %w", source, fs.ErrInvalid)
		}
		if slices.Contains(processFiles, file) {
			return fmt.Errorf("%s: this file is no resource, it acts on processes: %w", source, fs.ErrInvalid)
		}
		why, without := unifiedTexts(file)
		for line := range strings.Lines(r.Unified[file]) {
			if line = strings.TrimRight(line, "\n"); line == "" {
				continue
			}
			p.set(setting{file: file, value: line, source: source, why: why, without: without, mustExist: true})
		}
	}
	return nil
}

// unifiedTexts explains the files that only `unified` can set and that people do
// set.
func unifiedTexts(file string) (why, without string) {
	switch file {
	case "memory.high":
		return "above so many bytes the kernel slows the cgroup down and reclaims, but does not kill",
			"the container is not slowed down before it runs out of memory"
	case "memory.min":
		return "memory, in bytes, that the kernel never takes from the cgroup",
			"none of the container's memory is guaranteed"
	case "memory.oom.group":
		return "1 kills all processes of the cgroup together when it runs out of memory",
			"when the container runs out of memory, one of its processes is killed"
	case "memory.swap.max":
		return whySwap, withoutSwap
	case "cpu.weight", "cpu.weight.nice":
		return whyCPUWeight, withoutCPUWeight
	}
	return "a cgroup v2 parameter that the configuration names itself", "the container runs without it"
}
