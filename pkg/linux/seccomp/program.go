package seccomp

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (linux/seccomp.h).
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16 // six 64-bit words
)

// span is a run of system call numbers, up to the next span's start, that
// share one outcome: ret, or where there are some the rules.
type span struct {
	start uint32
	ret   uint32
	rules []rule
	wide  bool // rules compare 64 bits
}

func (s span) same(other span) bool {
	return s.rules == nil && other.rules == nil && s.ret == other.ret
}

// program generates the whole filter: the architecture, then a binary search
// over the spans of its numbers.
//
// Besides running at every system call, the filter is emulated by the kernel
// when it is loaded, once per system call and architecture, to find those
// that are always allowed (kernel/seccomp.c, seccomp_cache_prepare). That
// emulator gives up at an instruction that it does not know, so outside of
// rules only loads of nr and arch, jumps and returns are used, and short paths
// pay twice.
func (p *profile) program() []unix.SockFilter {
	var asm assembler
	next := asm.ret(unix.SECCOMP_RET_KILL_THREAD) // libseccomp's action for an unlisted architecture
	for i := len(p.machines) - 1; i >= 0; i-- {
		m := p.machines[i]
		search := asm.search(p.spans(m), p.defaultRet)
		next = asm.jump(unix.BPF_JEQ, m.audit, asm.load(offsetNumber, search), next)
	}
	asm.load(offsetArch, next)
	slices.Reverse(asm.code)
	return asm.code
}

// spans covers all 2³² numbers of a machine.
func (p *profile) spans(m machine) []span {
	spans := make([]span, 0, 128)
	add := func(s span) {
		if len(spans) == 0 || !spans[len(spans)-1].same(s) {
			spans = append(spans, s)
		}
	}
	// addABI adds an ABI's ordinary calls, from base on.
	addABI := func(a abi, base uint32) {
		c := p.calls[a]
		previous := verdict(-1)
		for nr := 0; nr <= c.last; nr++ {
			if v := c.verdicts[nr]; v < 0 || v != previous {
				add(p.span(c, nr, base+uint32(nr), a))
				previous = v
			}
		}
		add(span{start: base + uint32(c.last+1), ret: p.beyond(c)})
	}
	if m.audit != unix.AUDIT_ARCH_X86_64 {
		a := m.abis[0]
		addABI(a, 0)
		if a == arm {
			for nr := armSlot; nr < slots; nr++ {
				add(p.span(p.calls[a], nr, armPrivate+uint32(nr-armSlot), a))
			}
			add(span{start: armPrivate + slots - armSlot, ret: p.beyond(p.calls[a])})
		}
		return spans
	}
	if slices.Contains(m.abis, x86_64) {
		addABI(x86_64, 0)
	} else {
		add(span{ret: unix.SECCOMP_RET_KILL_THREAD})
	}
	if slices.Contains(m.abis, x32) {
		addABI(x32, x32Bit)
		return spans
	}
	// Like any ABI that is not listed; but this number is no x32 program's.
	add(span{start: x32Bit, ret: unix.SECCOMP_RET_KILL_THREAD})
	add(span{start: skippedCall, ret: p.defaultRet})
	return spans
}

// beyond is what the calls get that are newer than any that the profile names.
func (p *profile) beyond(c *calls) uint32 {
	if p.enosys && c.last >= 0 {
		return retENOSYS
	}
	return p.defaultRet
}

// span is the outcome of the call in slot nr.
func (p *profile) span(c *calls, nr int, start uint32, a abi) span {
	switch v := c.verdicts[nr]; {
	case v > 0:
		return span{start: start, ret: c.rets[v-1]}
	case v < 0:
		return span{start: start, rules: c.rules[-v-1], wide: a.wide()}
	}
	return span{start: start, ret: p.defaultRet}
}
