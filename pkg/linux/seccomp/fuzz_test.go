package seccomp

import (
	"encoding/binary"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// FuzzCompile makes a profile and some calls of arbitrary bytes. Whatever
// compiles must be a program that the kernel accepts, and decide as the
// profile reads.
func FuzzCompile(f *testing.F) {
	f.Add([]byte("seccomp"))
	f.Add([]byte{4, 9, 1, 2, 3, 30, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 40, 2, 1, 6, 0xff, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytesReader{data}
		s := &specs.LinuxSeccomp{
			DefaultAction: in.action(),
			Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM}[in.byte()%6:],
			ListenerPath:  "/run/seccomp.sock",
		}
		for len(in.data) > 0 && len(s.Syscalls) < 200 {
			rule := specs.LinuxSyscall{Action: in.action()}
			for range 1 + in.byte()%8 {
				rule.Names = append(rule.Names, syscallTable[in.word()%uint64(len(syscallTable))].name)
			}
			for range in.byte() % 4 {
				rule.Args = append(rule.Args, specs.LinuxSeccompArg{
					Index: uint(in.byte()) % 6,
					Op: []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
						specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}[in.byte()%7],
					Value:    in.word(),
					ValueTwo: in.word(),
				})
			}
			s.Syscalls = append(s.Syscalls, rule)
		}
		filter, _, err := compile(s, "amd64")
		if err != nil {
			return
		}
		valid(t, filter.Program)
		values := boundaries(s)
		for i, rule := range s.Syscalls {
			for _, name := range rule.Names {
				for a, nr := range lookup(name).number {
					if nr < 0 {
						continue
					}
					c := call{audit: abi(a).audit(), nr: uint32(nr)}
					switch {
					case abi(a) == x32:
						c.nr += x32Bit
					case nr >= armSlot:
						c.nr += armPrivate - armSlot
					}
					for j := range c.args {
						c.args[j] = values[(i*7+j*int(nr))%len(values)]
					}
					for delta := range uint32(2) {
						c.nr += delta
						got, _, err := run(filter.Program, c)
						if err != nil {
							t.Fatal(err)
						}
						if want := evaluate(t, s, x86_64, c); got != want {
							t.Fatalf("arch %#x call %#x args %#x: %#x, want %#x", c.audit, c.nr, c.args, got, want)
						}
					}
				}
			}
		}
	})
}

// valid makes the kernel's static checks (net/core/filter.c, bpf_check_classic):
// every jump stays inside, and the last instruction returns.
func valid(t *testing.T, program []unix.SockFilter) {
	t.Helper()
	for i, in := range program {
		if in.Code&7 != unix.BPF_JMP {
			continue
		}
		farthest := max(int(in.Jt), int(in.Jf))
		if in.Code&0xf0 == unix.BPF_JA {
			farthest = int(in.K)
		}
		if i+1+farthest >= len(program) {
			t.Fatalf("instruction %d of %d jumps to %d", i, len(program), i+1+farthest)
		}
	}
	if last := program[len(program)-1]; last.Code != unix.BPF_RET|unix.BPF_K {
		t.Fatalf("last instruction has code %#x", last.Code)
	}
}

// bytesReader yields zeroes after its end.
type bytesReader struct{ data []byte }

func (r *bytesReader) byte() byte {
	if len(r.data) == 0 {
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

func (r *bytesReader) word() uint64 {
	var b [8]byte
	n := copy(b[:], r.data)
	r.data = r.data[n:]
	return binary.LittleEndian.Uint64(b[:])
}

func (r *bytesReader) action() specs.LinuxSeccompAction {
	return []specs.LinuxSeccompAction{specs.ActErrno, specs.ActAllow, specs.ActKill, specs.ActKillProcess, specs.ActKillThread,
		specs.ActTrap, specs.ActTrace, specs.ActLog, specs.ActNotify}[r.byte()%9]
}
