package seccomp

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func number(n uint) *uint { return &n }

func TestBadProfiles(t *testing.T) {
	rule := func(r specs.LinuxSyscall) specs.LinuxSeccomp {
		return specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{r}}
	}
	for _, tc := range []struct {
		profile specs.LinuxSeccomp
		err     string
	}{
		{specs.LinuxSeccomp{}, `linux.seccomp.defaultAction: unknown action ""`},
		{specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_DENY"}, `linux.seccomp.defaultAction: unknown action "SCMP_ACT_DENY"`},
		{specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, `linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default`},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, DefaultErrnoRet: number(1)}, `linux.seccomp.defaultAction: action "SCMP_ACT_ALLOW" takes no errnoRet`},
		{specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: number(4096)}, `linux.seccomp.defaultAction: errnoRet 4096 is larger than 4095`},
		{specs.LinuxSeccomp{DefaultAction: specs.ActTrace, DefaultErrnoRet: number(65536)}, `linux.seccomp.defaultAction: errnoRet 65536 is larger than 65535`},
		{specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{"SCMP_ARCH_VAX"}}, `linux.seccomp.architectures[0]: unknown architecture "SCMP_ARCH_VAX"`},
		{specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_X"}}, `linux.seccomp.flags[0]: unknown flag "SECCOMP_FILTER_FLAG_X"`},
		{specs.LinuxSeccomp{DefaultAction: specs.ActErrno, ListenerMetadata: "x"}, `linux.seccomp.listenerMetadata: not allowed without listenerPath`},
		{rule(specs.LinuxSyscall{Names: []string{"read"}}), `linux.seccomp.syscalls[0]: unknown action ""`},
		{rule(specs.LinuxSyscall{Action: specs.ActAllow}), `linux.seccomp.syscalls[0]: names is empty`},
		{rule(specs.LinuxSyscall{Action: specs.ActAllow, Names: []string{""}}), `linux.seccomp.syscalls[0]: names holds an empty name`},
		{rule(specs.LinuxSyscall{Action: specs.ActKill, Names: []string{"read"}, ErrnoRet: number(2)}), `linux.seccomp.syscalls[0]: action "SCMP_ACT_KILL" takes no errnoRet`},
		{rule(specs.LinuxSyscall{Action: specs.ActNotify, Names: []string{"read"}}), `linux.seccomp.listenerPath: required by the action SCMP_ACT_NOTIFY`},
		{rule(specs.LinuxSyscall{Action: specs.ActNotify, Names: []string{"write"}}), `linux.seccomp.syscalls[0]: SCMP_ACT_NOTIFY cannot be used for write`},
		{rule(specs.LinuxSyscall{Action: specs.ActAllow, Names: []string{"read"}, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}),
			`linux.seccomp.syscalls[0]: args[0]: index 6 is larger than 5`},
		{rule(specs.LinuxSyscall{Action: specs.ActAllow, Names: []string{"read"}, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_IN"}}}),
			`linux.seccomp.syscalls[0]: args[0]: unknown operator "SCMP_CMP_IN"`},
	} {
		_, _, err := compile(&tc.profile, "amd64")
		if err == nil || err.Error() != tc.err {
			t.Errorf("%v, want %s", err, tc.err)
		}
	}
	if _, _, err := compile(docker(t), "s390x"); err == nil || err.Error() != "compile seccomp profile: no system call table for s390x" {
		t.Error(err)
	}
}

func TestTooLong(t *testing.T) {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range uint64(2000) {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Op: specs.OpEqualTo, Value: i}}})
	}
	_, _, err := compile(s, "amd64")
	if err == nil || !strings.HasSuffix(err.Error(), "more than the kernel's limit of 4096") {
		t.Error(err)
	}
}

func TestWarnings(t *testing.T) {
	_, warnings, err := compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchS390X},
		Flags:         []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv},
		Syscalls: []specs.LinuxSyscall{{
			Action: specs.ActAllow, Names: []string{"read", "raed", "s390_runtime_instr"},
		}},
	}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"seccomp architecture SCMP_ARCH_S390X ignored: this machine cannot run it",
		`seccomp rule for system call "raed" ignored: there is no such call`,
		"seccomp flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV has no effect: no rule has the action SCMP_ACT_NOTIFY",
	}
	if !slices.Equal(warnings, want) {
		t.Errorf("%q, want %q", warnings, want)
	}
}

func TestFlags(t *testing.T) {
	notify := []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}
	for _, tc := range []struct {
		flags []specs.LinuxSeccompFlag
		rules []specs.LinuxSyscall
		want  uint32
	}{
		{nil, nil, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{[]specs.LinuxSeccompFlag{}, nil, 0},
		{[]specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow}, nil,
			unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, notify,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
		{[]specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC"}, notify,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH},
	} {
		f, _, err := compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: tc.flags, Syscalls: tc.rules, ListenerPath: "/run/agent.sock"}, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		if f.Flags != tc.want || f.Listener != (tc.rules != nil) {
			t.Errorf("%v: flags %#x listener %v, want %#x", tc.flags, f.Flags, f.Listener, tc.want)
		}
	}
}

func TestTableIsSorted(t *testing.T) {
	for i := range syscallTable {
		row := &syscallTable[i]
		if i > 0 && syscallTable[i-1].name >= row.name {
			t.Errorf("%s after %s", row.name, syscallTable[i-1].name)
		}
		if lookup(row.name) != row {
			t.Errorf("%s is not found", row.name)
		}
	}
	for _, name := range []string{"", "raed", "read\x00", strings.Repeat("x", 1000)} {
		if lookup(name) != nil {
			t.Errorf("%q is found", name)
		}
	}
	if lookup("socketcall").number[x86] != x86Socketcall || lookup("ipc").number[x86] != x86IPC {
		t.Error("x86's multiplexers have moved")
	}
}
