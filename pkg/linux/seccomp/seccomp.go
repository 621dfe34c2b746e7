// Package seccomp compiles the seccomp section of an OCI config.json into the
// classic BPF program that seccomp(2) loads. It is pure Go and loads nothing.
//
// The result decides as libseccomp and runc do for the same profile:
//
//   - A system call that no rule names gets the default action. One above the
//     highest number that the profile names, in its ABI, gets ENOSYS instead,
//     unless the default is to let calls pass: the profile is older than
//     the call, and C libraries fall back to an older call only on ENOSYS.
//   - A rule whose action is the default action is ignored, but counts as
//     naming its calls.
//   - A rule without conditions outranks those with, whatever their order;
//     among several of either kind the first that matches decides.
//   - All conditions of a rule must hold, except that a rule with two conditions
//     on the same argument holds when any of its conditions does (runc splits
//     it into one rule per condition).
//   - An ABI that the profile does not list has its threads killed. The native
//     ABI is always listed.
//   - 32-bit ABIs, and x32, have the low 32 bits of arguments compared.
package seccomp

import (
	"fmt"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is a compiled profile.
type Filter struct {
	// Program is at most BPF_MAXINSNS instructions, in host byte order.
	Program []unix.SockFilter
	// Flags are the SECCOMP_FILTER_FLAG_ bits for seccomp(2).
	Flags uint32
	// Listener says that Flags ask for a notification descriptor, which
	// seccomp(2) then returns, and which belongs to the profile's ListenerPath.
	Listener bool
}

// maxInstructions is BPF_MAXINSNS (linux/bpf_common.h).
const maxInstructions = 4096

// Compile compiles s for the architecture this program is built for.
//
// The warnings, one sentence each, name what was left out since it has no
// meaning on this machine. An error names the field that is wrong.
// Source: runtime-spec config-linux.md, "Seccomp"; seccomp(2).
func Compile(s *specs.LinuxSeccomp) (Filter, []string, error) {
	return compile(s, runtime.GOARCH)
}

func compile(s *specs.LinuxSeccomp, goarch string) (Filter, []string, error) {
	nativeABI, ok := native(goarch)
	if !ok {
		return Filter{}, nil, fmt.Errorf("compile seccomp profile: no system call table for %s", goarch)
	}
	p, err := parse(s, nativeABI)
	if err != nil {
		return Filter{}, nil, err
	}
	f := Filter{Listener: p.notifies}
	if f.Flags, err = p.flags(s); err != nil {
		return Filter{}, nil, err
	}
	f.Program = p.program()
	if len(f.Program) > maxInstructions {
		return Filter{}, nil, fmt.Errorf("compile seccomp profile: %d instructions, more than the kernel's limit of %d", len(f.Program), maxInstructions)
	}
	return f, p.warnings, nil
}

// flags turns linux.seccomp.flags into those of seccomp(2).
func (p *profile) flags(s *specs.LinuxSeccomp) (uint32, error) {
	var flags uint32
	if s.Flags == nil {
		// As runc: a profile that says nothing about flags does not ask for
		// the speculative-store-bypass mitigation, which slows every program.
		flags = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	for i, flag := range s.Flags {
		switch flag {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			flags |= unix.SECCOMP_FILTER_FLAG_TSYNC
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			// The kernel refuses it (EINVAL) without a listener.
			if p.notifies {
				flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
			} else {
				p.warn("seccomp flag %s has no effect: no rule has the action %s", flag, specs.ActNotify)
			}
		default:
			return 0, fmt.Errorf("linux.seccomp.flags[%d]: unknown flag %q", i, flag)
		}
	}
	if p.notifies {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
		if flags&unix.SECCOMP_FILTER_FLAG_TSYNC != 0 {
			// Both report through seccomp(2)'s return value; with this flag
			// a thread that cannot be synchronised is reported as ESRCH.
			flags |= unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
		}
	}
	return flags, nil
}

// parseAction returns the filter's return value for an action
// (linux/seccomp.h, SECCOMP_RET_*).
func parseAction(action specs.LinuxSeccompAction, errnoRet *uint) (uint32, error) {
	var data uint32
	switch action {
	case specs.ActErrno, specs.ActTrace:
		data = uint32(unix.EPERM)
		if errnoRet != nil {
			// The kernel would clamp an errno to MAX_ERRNO; a tracer gets
			// all of the 16 bits.
			limit := uint(4095)
			if action == specs.ActTrace {
				limit = unix.SECCOMP_RET_DATA
			}
			if *errnoRet > limit {
				return 0, fmt.Errorf("errnoRet %d is larger than %d", *errnoRet, limit)
			}
			data = uint32(*errnoRet)
		}
	default:
		if errnoRet != nil {
			return 0, fmt.Errorf("action %q takes no errnoRet", action)
		}
	}
	switch action {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	}
	return 0, fmt.Errorf("unknown action %q", action)
}
