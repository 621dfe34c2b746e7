package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// assembler builds a program from its end to its beginning: BPF only jumps
// forward, so that every target exists, at a known place, before the jump.
type assembler struct {
	code []unix.SockFilter // last instruction first
	rets []label           // the most recent return of each value
}

// label is the index of an instruction in assembler.code.
type label int

// reach is how far a conditional jump goes: its offsets are bytes.
const reach = 255

func (asm *assembler) emit(op uint16, jt, jf uint8, k uint32) label {
	asm.code = append(asm.code, unix.SockFilter{Code: op, Jt: jt, Jf: jf, K: k})
	return label(len(asm.code) - 1)
}

// distance is the offset to l from the instruction that is emitted next.
func (asm *assembler) distance(l label) int { return len(asm.code) - 1 - int(l) }

// ret returns an instruction that returns value; an earlier one if a
// conditional jump still reaches it.
func (asm *assembler) ret(value uint32) label {
	for i, l := range asm.rets {
		if asm.code[l].K == value {
			if asm.distance(l) >= reach-1 {
				asm.rets[i] = asm.emit(unix.BPF_RET|unix.BPF_K, 0, 0, value)
			}
			return asm.rets[i]
		}
	}
	l := asm.emit(unix.BPF_RET|unix.BPF_K, 0, 0, value)
	asm.rets = append(asm.rets, l)
	return l
}

// near returns l, or a stand-in for it, within reach of a jump that is emitted
// after slack more instructions.
func (asm *assembler) near(l label, slack int) label {
	if asm.distance(l)+slack <= reach {
		return l
	}
	if target := asm.code[l]; target.Code == unix.BPF_RET|unix.BPF_K {
		return asm.ret(target.K)
	}
	return asm.emit(unix.BPF_JMP|unix.BPF_JA, 0, 0, uint32(asm.distance(l)))
}

// jump emits a comparison of the accumulator with k.
func (asm *assembler) jump(cmp uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	yes = asm.near(yes, 1) // the next line may emit one
	no = asm.near(no, 0)
	return asm.emit(unix.BPF_JMP|cmp|unix.BPF_K, uint8(asm.distance(yes)), uint8(asm.distance(no)), k)
}

// load emits a load of the word at offset in seccomp_data, which goes on at next.
func (asm *assembler) load(offset uint32, next label) label {
	if asm.distance(next) != 0 {
		asm.emit(unix.BPF_JMP|unix.BPF_JA, 0, 0, uint32(asm.distance(next)))
	}
	return asm.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, offset)
}

// search emits a binary search for the number in the accumulator.
func (asm *assembler) search(spans []span, otherwise uint32) label {
	if len(spans) == 1 {
		return asm.outcome(spans[0], otherwise)
	}
	if len(spans) <= 7 && exceptions(spans) {
		// One outcome with up to three exceptions: an equality each, half as
		// many comparisons as the limits of the spans would take.
		next := asm.outcome(spans[0], otherwise)
		for i := len(spans) - 2; i > 0; i -= 2 {
			next = asm.jump(unix.BPF_JEQ, spans[i].start, asm.outcome(spans[i], otherwise), next)
		}
		return next
	}
	middle := len(spans) / 2
	upper := asm.search(spans[middle:], otherwise)
	lower := asm.search(spans[:middle], otherwise)
	return asm.jump(unix.BPF_JGE, spans[middle].start, upper, lower)
}

// exceptions reports whether spans are one outcome, interrupted by single numbers.
func exceptions(spans []span) bool {
	if len(spans)%2 == 0 {
		return false
	}
	for i := 1; i < len(spans); i += 2 {
		if spans[i+1].start != spans[i].start+1 || !spans[0].same(spans[i+1]) {
			return false
		}
	}
	return true
}

// outcome emits what happens to a span's calls.
func (asm *assembler) outcome(s span, otherwise uint32) label {
	if s.rules == nil {
		return asm.ret(s.ret)
	}
	next := asm.ret(otherwise)
	for i := len(s.rules) - 1; i >= 0; i-- {
		r := s.rules[i]
		match := asm.ret(r.ret)
		for j := len(r.conditions) - 1; j >= 0; j-- {
			match = asm.condition(r.conditions[j], s.wide, match, next)
		}
		next = match
	}
	return next
}

// condition emits the comparison of one argument. BPF computes with 32 bits,
// and so a 64-bit comparison decides by the high halves, and where these are
// equal by the low halves.
func (asm *assembler) condition(c specs.LinuxSeccompArg, wide bool, yes, no label) label {
	if yes == no {
		return yes
	}
	low := offsetArgs + 8*uint32(c.Index) // little-endian, as all ABIs of the table
	high := low + 4
	valueLow, valueHigh := uint32(c.Value), uint32(c.Value>>32)
	switch c.Op {
	case specs.OpNotEqual:
		c.Op = specs.OpEqualTo
		return asm.condition(c, wide, no, yes)
	case specs.OpLessThan:
		c.Op = specs.OpGreaterEqual
		return asm.condition(c, wide, no, yes)
	case specs.OpLessEqual:
		c.Op = specs.OpGreaterThan
		return asm.condition(c, wide, no, yes)

	case specs.OpEqualTo:
		l := asm.compare(low, unix.BPF_JEQ, valueLow, yes, no)
		if wide {
			l = asm.compare(high, unix.BPF_JEQ, valueHigh, l, no)
		}
		return l

	case specs.OpMaskedEqual:
		// value is the mask. Bits of valueTwo outside of it are ignored, as
		// libseccomp does.
		want := c.ValueTwo & c.Value
		l := asm.masked(low, valueLow, uint32(want), yes, no)
		if wide {
			l = asm.masked(high, valueHigh, uint32(want>>32), l, no)
		}
		return l
	}
	cmp := uint16(unix.BPF_JGE)
	if c.Op == specs.OpGreaterThan {
		cmp = unix.BPF_JGT
	}
	l := asm.compare(low, cmp, valueLow, yes, no)
	if wide {
		differ := no // the high half is smaller
		if valueHigh == 0 {
			differ = yes // it cannot be: it is larger
		}
		l = asm.jump(unix.BPF_JEQ, valueHigh, l, differ)
		if valueHigh != 0 {
			l = asm.jump(unix.BPF_JGT, valueHigh, yes, l)
		}
		l = asm.load(high, l)
	}
	return l
}

// compare emits a load and a comparison.
func (asm *assembler) compare(offset uint32, cmp uint16, k uint32, yes, no label) label {
	return asm.load(offset, asm.jump(cmp, k, yes, no))
}

// masked emits (word & mask) == want.
func (asm *assembler) masked(offset, mask, want uint32, yes, no label) label {
	if mask == 0 {
		return yes
	}
	asm.jump(unix.BPF_JEQ, want, yes, no) // yes is not no, so this is an instruction
	asm.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0, 0, mask)
	return asm.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, offset)
}
