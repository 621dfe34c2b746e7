package bundle

import (
	"strconv"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// minMemory is docker's: less does not suffice to start a process.
const minMemory = 6 << 20

// memory sets the limits of linux.resources.memory, which are in bytes. Swap is
// memory and swap together; as docker does, that is twice the memory unless
// given, so that a limited container may swap as much again.
func (b *builder) memory() error {
	r := &b.in.Spec.Resources
	for _, v := range []struct {
		flag  string
		bytes int64
	}{{"--memory", r.Memory}, {"--memory-reservation", r.MemoryReservation}} {
		if v.bytes != 0 && v.bytes < minMemory {
			return invalid("%s %d is too little: at least %d bytes (6m) are needed", v.flag, v.bytes, minMemory)
		}
	}
	swap := r.MemorySwap
	switch {
	case swap < -1:
		return invalid("invalid --memory-swap %d: want bytes, or -1 for no limit", swap)
	case swap > 0 && r.Memory == 0:
		return invalid("--memory-swap needs --memory: it is the sum of memory and swap")
	case swap > 0 && swap < r.Memory:
		return invalid("--memory-swap %s is less than --memory %s: it is the sum of memory and swap", formatBytes(swap), formatBytes(r.Memory))
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return invalid("--memory-reservation %s is more than --memory %s", formatBytes(r.MemoryReservation), formatBytes(r.Memory))
	case swap == 0:
		swap = 2 * r.Memory
	}
	var m specs.LinuxMemory
	if r.Memory > 0 {
		m.Limit = &r.Memory
	}
	if r.MemoryReservation > 0 {
		m.Reservation = &r.MemoryReservation
	}
	if swap != 0 {
		m.Swap = &swap
	}
	if m != (specs.LinuxMemory{}) {
		b.spec.Linux.Resources.Memory = &m
	}
	return nil
}

// formatBytes formats a size as the flags take it.
func formatBytes(n int64) string {
	return units.CustomSize("%.4g%s", float64(n), 1024, []string{"", "k", "m", "g", "t", "p"})
}

// cpuPeriod is what a share of CPU time refers to, in microseconds.
const cpuPeriod = 100_000

func (b *builder) cpu() error {
	r := &b.in.Spec.Resources
	var cpu specs.LinuxCPU
	if r.NanoCPUs != 0 {
		most := b.in.Host.CPUs.count()
		// 0.01 is docker's minimum, and the kernel's: 1 ms in each period.
		if r.NanoCPUs < 1e7 || most > 0 && r.NanoCPUs > int64(most)*1e9 {
			return invalid("invalid --cpus %s: it ranges from 0.01 to the %d of this host", strconv.FormatFloat(float64(r.NanoCPUs)/1e9, 'g', -1, 64), most)
		}
		quota, period := r.NanoCPUs/(1e9/cpuPeriod), uint64(cpuPeriod)
		cpu.Quota, cpu.Period = &quota, &period
	}
	switch {
	case r.CPUWeight != 0 && r.CPUShares != 0:
		return invalid("--cpu-weight and --cpu-shares are the same in two units: give one")
	case r.CPUWeight > 10000:
		return invalid("invalid --cpu-weight %d: it ranges from 1 to 10000", r.CPUWeight)
	case r.CPUWeight != 0:
		// The specification has no field for a weight but this one.
		b.spec.Linux.Resources.Unified = map[string]string{"cpu.weight": strconv.FormatUint(r.CPUWeight, 10)}
	case r.CPUShares != 0:
		cpu.Shares = &r.CPUShares
	}
	for _, set := range []struct {
		flag, list string
		have       IDSet
		to         *string
	}{
		{"--cpuset-cpus", r.CpusetCPUs, b.in.Host.CPUs, &cpu.Cpus},
		{"--cpuset-mems", r.CpusetMems, b.in.Host.MemoryNodes, &cpu.Mems},
	} {
		if set.list == "" {
			continue
		}
		wanted, err := ParseIDSet(set.list)
		if err != nil {
			return invalid("invalid %s %q: want a list like 0-3,5", set.flag, set.list)
		}
		if len(set.have) > 0 && !set.have.contains(wanted) {
			return invalid("invalid %s %s: this host has %s", set.flag, set.list, set.have)
		}
		*set.to = set.list
	}
	if cpu != (specs.LinuxCPU{}) {
		b.spec.Linux.Resources.CPU = &cpu
	}
	return nil
}

// limits are those of processes and of I/O.
func (b *builder) limits() error {
	r := &b.in.Spec.Resources
	if r.PidsLimit < -1 {
		return invalid("invalid --pids-limit %d: want a number, or -1 for no limit", r.PidsLimit)
	}
	if r.PidsLimit != 0 {
		b.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &r.PidsLimit}
	}
	var io specs.LinuxBlockIO
	for _, l := range []struct {
		flag    string
		devices []api.ThrottleDevice
		to      *[]specs.LinuxThrottleDevice
	}{
		{"--device-read-bps", r.DeviceReadBps, &io.ThrottleReadBpsDevice},
		{"--device-write-bps", r.DeviceWriteBps, &io.ThrottleWriteBpsDevice},
		{"--device-read-iops", r.DeviceReadIOps, &io.ThrottleReadIOPSDevice},
		{"--device-write-iops", r.DeviceWriteIOps, &io.ThrottleWriteIOPSDevice},
	} {
		for _, limit := range l.devices {
			if limit.Rate == 0 {
				return invalid("%s %s: the rate is 0, with which nothing would ever finish", l.flag, limit.Path)
			}
			device, err := b.stat(l.flag, limit.Path)
			if err != nil {
				return err
			}
			if device.Type != "b" {
				return invalid("%s: %s is not a block device", l.flag, limit.Path)
			}
			throttle := specs.LinuxThrottleDevice{Rate: limit.Rate}
			throttle.Major, throttle.Minor = device.Major, device.Minor
			*l.to = append(*l.to, throttle)
			b.spec.Linux.Resources.BlockIO = &io
		}
	}
	return nil
}
