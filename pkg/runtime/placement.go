package runtime

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// bitmap is a set of CPUs or memory nodes, as sched_setaffinity(2) and
// set_mempolicy(2) take it.
type bitmap []uint64

// maxBits is more CPUs and nodes than a kernel can be built for.
const maxBits = 8192

// parseBitmap reads the kernel's list format, such as "0-2,5"; see cpuset(7).
func parseBitmap(list string) (bitmap, error) {
	var set bitmap
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is not a list such as 0-2,5", list)
		}
		to, err := strconv.ParseUint(last, 10, 16)
		if err != nil || to < from || to >= maxBits {
			return nil, fmt.Errorf("%q is not a list such as 0-2,5", list)
		}
		for n := from; n <= to; n++ {
			for uint64(len(set)) <= n/64 {
				set = append(set, 0)
			}
			set[n/64] |= 1 << (n % 64)
		}
	}
	return set, nil
}

func validateAffinity(a *specs.CPUAffinity) error {
	if a == nil {
		return nil
	}
	for field, list := range map[string]string{"initial": a.Initial, "final": a.Final} {
		if list == "" {
			continue
		}
		if _, err := parseBitmap(list); err != nil {
			return fmt.Errorf("process.execCPUAffinity.%s: %w", field, err)
		}
	}
	return nil
}

// initialAffinity moves the calling thread, which must be locked and must end with its
// goroutine, to the CPUs that a further process begins on.
func initialAffinity(a *specs.CPUAffinity, trace *explain.Tracer) error {
	if a == nil || a.Initial == "" {
		return nil
	}
	cpus, err := parseBitmap(a.Initial)
	if err != nil {
		return err
	}
	var set unix.CPUSet
	for n := range min(len(cpus)*64, len(set)*64) {
		if cpus[n/64]&(1<<(n%64)) != 0 {
			set.Set(n)
		}
	}
	ev := explain.Event{
		Op: "sched_setaffinity", Value: a.Initial, Source: "process.execCPUAffinity.initial",
		Why: "the CPUs on which the further process is set up, inherited by the clone",
	}
	if err := trace.Do(ev, func() error { return unix.SchedSetaffinity(0, &set) }); err != nil {
		return fmt.Errorf("process.execCPUAffinity.initial: %w", err)
	}
	return nil
}

// finalAffinity appends the move to the CPUs that a further process runs on.
func (b *builder) finalAffinity(a *specs.CPUAffinity) error {
	if a == nil || a.Final == "" {
		return nil
	}
	cpus, err := parseBitmap(a.Final)
	if err != nil {
		return err
	}
	b.call(explain.Event{Op: "sched_setaffinity", Value: a.Final, Source: "process.execCPUAffinity.final"},
		unix.SYS_SCHED_SETAFFINITY, script.Int(0), script.Int(8*len(cpus)), b.Words(cpus...))
	return nil
}

// memoryPolicies are the modes of set_mempolicy(2) by number.
var memoryPolicies = [...]specs.MemoryPolicyModeType{
	specs.MpolDefault, specs.MpolPreferred, specs.MpolBind, specs.MpolInterleave, specs.MpolLocal,
	specs.MpolPreferredMany, specs.MpolWeightedInterleave,
}

// parseMemoryPolicy returns the mode with its flags, and the nodes.
func parseMemoryPolicy(p *specs.LinuxMemoryPolicy) (mode int, nodes bitmap, err error) {
	mode = -1
	for n, name := range memoryPolicies {
		if name == p.Mode {
			mode = n
		}
	}
	if mode < 0 {
		return 0, nil, fmt.Errorf("linux.memoryPolicy: unknown mode %q", p.Mode)
	}
	for _, f := range p.Flags {
		switch f {
		case specs.MpolFStaticNodes:
			mode |= unix.MPOL_F_STATIC_NODES
		case specs.MpolFRelativeNodes:
			mode |= unix.MPOL_F_RELATIVE_NODES
		case specs.MpolFNumaBalancing:
			mode |= unix.MPOL_F_NUMA_BALANCING
		default:
			return 0, nil, fmt.Errorf("linux.memoryPolicy: unknown flag %q", f)
		}
	}
	if p.Nodes == "" {
		return mode, nil, nil
	}
	if nodes, err = parseBitmap(p.Nodes); err != nil {
		return 0, nil, fmt.Errorf("linux.memoryPolicy.nodes: %w", err)
	}
	return mode, nodes, nil
}

// memoryPolicy appends linux.memoryPolicy, which children inherit.
func (b *builder) memoryPolicy() error {
	p := b.spec.Linux.MemoryPolicy
	if p == nil {
		return nil
	}
	mode, nodes, err := parseMemoryPolicy(p)
	if err != nil {
		return err
	}
	mask := script.Int(0)
	if nodes != nil {
		mask = b.Words(nodes...)
	}
	// The kernel takes one bit less than it is told.
	b.call(explain.Event{Op: "set_mempolicy", Target: string(p.Mode), Value: p.Nodes, Source: "linux.memoryPolicy", Why: "the memory nodes that pages of the container come from"},
		unix.SYS_SET_MEMPOLICY, script.Int(mode), mask, script.Int(64*len(nodes)+1))
	return nil
}
