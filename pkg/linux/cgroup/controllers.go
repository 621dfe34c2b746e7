package cgroup

import (
	"bytes"
	"iter"
	"math/bits"
	"os"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Controllers is a set of cgroup v2 controllers.
type Controllers uint16

// The controllers that a container's resources can ask for. The core files
// (cgroup.*), cpu.stat, the *.pressure files and device access need none.
const (
	CPUSet Controllers = 1 << iota
	CPU
	IO
	Memory
	HugeTLB
	PIDs
	RDMA
	Misc
)

// Accounting are the controllers whose statistics `stats` shows: to be enabled
// for a container even if it has no limits.
const Accounting = CPU | IO | Memory | PIDs

// Common are the controllers that every container gets where that costs nothing: for
// statistics, and for an init system in it that distributes them among its services.
const Common = CPUSet | CPU | IO | Memory | PIDs

// controllerNames are the kernel's names, in the order of the constants.
var controllerNames = [...]string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"}

// String returns the kernel's names, separated by spaces, as in
// cgroup.controllers.
func (s Controllers) String() string {
	var names []string
	for one := range s.each() {
		names = append(names, controllerNames[bits.TrailingZeros16(uint16(one))])
	}
	return strings.Join(names, " ")
}

// each yields the members one by one.
func (s Controllers) each() iter.Seq[Controllers] {
	return func(yield func(Controllers) bool) {
		for s != 0 {
			one := s & -s
			if s &^= one; !yield(one) {
				return
			}
		}
	}
}

// controllerOf returns the controller that a file such as "memory.max" belongs
// to, and zero if there is none of that name.
func controllerOf(file string) Controllers {
	prefix, _, _ := strings.Cut(file, ".")
	for i, name := range controllerNames {
		if prefix == name {
			return 1 << i
		}
	}
	return 0
}

// parseControllers reads the format of cgroup.controllers and
// cgroup.subtree_control: "cpu io memory\n".
func parseControllers(b []byte) Controllers {
	var s Controllers
	for name := range bytes.FieldsSeq(b) {
		s |= controllerOf(string(name))
	}
	return s
}

// Available returns the controllers that can be enabled below root.
func Available(root string) (Controllers, error) {
	fd, err := openRoot(root)
	if err != nil {
		return 0, err
	}
	c := Cgroup{fd: fd, root: root, name: "/"}
	defer c.Close()
	return c.Controllers()
}

// Controllers returns the controllers that are enabled in the cgroup, which are
// those that its parent delegates.
func (c *Cgroup) Controllers() (Controllers, error) {
	var buf [256]byte
	b, err := c.read("cgroup.controllers", buf[:])
	return parseControllers(b), err
}

// Needed returns the controllers without which r cannot be applied in full.
func Needed(r *specs.LinuxResources) Controllers {
	var need Controllers
	if r == nil {
		return 0
	}
	add := func(wanted bool, controller Controllers) {
		if wanted {
			need |= controller
		}
	}
	if cpu := r.CPU; cpu != nil {
		add(cpu.Shares != nil || cpu.Quota != nil || cpu.Period != nil || cpu.Burst != nil || cpu.Idle != nil, CPU)
		add(cpu.Cpus != "" || cpu.Mems != "", CPUSet)
	}
	if memory := r.Memory; memory != nil {
		add(memory.Limit != nil || memory.Reservation != nil || memory.Swap != nil, Memory)
	}
	add(r.Pids != nil && r.Pids.Limit != nil, PIDs)
	add(r.BlockIO != nil, IO)
	add(len(r.HugepageLimits) > 0, HugeTLB)
	add(len(r.Rdma) > 0, RDMA)
	for file := range r.Unified {
		need |= controllerOf(file)
	}
	return need
}

// whyMissing says why the cgroup has not got the controller, as a clause that
// follows "… is not applied: ".
func (c *Cgroup) whyMissing(controller Controllers) string {
	name := controller.String()
	if available, err := Available(c.root); err == nil && available&controller == 0 {
		if boundToV1(name) {
			return "this host has no " + name + " controller in cgroup v2 (it is bound to cgroup v1)"
		}
		return "there is no " + name + " controller in " + path.Join(c.root, "cgroup.controllers") +
			" (the kernel lacks it or was booted without it, or a cgroup above does not delegate it)"
	}
	if why, ok := c.refused[controller]; ok {
		return "the " + name + " controller cannot be enabled: " + why
	}
	return "the " + name + " controller is not enabled in a cgroup above " + c.Path()
}

// boundToV1 reports whether a version 1 hierarchy holds the controller, so that
// version 2 cannot have it. /proc/self/cgroup names, on each line, a hierarchy
// and its controllers: "5:cpu,cpuacct:/path"; version 2 is the line "0::/path".
func boundToV1(controller string) bool {
	if controller == "io" {
		controller = "blkio" // its name in version 1
	}
	hierarchies, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(hierarchies)) {
		fields := strings.SplitN(line, ":", 3)
		if len(fields) < 3 {
			continue
		}
		for name := range strings.SplitSeq(fields[1], ",") {
			if name == controller {
				return true
			}
		}
	}
	return false
}
