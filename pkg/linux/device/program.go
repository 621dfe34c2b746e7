package device

import (
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
)

func load(dst, src uint8, offset int16) Instruction {
	return Instruction{Op: unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W, Regs: src<<4 | dst, Offset: offset}
}

func alu(op, dst uint8, imm int32) Instruction {
	return Instruction{Op: unix.BPF_ALU64 | op | unix.BPF_K, Regs: dst, Imm: imm}
}

func move(dst, src uint8) Instruction {
	return Instruction{Op: unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X, Regs: src<<4 | dst}
}

// jump jumps over offset instructions if dst and imm compare so.
func jump(op, dst uint8, imm int32, offset int16) Instruction {
	return Instruction{Op: unix.BPF_JMP | op | unix.BPF_K, Regs: dst, Imm: imm, Offset: offset}
}

// result ends the program.
func result(allow bool) []Instruction {
	value := int32(0)
	if allow {
		value = 1
	}
	return []Instruction{alu(unix.BPF_MOV, r0, value), {Op: unix.BPF_JMP | unix.BPF_EXIT}}
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
	return compile(checked), nil
}

func compile(rules []rule) []Instruction {
	program := make([]Instruction, 0, 8+9*len(rules))
	program = append(program,
		load(kind, argument, 0), // access_type: the access shifted left by 16, and the kind
		move(access, kind),
		alu(unix.BPF_AND, kind, 0xffff),
		alu(unix.BPF_RSH, access, 16),
		load(major, argument, 4),
		load(minor, argument, 8),
	)
	// The last rule comes first, so that the first that matches decides.
	for i := len(rules) - 1; i >= 0; i-- {
		if rules[i].everything() {
			return append(program, result(rules[i].allow)...)
		}
		program = append(program, rules[i].compile()...)
	}
	return append(program, result(false)...)
}

// compile returns the instructions of one rule. They end the program if they
// decide the request, and run into those of the next rule if not.
func (r rule) compile() []Instruction {
	const toNext = 0 // the distance is filled in below
	var code []Instruction
	if r.kind != 0 {
		code = append(code, jump(unix.BPF_JNE, kind, r.kind, toNext))
	}
	if r.major != wildcard {
		code = append(code, jump(unix.BPF_JNE, major, r.major, toNext))
	}
	if r.minor != wildcard {
		code = append(code, jump(unix.BPF_JNE, minor, r.minor, toNext))
	}
	switch {
	case r.access == anyAccess: // also for a request that names no access
	case r.allow:
		// Granted is what the rule names; go on if something is left.
		code = append(code,
			alu(unix.BPF_AND, access, anyAccess&^r.access),
			jump(unix.BPF_JNE, access, 0, toNext))
	default:
		// Refused is a request for any of what the rule names.
		code = append(code,
			jump(unix.BPF_JSET, access, r.access, 1),
			jump(unix.BPF_JA, 0, 0, toNext))
	}
	code = append(code, result(r.allow)...)
	for i := range code {
		switch code[i].Op {
		case unix.BPF_JMP | unix.BPF_JNE, unix.BPF_JMP | unix.BPF_JA:
			code[i].Offset = int16(len(code) - i - 1)
		}
	}
	return code
}
