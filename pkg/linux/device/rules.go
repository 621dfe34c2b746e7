// Package device restricts which devices the processes of a cgroup may use.
//
// Version 2 of cgroups has no devices controller. In its place the kernel asks a
// program, attached to the cgroup, each time that a process opens or makes a
// device node: BPF_PROG_TYPE_CGROUP_DEVICE, see bpf(2) and "Device controller" in
// the kernel's admin-guide/cgroup-v2. Compile writes that program from the rules
// of config.json (linux.resources.devices), Attach loads and attaches it.
//
// The few instructions are encoded here, and handed to bpf(2) as they are: the
// usual library, cilium/ebpf, adds 1 MB to a program and 0.15 ms to its start,
// which is 1 ms without. The tests read the programs back with it.
package device

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Kinds of devices and of access, as the kernel passes them to the program: enums
// BPF_DEVCG_DEV_* and BPF_DEVCG_ACC_* of linux/bpf.h.
const (
	block = 1 << 0
	char  = 1 << 1

	mknod = 1 << 0
	read  = 1 << 1
	write = 1 << 2

	anyAccess = mknod | read | write
	wildcard  = -1 // any major or minor number
)

// rule is a checked rule of config.json.
type rule struct {
	allow        bool
	kind         int32 // block, char, or zero for both
	major, minor int32 // or wildcard
	access       int32
}

// everything reports whether the rule decides about all access to all devices.
func (r rule) everything() bool {
	return r.kind == 0 && r.major == wildcard && r.minor == wildcard && r.access == anyAccess
}

// String formats the rule as the devices.allow and devices.deny files of cgroup
// v1 did: "allow c 136:* rwm".
func (r rule) String() string {
	number := func(n int32) string {
		if n == wildcard {
			return "*"
		}
		return strconv.Itoa(int(n))
	}
	verb, kind, access := "deny ", "a ", " "
	if r.allow {
		verb = "allow "
	}
	switch r.kind {
	case block:
		kind = "b "
	case char:
		kind = "c "
	}
	for _, bit := range []struct {
		mask   int32
		letter string
	}{{read, "r"}, {write, "w"}, {mknod, "m"}} {
		if r.access&bit.mask != 0 {
			access += bit.letter
		}
	}
	return verb + kind + number(r.major) + ":" + number(r.minor) + access
}

// covers reports whether r speaks of all that o speaks of.
func (r rule) covers(o rule) bool {
	return (r.kind == 0 || r.kind == o.kind) &&
		(r.major == wildcard || r.major == o.major) &&
		(r.minor == wildcard || r.minor == o.minor) &&
		o.access&^r.access == 0
}

// overlaps reports whether some access to some device is spoken of by both.
func (r rule) overlaps(o rule) bool {
	meet := func(a, b, all int32) bool { return a == all || b == all || a == b }
	return meet(r.kind, o.kind, 0) && meet(r.major, o.major, wildcard) &&
		meet(r.minor, o.minor, wildcard) && r.access&o.access != 0
}

// parseRules checks the rules and leaves out those that make no difference: lists
// from Docker and the like name most devices twice. The first rule that it returns
// is one for everything; no rules stay none.
func parseRules(list []specs.LinuxDeviceCgroup) ([]rule, error) {
	if len(list) == 0 {
		return nil, nil
	}
	refuse := rule{major: wildcard, minor: wildcard, access: anyAccess}
	rules := append(make([]rule, 0, 1+len(list)), refuse)
	for i, d := range list {
		r, err := parseRule(d)
		if err != nil {
			return nil, fmt.Errorf("linux.resources.devices[%d]: %w", i, err)
		}
		// Nobody gets as far as a rule that this one covers.
		rules = slices.DeleteFunc(rules, r.covers)
		differs := func(o rule) bool { return o.allow != r.allow && o.overlaps(r) }
		if r.everything() || slices.ContainsFunc(rules, differs) {
			rules = append(rules, r)
		}
	}
	return rules, nil
}

func parseRule(d specs.LinuxDeviceCgroup) (r rule, err error) {
	r.allow = d.Allow
	switch d.Type {
	case "", "a":
	case "b":
		r.kind = block
	case "c":
		r.kind = char
	default:
		return r, fmt.Errorf("device type %q is none of a, b, c: %w", d.Type, fs.ErrInvalid)
	}
	for _, letter := range d.Access {
		switch letter {
		case 'r':
			r.access |= read
		case 'w':
			r.access |= write
		case 'm':
			r.access |= mknod
		default:
			return r, fmt.Errorf("device access %q has letters other than r, w, m: %w", d.Access, fs.ErrInvalid)
		}
	}
	if r.access == 0 {
		r.access = anyAccess // as with the other fields, unset is all
	}
	if r.major, err = parseNumber(d.Major, 12); err != nil {
		return r, fmt.Errorf("major %w", err)
	}
	if r.minor, err = parseNumber(d.Minor, 20); err != nil {
		return r, fmt.Errorf("minor %w", err)
	}
	return r, nil
}

// parseNumber checks a device number of so many bits. Unset is any number, and
// so is -1, which many programs write instead.
func parseNumber(n *int64, bits int) (int32, error) {
	switch {
	case n == nil || *n == -1:
		return wildcard, nil
	case *n < 0 || *n >= 1<<bits:
		return 0, fmt.Errorf("number %d does not fit into %d bits: %w", *n, bits, fs.ErrInvalid)
	}
	return int32(*n), nil
}

// allowsAll reports whether parsed rules forbid nothing: no program is needed.
func allowsAll(rules []rule) bool {
	return !slices.ContainsFunc(rules, func(r rule) bool { return !r.allow })
}

func formatRules(rules []rule) string {
	texts := make([]string, len(rules))
	for i, r := range rules {
		texts[i] = r.String()
	}
	return strings.Join(texts, ", ")
}

// DefaultAllowed returns the rules for the devices that every container has
// ("Default Devices" in the runtime-spec), to be appended to those of config.json:
// null, zero, full, random, urandom, tty, console, ptmx and the pseudo-terminals
// of its devpts.
func DefaultAllowed() []specs.LinuxDeviceCgroup {
	numbers := [...][2]int64{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null zero full random urandom
		{5, 0}, {5, 1}, {5, 2}, {136, wildcard}, // tty console ptmx pts/*
	}
	rules := make([]specs.LinuxDeviceCgroup, len(numbers))
	for i := range rules {
		major, minor := numbers[i][0], numbers[i][1]
		rules[i] = specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"}
	}
	return rules
}
