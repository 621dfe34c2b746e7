package device

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// request is what the kernel asks a program: struct bpf_cgroup_dev_ctx.
type request struct {
	kind, access, major, minor uint32
}

// run interprets the few instructions that Compile emits.
func run(t *testing.T, program []Instruction, q request) bool {
	t.Helper()
	memory := [...]uint64{uint64(q.access<<16 | q.kind), uint64(q.major), uint64(q.minor)}
	var r [11]uint64
	for pc := 0; ; pc++ {
		if pc < 0 || pc >= len(program) {
			t.Fatalf("program counter %d runs out of a program of %d", pc, len(program))
		}
		in := program[pc]
		dst, src, imm := in.Regs&15, in.Regs>>4, uint64(int64(in.Imm))
		skip := func(yes bool) {
			if yes {
				pc += int(in.Offset)
			}
		}
		switch in.Op {
		case unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W:
			r[dst] = memory[in.Offset/4]
		case unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X:
			r[dst] = r[src]
		case unix.BPF_ALU64 | unix.BPF_MOV:
			r[dst] = imm
		case unix.BPF_ALU64 | unix.BPF_AND:
			r[dst] &= imm
		case unix.BPF_ALU64 | unix.BPF_RSH:
			r[dst] >>= imm
		case unix.BPF_ALU64 | unix.BPF_LSH:
			r[dst] <<= imm
		case unix.BPF_ALU64 | unix.BPF_OR | unix.BPF_X:
			r[dst] |= r[src]
		case unix.BPF_JMP32 | unix.BPF_JEQ:
			skip(uint32(r[dst]) == uint32(imm))
		case unix.BPF_JMP32 | unix.BPF_JNE:
			skip(uint32(r[dst]) != uint32(imm))
		case unix.BPF_JMP32 | unix.BPF_JSET:
			skip(uint32(r[dst])&uint32(imm) != 0)
		case unix.BPF_JMP | unix.BPF_JA:
			skip(true)
		case unix.BPF_JMP | unix.BPF_EXIT:
			return r[r0] != 0
		default:
			t.Fatalf("instruction %d: unknown operation %#x", pc, in.Op)
		}
	}
}

// decide is what the rules mean, written down as plainly as possible: for each
// kind of access, the last rule that speaks of it and of the device.
func decide(rules []specs.LinuxDeviceCgroup, q request) bool {
	matches := func(n *int64, m uint32) bool { return n == nil || *n == -1 || *n == int64(m) }
	for letter, bit := range map[string]uint32{"r": read, "w": write, "m": mknod} {
		if q.access&bit == 0 {
			continue
		}
		allowed := len(rules) == 0
		for _, d := range rules {
			kind := d.Type == "" || d.Type == "a" || d.Type == "b" && q.kind == block || d.Type == "c" && q.kind == char
			access := d.Access == "" || strings.Contains(d.Access, letter)
			if kind && access && matches(d.Major, q.major) && matches(d.Minor, q.minor) {
				allowed = d.Allow
			}
		}
		if !allowed {
			return false
		}
	}
	return true
}

func ruleFor(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
}

var denyAll = specs.LinuxDeviceCgroup{Access: "rwm"}

func TestCompileAgreesWithTheRules(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(choices ...string) string { return choices[random.IntN(len(choices))] }
	number := func() *int64 {
		n := int64(random.IntN(4)) - 1
		return &n
	}
	for range 3000 {
		rules := make([]specs.LinuxDeviceCgroup, random.IntN(8))
		for i := range rules {
			rules[i] = specs.LinuxDeviceCgroup{
				Allow: random.IntN(2) == 0, Type: pick("", "a", "b", "c"), Major: number(), Minor: number(),
				Access: pick("", "r", "w", "m", "rw", "rm", "wm", "rwm"),
			}
		}
		program, err := Compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		for kind := uint32(block); kind <= char; kind++ {
			for access := uint32(1); access <= anyAccess; access++ {
				for number := range uint32(9) {
					q := request{kind, access, number / 3, number % 3}
					want := decide(rules, q)
					got := program == nil || run(t, program, q)
					if got != want {
						checked, _ := parseRules(rules)
						t.Fatalf("rules %s: request %+v is allowed: %t, want %t", formatRules(checked), q, got, want)
					}
				}
			}
		}
	}
}

