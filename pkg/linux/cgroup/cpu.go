package cgroup

import (
	"bytes"
	"math"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Why and without of cpu.weight, which two fields can set.
const (
	whyCPUWeight     = "the share of CPU time beside the cgroup's siblings when they compete; 100 is normal"
	withoutCPUWeight = "the container competes for CPU time at the normal weight"
)

// cpu plans cpu.idle, cpu.weight, cpu.max and cpu.max.burst.
func (p *plan) cpu(r *specs.LinuxResources) error {
	cpu := r.CPU
	if cpu == nil {
		return nil
	}
	// The kernel refuses a weight while the cgroup is idle, and resets it when
	// idle is cleared: idle goes first, and excludes a weight.
	idle := cpu.Idle != nil && *cpu.Idle != 0
	if cpu.Idle != nil {
		p.set(setting{
			file: "cpu.idle", value: strconv.FormatInt(*cpu.Idle, 10), source: "linux.resources.cpu.idle",
			why:      "1 gives CPU time only when nothing else wants it (SCHED_IDLE for the whole cgroup)",
			without:  "the container gets CPU time like any other",
			optional: !idle,
		})
	}
	if cpu.Shares != nil && *cpu.Shares != 0 {
		weight := WeightFromShares(*cpu.Shares)
		if idle {
			p.warn("cpu.weight=%d is not applied: cpu.idle=1 takes its place", weight)
		} else {
			p.set(setting{
				file: "cpu.weight", value: strconv.FormatUint(weight, 10), source: "linux.resources.cpu.shares",
				why: whyCPUWeight, without: withoutCPUWeight,
			})
		}
	}
	p.bandwidth(cpu)
	if cpu.RealtimeRuntime != nil && *cpu.RealtimeRuntime != 0 || cpu.RealtimePeriod != nil && *cpu.RealtimePeriod != 0 {
		p.warn("linux.resources.cpu.realtimeRuntime and realtimePeriod are not applied: cgroup v2 has no such parameter; " +
			"the container can start no real-time threads")
	}
	return nil
}

// bandwidth plans cpu.max, "QUOTA PERIOD" in microseconds, and cpu.max.burst.
func (p *plan) bandwidth(cpu *specs.LinuxCPU) {
	quota := cpu.Quota != nil && *cpu.Quota != 0
	period := cpu.Period != nil && *cpu.Period != 0
	oldQuota, oldPeriod := p.cgroup.cpuMax()
	newQuota, newPeriod := oldQuota, oldPeriod
	if quota {
		if newQuota = math.MaxUint64; *cpu.Quota > 0 {
			newQuota = uint64(*cpu.Quota)
		}
	}
	if period {
		newPeriod = *cpu.Period
	}
	source := "linux.resources.cpu.quota"
	if !quota {
		source = "linux.resources.cpu.period"
	}
	limit := setting{
		file: "cpu.max", value: formatLimit(newQuota) + " " + strconv.FormatUint(newPeriod, 10), source: source,
		why:     "microseconds of CPU time, all CPUs together, in each period of so many; then the cgroup is throttled until the next",
		without: "the container can use all CPUs",
	}
	if cpu.Burst == nil {
		if quota || period {
			p.set(limit)
		}
		return
	}
	burst := setting{
		file: "cpu.max.burst", value: strconv.FormatUint(*cpu.Burst, 10), source: "linux.resources.cpu.burst",
		why:      "microseconds that may be saved up in quiet periods and used above cpu.max",
		without:  "the container is throttled as soon as its quota is used up",
		optional: *cpu.Burst == 0,
	}
	// At no time may the burst exceed the quota: raise the quota before the
	// burst, lower the burst before the quota.
	switch {
	case !quota && !period:
		p.set(burst)
	case newQuota < oldQuota:
		p.set(burst)
		p.set(limit)
	default:
		p.set(limit)
		p.set(burst)
	}
}

// cpuMax returns the cgroup's quota and period in microseconds; without a cpu
// controller, the kernel's defaults.
func (c *Cgroup) cpuMax() (quota, period uint64) {
	quota, period = math.MaxUint64, 100_000
	if c.fresh {
		return quota, period
	}
	var buf [64]byte
	b, err := c.read("cpu.max", buf[:])
	if err != nil {
		return quota, period
	}
	first, second, _ := bytes.Cut(bytes.TrimSpace(b), []byte(" "))
	return parseNumber(first), parseNumber(second)
}

// WeightFromShares converts CPU shares of cgroup v1 (2 to 262144, normally 1024)
// to a cpu.weight of cgroup v2 (1 to 10000, normally 100), with the curve that
// runc (since 1.3.2) and crun (since 1.23) use: a quadratic one between the
// logarithms, which takes each end and the normal value to its counterpart. The
// older linear formula made 39 of 1024.
func WeightFromShares(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, l*l/612+125*l/612-7.0/34)))
}

// cpuset plans cpuset.cpus and cpuset.mems. An empty one is not written: it means
// all that the parent has, which a new cgroup has anyway.
func (p *plan) cpuset(r *specs.LinuxResources) error {
	if r.CPU == nil {
		return nil
	}
	if r.CPU.Cpus != "" {
		p.set(setting{
			file: "cpuset.cpus", value: r.CPU.Cpus, source: "linux.resources.cpu.cpus",
			why:     "the CPUs that the cgroup's threads may run on",
			without: "the container can run on all CPUs",
		})
	}
	if r.CPU.Mems != "" {
		p.set(setting{
			file: "cpuset.mems", value: r.CPU.Mems, source: "linux.resources.cpu.mems",
			why:     "the NUMA nodes that the cgroup's memory comes from",
			without: "the container can use the memory of all nodes",
		})
	}
	return nil
}

// verifyCPUSet warns of CPUs and nodes that the kernel has taken but does not
// give: those that are offline, or that a cgroup above does not have.
func (p *plan) verifyCPUSet(cpu *specs.LinuxCPU) {
	if cpu == nil {
		return
	}
	for _, set := range []struct{ asked, file, things string }{
		{cpu.Cpus, "cpuset.cpus", "CPUs"}, {cpu.Mems, "cpuset.mems", "memory nodes"},
	} {
		if set.asked == "" {
			continue
		}
		asked, err := p.cgroup.read(set.file, nil)
		if err != nil {
			continue // already warned of
		}
		given, err := p.cgroup.read(set.file+".effective", nil)
		if err == nil && !bytes.Equal(asked, given) {
			p.warn("%s=%s is applied in part: the container runs with the %s %s, the others are offline or not given to the cgroups above it",
				set.file, set.asked, set.things, bytes.TrimSpace(given))
		}
	}
}
