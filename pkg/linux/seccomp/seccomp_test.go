package seccomp

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	mobyseccomp "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// call is struct seccomp_data without the instruction pointer.
type call struct {
	audit, nr uint32
	args      [6]uint64
}

// run is the kernel's interpreter, for the instructions that seccomp(2) allows
// and this package emits (kernel/seccomp.c, seccomp_check_filter).
func run(program []unix.SockFilter, c call) (ret uint32, steps int, err error) {
	var a uint32
	for pc := 0; pc < len(program); pc++ {
		steps++
		in := program[pc]
		var jump bool
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			switch {
			case in.K == offsetNumber:
				a = c.nr
			case in.K == offsetArch:
				a = c.audit
			case in.K >= offsetArgs && in.K < offsetArgs+48 && in.K%4 == 0:
				a = uint32(c.args[(in.K-offsetArgs)/8] >> (in.K % 8 * 8))
			default:
				return 0, steps, fmt.Errorf("load at %d", in.K)
			}
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K, steps, nil
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump = a == in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump = a >= in.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump = a > in.K
		default:
			return 0, steps, fmt.Errorf("instruction %d: code %#x", pc, in.Code)
		}
		if jump {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	return 0, steps, fmt.Errorf("ran off the end")
}

// rowOf finds rows without the code under test.
var rowOf = func() map[string]*tableRow {
	rows := map[string]*tableRow{}
	for i := range syscallTable {
		rows[syscallTable[i].name] = &syscallTable[i]
	}
	return rows
}()

// evaluate decides by reading the profile, rule by rule.
func evaluate(t testing.TB, s *specs.LinuxSeccomp, nativeABI abi, c call) uint32 {
	t.Helper()
	action := func(a specs.LinuxSeccompAction, errno *uint) uint32 {
		ret, err := parseAction(a, errno)
		if err != nil {
			t.Fatal(err)
		}
		return ret
	}
	listed := []abi{nativeABI}
	for _, name := range s.Architectures {
		if a, kind := parseArch(name); kind == archKnown {
			listed = append(listed, a)
		}
	}
	def := action(s.DefaultAction, s.DefaultErrnoRet)
	current, nr, ok := identify(listed, c)
	if !ok {
		if c.audit == unix.AUDIT_ARCH_X86_64 && c.nr == skippedCall && slices.Contains(listed, x86_64) {
			return def
		}
		return unix.SECCOMP_RET_KILL_THREAD
	}
	last := -1
	var unconditional, conditional *uint32
	for _, rule := range s.Syscalls {
		ret := action(rule.Action, rule.ErrnoRet)
		for _, name := range rule.Names {
			row := rowOf[name]
			if row == nil {
				continue
			}
			args := rule.Args
			own := int(row.number[current])
			if own < armSlot {
				last = max(last, own)
			}
			if own >= armSlot {
				own += armPrivate - armSlot
			}
			matched := own >= 0 && uint32(own) == nr
			number := uint8(0)
			if current == x86 && nr == x86Socketcall {
				number = row.socketcall
			} else if current == x86 && nr == x86IPC {
				number = row.ipc
			}
			if number != 0 {
				matched = uint32(c.args[0]) == uint32(number)
				// What is left of the rule is conditional in any case.
				args = []specs.LinuxSeccompArg{{Index: 0, Value: uint64(number), Op: specs.OpEqualTo}}
				for _, arg := range rule.Args {
					if arg.Index != 0 {
						args = append(args, arg)
					}
				}
			}
			if !matched || ret == def {
				continue
			}
			if len(args) == 0 {
				if unconditional == nil {
					unconditional = &ret
				}
			} else if conditional == nil && holds(args, c, current.wide()) {
				conditional = &ret
			}
		}
	}
	switch {
	case unconditional != nil:
		return *unconditional
	case conditional != nil:
		return *conditional
	case last >= 0 && int64(nr) > int64(last) && (current != arm || nr < armPrivate || nr >= armPrivate+slots-armSlot) &&
		!slices.Contains([]specs.LinuxSeccompAction{specs.ActAllow, specs.ActLog, specs.ActTrace}, s.DefaultAction):
		return retENOSYS
	}
	return def
}

// identify returns the ABI that a call is made in, and its number there.
func identify(listed []abi, c call) (abi, uint32, bool) {
	for _, a := range listed {
		if a.audit() != c.audit {
			continue
		}
		switch {
		case a == x32 && c.nr >= x32Bit:
			return a, c.nr - x32Bit, true
		case a == x86_64 && c.nr < x32Bit, a != x86_64 && a != x32:
			return a, c.nr, true
		}
	}
	return 0, 0, false
}

func holds(args []specs.LinuxSeccompArg, c call, wide bool) bool {
	seen := map[uint]bool{}
	either := false
	for _, arg := range args {
		either = either || seen[arg.Index]
		seen[arg.Index] = true
	}
	for _, arg := range args {
		got, value, two := c.args[arg.Index], arg.Value, arg.ValueTwo
		if !wide {
			got, value, two = uint64(uint32(got)), uint64(uint32(value)), uint64(uint32(two))
		}
		result := map[specs.LinuxSeccompOperator]bool{
			specs.OpNotEqual: got != value, specs.OpLessThan: got < value, specs.OpLessEqual: got <= value,
			specs.OpEqualTo: got == value, specs.OpGreaterEqual: got >= value, specs.OpGreaterThan: got > value,
			specs.OpMaskedEqual: got&value == two&value,
		}[arg.Op]
		if result == either {
			return either
		}
	}
	return !either
}

// docker returns Docker's default profile for a container with caps.
func docker(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	s, err := mobyseccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// everyNumber yields all numbers in the table and the edges around and between.
func everyNumber() []uint32 {
	var numbers []uint32
	for nr := range uint32(1100) {
		numbers = append(numbers, nr, x32Bit+nr)
	}
	for nr := range uint32(20) {
		numbers = append(numbers, armPrivate-2+nr)
	}
	return append(numbers, x32Bit-1, 2*x32Bit-1, 2*x32Bit, 2*x32Bit+59, 3*x32Bit+1, 0xffff_fffe, skippedCall)
}

// boundaries are the values at which some condition of s changes its result.
func boundaries(s *specs.LinuxSeccomp) []uint64 {
	values := []uint64{0, 1, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 63, 1<<64 - 1}
	for _, rule := range s.Syscalls {
		for _, arg := range rule.Args {
			for _, v := range []uint64{arg.Value, arg.ValueTwo, arg.Value ^ 1<<32, arg.Value & arg.ValueTwo, ^arg.Value} {
				values = append(values, v-1, v, v+1, v|1<<32, v|1<<63)
			}
		}
	}
	slices.Sort(values)
	return slices.Compact(values)
}

var auditArches = []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_S390X}

// compare runs f for every number of every architecture, with every boundary
// in every argument that a rule looks at, and fails where want differs.
func compare(t testing.TB, s *specs.LinuxSeccomp, program []unix.SockFilter, want func(call) (uint32, bool)) {
	t.Helper()
	conditional := map[uint32]bool{}
	for _, rule := range s.Syscalls {
		if len(rule.Args) == 0 {
			continue
		}
		for _, name := range rule.Names {
			if row := lookup(name); row != nil {
				for a, nr := range row.number {
					conditional[uint32(nr)] = true
					if abi(a) == x32 {
						conditional[x32Bit+uint32(nr)] = true
					}
				}
			}
		}
	}
	conditional[x86Socketcall], conditional[x86IPC] = true, true
	used := map[uint]bool{}
	for _, rule := range s.Syscalls {
		for _, arg := range rule.Args {
			used[arg.Index] = true
		}
	}
	values := boundaries(s)
	check := func(c call) {
		expected, ok := want(c)
		if !ok {
			return
		}
		got, _, err := run(program, c)
		if err != nil {
			t.Fatal(err)
		}
		if got != expected {
			t.Fatalf("arch %#x call %#x args %#x: %#x, want %#x", c.audit, c.nr, c.args, got, expected)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, audit := range auditArches {
		for _, nr := range everyNumber() {
			c := call{audit: audit, nr: nr}
			check(c)
			if !conditional[nr] {
				continue
			}
			for i := range used {
				for _, v := range values {
					c.args = [6]uint64{}
					c.args[i] = v
					check(c)
				}
			}
			for range 50 {
				for i := range c.args {
					c.args[i] = values[random.IntN(len(values))]
				}
				check(c)
			}
			for sub := range uint64(25) { // socketcall's and ipc's
				c.args = [6]uint64{sub, values[random.IntN(len(values))]}
				check(c)
			}
		}
	}
}

// profiles are what the programs are compared on.
func profiles(t testing.TB) map[string]*specs.LinuxSeccomp {
	all := map[string]*specs.LinuxSeccomp{
		"docker":            docker(t),
		"docker, SYS_ADMIN": docker(t, "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_TIME"),
		"empty":             {DefaultAction: specs.ActErrno},
		"docker on arm64":   docker(t),
	}
	all["docker on arm64"].Architectures = []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := &specs.LinuxSeccomp{}
		if err := json.Unmarshal(b, s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = s
	}
	return all
}

func TestProgramDecidesAsTheProfileReads(t *testing.T) {
	for name, s := range profiles(t) {
		for goarch, nativeABI := range map[string]abi{"amd64": x86_64, "arm64": aarch64, "386": x86, "arm": arm} {
			t.Run(name+"/"+goarch, func(t *testing.T) {
				f, _, err := compile(s, goarch)
				if err != nil {
					t.Fatal(err)
				}
				compare(t, s, f.Program, func(c call) (uint32, bool) { return evaluate(t, s, nativeABI, c), true })
			})
		}
	}
}

func TestDockerProfileIsSmall(t *testing.T) {
	f, warnings, err := compile(docker(t), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 0 {
		t.Errorf("warnings: %q", warnings)
	}
	longest := 0
	for nr := range uint32(512) {
		_, steps, err := run(f.Program, call{audit: unix.AUDIT_ARCH_X86_64, nr: nr})
		if err != nil {
			t.Fatal(err)
		}
		longest = max(longest, steps)
	}
	t.Logf("%d instructions, at most %d executed", len(f.Program), longest)
	if len(f.Program) > 500 || longest > 40 {
		t.Errorf("%d instructions, at most %d executed", len(f.Program), longest)
	}
}

func BenchmarkCompileDocker(b *testing.B) {
	s := docker(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Compile(s); err != nil {
			b.Fatal(err)
		}
	}
}
