package cgroup

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// setting is one value for one file of a cgroup.
type setting struct {
	file, value string
	source      string // the field of config.json
	why         string // what the value does, for explain
	without     string // what it means for the container if it is not applied
	// optional: the file's absence changes nothing for the container.
	optional bool
	// mustExist: a file that is missing while its controller is there is an
	// error, not a warning (linux.resources.unified).
	mustExist bool
}

// plan collects settings, in the order in which they must be written.
type plan struct {
	cgroup   *Cgroup
	settings []setting
	warnings []string
}

func (p *plan) set(s setting) { p.settings = append(p.settings, s) }

func (p *plan) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// Apply writes the resources to the cgroup. Device rules are not among them: see
// package device.
//
// What the host cannot do (a controller that is missing, a parameter that the
// kernel does not have or that cgroup v2 has not) is left out, with a warning
// that names it and says what that means. A value that the kernel refuses is an
// error, and what was written before it stays written.
func (c *Cgroup) Apply(r *specs.LinuxResources, trace *explain.Tracer) (warnings []string, err error) {
	if r == nil {
		return nil, nil
	}
	// An update may bring the first limit of a controller that Create was not
	// asked for.
	if missing := Needed(r) &^ c.asked; missing != 0 {
		enabled, err := c.Controllers()
		if err == nil {
			err = c.enable(missing&^enabled, trace)
		}
		if err != nil {
			return nil, err
		}
	}
	p, err := newPlan(c, r)
	c.fresh = false
	if err != nil {
		return p.warnings, err
	}
	for _, s := range p.settings {
		if err := p.perform(s, trace); err != nil {
			return p.warnings, err
		}
	}
	p.verifyCPUSet(r.CPU)
	return p.warnings, nil
}

// newPlan turns resources into settings. It reads the cgroup and writes nothing.
func newPlan(c *Cgroup, r *specs.LinuxResources) (*plan, error) {
	p := &plan{cgroup: c}
	steps := []func(*specs.LinuxResources) error{
		p.cpu, p.cpuset, p.memory, p.pids, p.blockIO, p.hugetlb, p.rdma, p.network,
		p.unified, // last: it overrides the others
	}
	for _, step := range steps {
		if err := step(r); err != nil {
			return p, err
		}
	}
	return p, nil
}

// perform writes one setting.
func (p *plan) perform(s setting, trace *explain.Tracer) error {
	err := p.cgroup.write(trace, explain.Event{Target: s.file, Value: s.value, Source: s.source, Why: s.why})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT) && !p.cgroup.has(s.file):
		return p.skip(s)
	case errors.Is(err, unix.ENODEV) && controllerOf(s.file) == IO:
		return fmt.Errorf("%w (it takes whole disks, not partitions)", err)
	}
	return err
}

// skip accounts for a setting whose file does not exist.
func (p *plan) skip(s setting) error {
	var why string
	controller := controllerOf(s.file)
	enabled, err := p.cgroup.Controllers()
	switch {
	case err != nil:
		return err
	case controller != 0 && enabled&controller == 0:
		why = p.cgroup.whyMissing(controller)
	case s.mustExist:
		return fmt.Errorf("%s: cgroup v2 has no file %s on this kernel: %w", s.source, s.file, unix.ENOENT)
	case s.optional:
		return nil
	default:
		why = "this kernel has no " + s.file
	}
	p.warn("%s=%s is not applied: %s; %s", s.file, s.value, why, s.without)
	return nil
}
