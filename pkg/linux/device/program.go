package device

import (
	"fmt"
	"math"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Instruction is one instruction of eBPF, laid out as struct bpf_insn on a
// little-endian machine.
type Instruction struct {
	Op     uint8
	Regs   uint8 // destination in the low four bits, source in the high
	Offset int16
	Imm    int32
}

// Registers of the program. r0 holds its result when it ends: 0 refuses.
const (
	r0       = iota
	argument // r1: struct bpf_cgroup_dev_ctx {u32 access_type, major, minor}
	kind     // block or char
	access   // the bits of the request that no rule has decided yet
	major
	minor
	number // major and minor in one, as in the kernel's dev_t
)

const minorBits = 20 // of a dev_t; the major number has 12

func load(dst, src uint8, offset int16) Instruction {
	return Instruction{Op: unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W, Regs: src<<4 | dst, Offset: offset}
}

func alu(op, dst uint8, imm int32) Instruction {
	return Instruction{Op: unix.BPF_ALU64 | op | unix.BPF_K, Regs: dst, Imm: imm}
}

func aluReg(op, dst, src uint8) Instruction {
	return Instruction{Op: unix.BPF_ALU64 | op | unix.BPF_X, Regs: src<<4 | dst}
}

// Compile returns the program that decides by the rules of config.json, and nil
// if they allow everything (as no rules do).
//
// Each kind of access (read, write, mknod) is decided by the last rule that
// speaks of it and of the device; a request for several, such as opening for
// reading and writing, is granted if all are. What no rule speaks of is refused.
func Compile(rules []specs.LinuxDeviceCgroup) ([]Instruction, error) {
	checked, err := parseRules(rules)
	if err != nil || allowsAll(checked) {
		return nil, err
	}
	return compile(checked)
}

// assembler collects the instructions of a program.
type assembler struct {
	code []Instruction
	// exits are the jumps to the two ends of the program, by what they grant.
	// Their distances are known last.
	exits map[bool][]int
}

// compile writes the program of parsed rules, so that the verifier has little to do, since it
// follows every branch and takes most of the time of loading: a rule for one
// device is one branch, and all share two ends.
func compile(rules []rule) ([]Instruction, error) {
	a := assembler{
		code:  make([]Instruction, 0, 16+3*len(rules)),
		exits: make(map[bool][]int, 2),
	}
	a.emit(
		load(kind, argument, 0), // access_type: the access shifted left by 16, and the kind
		aluReg(unix.BPF_MOV, access, kind),
		alu(unix.BPF_AND, kind, 0xffff),
		alu(unix.BPF_RSH, access, 16),
		load(major, argument, 4),
		load(minor, argument, 8),
		aluReg(unix.BPF_MOV, number, major),
		alu(unix.BPF_LSH, number, minorBits),
		aluReg(unix.BPF_OR, number, minor),
	)
	otherwise, rules := rules[0].allow, rules[1:]
	// The last rule comes first, so that the first that matches decides. Rules in
	// a row for the same kind of device share the look at the kind.
	for len(rules) > 0 {
		group := len(rules) - 1
		for group > 0 && rules[group-1].kind == rules[group].kind {
			group--
		}
		end := func() {}
		if k := rules[group].kind; k != 0 {
			end = a.skipUnless(kind, k)
		}
		for i := len(rules) - 1; i >= group; i-- {
			a.rule(rules[i])
		}
		end()
		rules = rules[:group]
	}
	a.result(otherwise)
	if len(a.exits[!otherwise]) > 0 { // the verifier refuses what is never reached
		a.result(!otherwise)
	}
	if len(a.code) > math.MaxInt16 { // as far as a jump goes
		return nil, fmt.Errorf("linux.resources.devices: a program of %d instructions is too long: %w", len(a.code), unix.E2BIG)
	}
	return a.code, nil
}

// rule appends the instructions of one rule. They jump to an end of the program
// if they decide the request, and run into those of the next rule if not.
func (a *assembler) rule(r rule) {
	var register uint8
	var value int32
	switch {
	case r.major != wildcard && r.minor != wildcard:
		register, value = number, int32(uint32(r.major)<<minorBits|uint32(r.minor))
	case r.major != wildcard:
		register, value = major, r.major
	case r.minor != wildcard:
		register, value = minor, r.minor
	}
	anyNumber := r.major == wildcard && r.minor == wildcard

	if r.access == anyAccess { // also for a request that names no access
		if anyNumber {
			a.exitIf(unix.BPF_JA, 0, 0, r.allow)
		} else {
			a.exitIf(unix.BPF_JEQ, register, value, r.allow)
		}
		return
	}
	end := func() {}
	if !anyNumber {
		end = a.skipUnless(register, value)
	}
	if r.allow {
		// Granted is what the rule names; go on if something is left.
		a.emit(alu(unix.BPF_AND, access, anyAccess&^r.access))
		a.exitIf(unix.BPF_JEQ, access, 0, true)
	} else {
		// Refused is a request for any of what the rule names.
		a.exitIf(unix.BPF_JSET, access, r.access, false)
	}
	end()
}

func (a *assembler) emit(code ...Instruction) { a.code = append(a.code, code...) }

// exitIf ends the program, with allow as its result, if the comparison holds.
func (a *assembler) exitIf(op, register uint8, value int32, allow bool) {
	a.exits[allow] = append(a.exits[allow], len(a.code))
	a.emit(compare(op, register, value))
}

// skipUnless jumps over what is appended until the returned function is called,
// unless register has the value.
func (a *assembler) skipUnless(register uint8, value int32) (end func()) {
	at := len(a.code)
	a.emit(compare(unix.BPF_JNE, register, value))
	return func() { a.code[at].Offset = int16(len(a.code) - at - 1) }
}

// compare returns a jump, to where is filled in later. It looks at the low 32 bits
// of the register (Linux 5.1).
func compare(op, register uint8, value int32) Instruction {
	class := uint8(unix.BPF_JMP32)
	if op == unix.BPF_JA {
		class = unix.BPF_JMP // the other would have a 32-bit distance
	}
	return Instruction{Op: class | op | unix.BPF_K, Regs: register, Imm: value}
}

// result appends the end of the program that grants or refuses, and directs the
// jumps to it.
func (a *assembler) result(allow bool) {
	for _, at := range a.exits[allow] {
		a.code[at].Offset = int16(len(a.code) - at - 1)
	}
	value := int32(0)
	if allow {
		value = 1
	}
	a.emit(alu(unix.BPF_MOV, r0, value), Instruction{Op: unix.BPF_JMP | unix.BPF_EXIT})
}