func TestCompileNothingForRulesThatAllowAll(t *testing.T) {
	allowAll := specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
	for _, rules := range [][]specs.LinuxDeviceCgroup{
		nil,
		{allowAll},
		{denyAll, allowAll},
		{denyAll, ruleFor(false, "c", 1, 3, "w"), allowAll, ruleFor(true, "c", 1, 3, "rwm")},
	} {
		if program, err := Compile(rules); err != nil || program != nil {
			t.Errorf("rules %v: program of %d instructions, error %v; want neither", rules, len(program), err)
		}
	}
	if program, _ := Compile([]specs.LinuxDeviceCgroup{allowAll, ruleFor(false, "b", -1, -1, "w")}); program == nil {
		t.Error("a later rule that denies is forgotten")
	}
}

func TestCompileRefusesBadRules(t *testing.T) {
	for want, bad := range map[string]specs.LinuxDeviceCgroup{
		`linux.resources.devices[1]: device type "p"`:         ruleFor(true, "p", 1, 3, "r"),
		`linux.resources.devices[1]: device access "rx"`:      ruleFor(true, "c", 1, 3, "rx"),
		`linux.resources.devices[1]: major number 4096`:       ruleFor(true, "c", 4096, 3, "r"),
		`linux.resources.devices[1]: major number -2`:         ruleFor(true, "c", -2, 3, "r"),
		`linux.resources.devices[1]: minor number 4294967296`: ruleFor(true, "c", 1, 1<<32, "r"),
	} {
		_, err := Compile([]specs.LinuxDeviceCgroup{denyAll, bad})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %s…", err, want)
		}
	}
}

// The encoding is checked by another implementation: cilium/ebpf reads the program
// back.
func TestProgramDisassembles(t *testing.T) {
	program, err := Compile([]specs.LinuxDeviceCgroup{
		ruleFor(false, "c", 1, 5, "rwm"), // makes no difference, like denyAll
		denyAll,
		ruleFor(true, "c", 1, 3, "rwm"),
		ruleFor(true, "b", 8, -1, "r"),
		ruleFor(false, "a", -1, 7, "rw"),
		ruleFor(false, "b", 9, 0, "rw"), // nothing has allowed it
	})
	if err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	if err := binary.Write(&raw, binary.LittleEndian, program); err != nil {
		t.Fatal(err)
	}
	decoded, err := asm.AppendInstructions(nil, &raw, binary.LittleEndian, "linux")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for i, in := range decoded {
		fmt.Fprintf(&got, "%2d: %v\n", i, in)
	}
	const want = ` 0: LdXMemW dst: r2 src: r1 off: 0 imm: 0
 1: MovReg dst: r3 src: r2
 2: AndImm dst: r2 imm: 65535
 3: RShImm dst: r3 imm: 16
 4: LdXMemW dst: r4 src: r1 off: 4 imm: 0
 5: LdXMemW dst: r5 src: r1 off: 8 imm: 0
 6: MovReg dst: r6 src: r4
 7: LShImm dst: r6 imm: 20
 8: OrReg dst: r6 src: r5
 9: JNE32Imm dst: r5 off: 1 imm: 7
10: JSet32Imm dst: r3 off: 6 imm: 6
11: JNE32Imm dst: r2 off: 3 imm: 1
12: JNE32Imm dst: r4 off: 2 imm: 8
13: AndImm dst: r3 imm: 5
14: JEq32Imm dst: r3 off: 4 imm: 0
15: JNE32Imm dst: r2 off: 1 imm: 2
16: JEq32Imm dst: r6 off: 2 imm: 1048579
17: MovImm dst: r0 imm: 0
18: Exit
19: MovImm dst: r0 imm: 1
20: Exit
`
	if got.String() != want {
		t.Errorf("program:\n%s\nwant:\n%s", got.String(), want)
	}
}

func BenchmarkCompile(b *testing.B) {
	rules := append([]specs.LinuxDeviceCgroup{denyAll}, DefaultAllowed()...)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(rules); err != nil {
			b.Fatal(err)
		}
	}
}
