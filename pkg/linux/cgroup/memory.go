package cgroup

import (
	"fmt"
	"math"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Why and without of memory.swap.max, which two fields can set.
const (
	whySwap     = "the swap space, in bytes, that the cgroup may use: in cgroup v2 without the memory, in config.json with it"
	withoutSwap = "the container can use all swap space"
)

// memory plans memory.swap.max, memory.max and memory.low. As in runc and crun,
// zero means that the field is not set, and -1 no limit.
func (p *plan) memory(r *specs.LinuxResources) error {
	memory := r.Memory
	if memory == nil {
		return nil
	}
	limit, reservation := value(memory.Limit), value(memory.Reservation)
	if err := p.checkUsage(memory, limit); err != nil {
		return err
	}
	swap, err := p.swapMax(memory, limit)
	if err != nil {
		return err
	}
	// Swap goes first. Where it is raised, lowering memory.max can push pages
	// out to it instead of killing; where it is lowered, nothing slips out
	// beyond the new limit.
	if swap != "" {
		source := "linux.resources.memory.swap"
		if value(memory.Swap) == 0 {
			source = "linux.resources.memory.limit"
		}
		p.set(setting{
			file: "memory.swap.max", value: swap, source: source, why: whySwap, without: withoutSwap,
			// Without swap accounting there is, nearly always, no swap.
			optional: swap == "max" || swap == "0",
		})
	}
	if limit != 0 {
		p.set(setting{
			file: "memory.max", value: formatSigned(limit), source: "linux.resources.memory.limit",
			why:     "the memory, in bytes, that the cgroup may use: above it the kernel reclaims, then kills (OOM)",
			without: "the container can use all memory",
		})
	}
	if reservation != 0 {
		p.set(setting{
			file: "memory.low", value: formatSigned(reservation), source: "linux.resources.memory.reservation",
			why:     "memory, in bytes, that the kernel takes from the cgroup only if it finds none elsewhere",
			without: "none of the container's memory is protected when the host runs short",
		})
	}
	p.memoryV1(memory)
	return nil
}

// memoryV1 warns of the fields that only cgroup v1 had.
func (p *plan) memoryV1(memory *specs.LinuxMemory) {
	const gone = " is not applied: cgroup v2 has no such parameter; "
	if value(memory.Kernel) > 0 { //nolint:staticcheck // deprecated, but bundles have it: a warning says what becomes of it
		p.warn("linux.resources.memory.kernel" + gone + "kernel memory counts towards memory.max")
	}
	if value(memory.KernelTCP) > 0 {
		p.warn("linux.resources.memory.kernelTCP" + gone + "socket buffers count towards memory.max")
	}
	if memory.Swappiness != nil {
		p.warn("linux.resources.memory.swappiness" + gone + "the container's memory is swapped out as vm.swappiness of the host says")
	}
	if memory.DisableOOMKiller != nil && *memory.DisableOOMKiller {
		p.warn("linux.resources.memory.disableOOMKiller" + gone + "processes of the container are killed when it exceeds memory.max")
	}
}

// checkUsage looks at a limit below what the cgroup of a running container uses
// already: the kernel would accept it, reclaim, and kill what it cannot reclaim.
func (p *plan) checkUsage(memory *specs.LinuxMemory, limit int64) error {
	if p.cgroup.fresh || limit <= 0 {
		return nil
	}
	usage, err := p.cgroup.number("memory.current")
	if err != nil || uint64(limit) >= usage {
		return nil // no controller: perform warns
	}
	if memory.CheckBeforeUpdate != nil && *memory.CheckBeforeUpdate {
		return fmt.Errorf("memory.max=%d is less than the %d bytes in use (memory.checkBeforeUpdate): %w", limit, usage, unix.EBUSY)
	}
	p.warn("memory.max=%d is less than the %d bytes in use: the kernel takes back what it can, and kills a process if that is not enough", limit, usage)
	return nil
}

// swapMax returns the value for memory.swap.max, empty for none. config.json,
// made for cgroup v1, limits the sum of memory and swap.
func (p *plan) swapMax(memory *specs.LinuxMemory, limit int64) (string, error) {
	swap := value(memory.Swap)
	switch {
	case swap == 0 && limit == -1:
		return "max", nil // as in cgroup v1: no limit of memory is no limit of both
	case swap == 0:
		return "", nil
	case swap < 0:
		return "max", nil
	}
	if limit == 0 { // an update of the sum alone
		current, err := p.cgroup.number("memory.max")
		switch {
		case isMissing(err):
			return strconv.FormatInt(swap, 10), nil // not applied either: perform warns
		case err != nil:
			return "", err
		case current == math.MaxUint64:
			return "", fmt.Errorf("linux.resources.memory.swap=%d limits memory and swap together, but memory has no limit: %w", swap, unix.EINVAL)
		}
		limit = int64(current)
	}
	if limit < 0 {
		return strconv.FormatInt(swap, 10), nil
	}
	if swap < limit {
		return "", fmt.Errorf("linux.resources.memory.swap=%d, the limit of memory and swap together, is less than the limit of memory, %d: %w", swap, limit, unix.EINVAL)
	}
	return strconv.FormatInt(swap-limit, 10), nil
}

// value returns what an optional field points to, and zero if it is not set.
func value[T any](field *T) (v T) {
	if field != nil {
		v = *field
	}
	return v
}

// formatSigned writes a limit of config.json, where -1 is none.
func formatSigned(limit int64) string {
	if limit < 0 {
		return "max"
	}
	return strconv.FormatInt(limit, 10)
}

// formatLimit writes a limit as the kernel does.
func formatLimit(limit uint64) string {
	if limit == math.MaxUint64 {
		return "max"
	}
	return strconv.FormatUint(limit, 10)
}
