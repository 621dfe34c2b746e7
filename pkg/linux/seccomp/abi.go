package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run ./internal/gentable

// abi is one system call interface of the kernel: a column of syscallTable.
type abi int

const (
	x86_64 abi = iota
	x86
	x32
	aarch64
	arm
	abis
)

// tableRow is one system call: its name and its number in each ABI.
type tableRow struct {
	name   string
	number [abis]int16
	// An x86 program can also make the call by socketcall(2) or ipc(2), with
	// this first argument; 0 if not.
	socketcall, ipc uint8
}

// Numbers of x86's multiplexers.
const (
	x86Socketcall = 102
	x86IPC        = 117
)

// An x32 program makes its calls through x86_64's entry point, with this bit
// set in the number (arch/x86/include/uapi/asm/unistd.h).
const x32Bit = 0x4000_0000

// armPrivate is __ARM_NR_BASE: the number of ARM's first private call.
const armPrivate = 0x000f_0000

// skippedCall is the number that ptrace leaves to have no call made at all.
const skippedCall = 0xffff_ffff

// machine is what the kernel calls an architecture (seccomp_data.arch), with
// its ABIs: x86_64 and x32 share one.
type machine struct {
	audit uint32
	abis  []abi
}

// wide reports whether the ABI's arguments are compared as 64 bits. For the
// others only the low half is: the upper half of a register is not the 32-bit
// program's to set, and a 64-bit program that enters by int 0x80 may leave
// anything there. libseccomp counts x32 among these.
func (a abi) wide() bool { return a == x86_64 || a == aarch64 }

// audit is the AUDIT_ARCH_ value that the kernel reports for the ABI.
func (a abi) audit() uint32 {
	switch a {
	case x86:
		return unix.AUDIT_ARCH_I386
	case aarch64:
		return unix.AUDIT_ARCH_AARCH64
	case arm:
		return unix.AUDIT_ARCH_ARM
	default:
		return unix.AUDIT_ARCH_X86_64
	}
}

// native returns the ABI of programs built for goarch.
func native(goarch string) (abi, bool) {
	switch goarch {
	case "amd64":
		return x86_64, true
	case "386":
		return x86, true
	case "arm64":
		return aarch64, true
	case "arm":
		return arm, true
	}
	return 0, false
}

// Kinds of architecture in a profile.
const (
	archUnknown = iota // not in the specification
	archForeign        // no kernel that this package is built for can run it
	archKnown
)

func parseArch(a specs.Arch) (abi, int) {
	switch a {
	case specs.ArchX86_64:
		return x86_64, archKnown
	case specs.ArchX86:
		return x86, archKnown
	case specs.ArchX32:
		return x32, archKnown
	case specs.ArchAARCH64:
		return aarch64, archKnown
	case specs.ArchARM:
		return arm, archKnown
	case specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
		specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64,
		specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB:
		return 0, archForeign
	}
	return 0, archUnknown
}

// lookup finds a system call by name; nil when no architecture has it.
func lookup(name string) *tableRow {
	hash := uint32(2166136261)
	for i := range len(name) {
		hash = (hash ^ uint32(name[i])) * 16777619
	}
	for ; ; hash++ {
		i := syscallIndex[hash%uint32(len(syscallIndex))]
		if i == 0 {
			return nil
		}
		if row := &syscallTable[i-1]; row.name == name {
			return row
		}
	}
}
