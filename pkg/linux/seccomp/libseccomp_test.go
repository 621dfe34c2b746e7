package seccomp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestProgramDecidesAsLibseccomp feeds the same rules to libseccomp, in the way
// that runc does, and runs both programs over every number and boundary.
func TestProgramDecidesAsLibseccomp(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the profiles' native architecture is amd64")
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc to build the libseccomp program with")
	}
	oracle := filepath.Join(t.TempDir(), "libseccomp")
	if out, err := exec.Command(gcc, "-o", oracle, "testdata/libseccomp.c", "-lseccomp").CombinedOutput(); err != nil {
		t.Skipf("no libseccomp-dev to build against: %s", out)
	}
	for name, s := range profiles(t) {
		t.Run(name, func(t *testing.T) {
			program, unknown := libseccomp(t, oracle, s)
			if len(unknown) > 0 {
				t.Logf("libseccomp is too old for: %s", strings.Join(unknown, " "))
			}
			// Compare what both know.
			s := *s
			s.Syscalls = slices.Clone(s.Syscalls)
			for i := range s.Syscalls {
				s.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(s.Syscalls[i].Names), func(n string) bool {
					return slices.Contains(unknown, n)
				})
			}
			s.Syscalls = slices.DeleteFunc(s.Syscalls, func(r specs.LinuxSyscall) bool { return len(r.Names) == 0 })
			f, _, err := compile(&s, "amd64")
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d instructions, libseccomp's %d", len(f.Program), len(program))
			def, _ := parseAction(s.DefaultAction, s.DefaultErrnoRet)
			compare(t, &s, f.Program, func(c call) (uint32, bool) {
				if c.nr == x32Bit+453 {
					return 0, false // map_shadow_stack: in x32 since kernel 6.10, which libseccomp missed
				}
				want, _, err := run(program, c)
				if err != nil {
					t.Fatal(err)
				}
				// ENOSYS for new calls is runc's addition to libseccomp.
				if want == def && evaluate(t, &s, x86_64, c) == retENOSYS {
					want = retENOSYS
				}
				return want, true
			})
		})
	}
}

// libseccomp returns its program for s, and the names that it does not know.
func libseccomp(t *testing.T, oracle string, s *specs.LinuxSeccomp) (program []unix.SockFilter, unknown []string) {
	t.Helper()
	def, err := parseAction(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		t.Fatal(err)
	}
	var in bytes.Buffer
	fmt.Fprintf(&in, "default %d\n", def)
	for _, a := range s.Architectures {
		fmt.Fprintf(&in, "arch %s\n", strings.ToLower(strings.TrimPrefix(string(a), "SCMP_ARCH_")))
	}
	operators := []specs.LinuxSeccompOperator{"", specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual} // enum scmp_compare
	for _, entry := range s.Syscalls {
		ret, err := parseAction(entry.Action, entry.ErrnoRet)
		if err != nil {
			t.Fatal(err)
		}
		if ret == def {
			continue // libseccomp refuses it
		}
		alternatives, err := parseConditions(ret, entry.Args)
		if err != nil {
			t.Fatal(err)
		}
		if alternatives == nil {
			alternatives = []rule{{}}
		}
		for _, name := range entry.Names {
			for _, r := range alternatives {
				fmt.Fprintf(&in, "rule %s %d %d", name, ret, len(r.conditions))
				for _, arg := range r.conditions {
					fmt.Fprintf(&in, " %d %d %d %d", arg.Index, slices.Index(operators, arg.Op), arg.Value, arg.ValueTwo)
				}
				fmt.Fprintln(&in)
			}
		}
	}
	cmd := exec.Command(oracle)
	cmd.Stdin = &in
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	program = make([]unix.SockFilter, out.Len()/8)
	if err := binary.Read(&out, binary.NativeEndian, program); err != nil {
		t.Fatal(err)
	}
	return program, strings.Fields(stderr.String())
}
