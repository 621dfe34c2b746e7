package seccomp

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// retENOSYS is what calls newer than the profile get.
const retENOSYS = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

// profile is a parsed profile, its rules sorted into one calls per ABI.
type profile struct {
	defaultRet uint32
	enosys     bool // calls newer than the profile get ENOSYS
	machines   []machine
	calls      [abis]*calls // nil for an ABI that is not listed
	notifies   bool
	warnings   []string
}

// A verdict is what is decided about one system call: 0 is the default action,
// n > 0 the return value calls.rets[n-1], n < 0 the rules calls.rules[-n-1].
type verdict int16

// calls are the verdicts on one ABI's system calls.
type calls struct {
	verdicts [slots]verdict
	rets     []uint32
	rules    [][]rule
	// last is the highest number that the profile names, -1 if none. ARM's
	// private calls do not count.
	last int
}

// rule gives ret when all of its conditions hold. It has at least one.
type rule struct {
	ret        uint32
	conditions []specs.LinuxSeccompArg
}

func (p *profile) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

func parse(s *specs.LinuxSeccomp, nativeABI abi) (*profile, error) {
	p := &profile{}
	var err error
	if p.defaultRet, err = parseAction(s.DefaultAction, s.DefaultErrnoRet); err != nil {
		return nil, fmt.Errorf("linux.seccomp.defaultAction: %w", err)
	}
	switch s.DefaultAction {
	case specs.ActNotify:
		// Not even the process that hands over the descriptor could go on.
		return nil, fmt.Errorf("linux.seccomp.defaultAction: %s cannot be the default", specs.ActNotify)
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
		// A tracer answers for new calls itself.
	default:
		p.enosys = p.defaultRet != retENOSYS
	}
	if err := p.addArchitectures(s.Architectures, nativeABI); err != nil {
		return nil, err
	}
	for i := range s.Syscalls {
		if err := p.addRule(&s.Syscalls[i]); err != nil {
			return nil, fmt.Errorf("linux.seccomp.syscalls[%d]: %w", i, err)
		}
	}
	if p.notifies && s.ListenerPath == "" {
		return nil, fmt.Errorf("linux.seccomp.listenerPath: required by the action %s", specs.ActNotify)
	}
	if s.ListenerPath == "" && s.ListenerMetadata != "" {
		return nil, fmt.Errorf("linux.seccomp.listenerMetadata: not allowed without listenerPath")
	}
	return p, nil
}

// addArchitectures lists the native ABI first: its calls are the common ones.
func (p *profile) addArchitectures(architectures []specs.Arch, nativeABI abi) error {
	p.addABI(nativeABI)
	for i, name := range architectures {
		a, kind := parseArch(name)
		switch kind {
		case archUnknown:
			return fmt.Errorf("linux.seccomp.architectures[%d]: unknown architecture %q", i, name)
		case archForeign:
			p.warn("seccomp architecture %s ignored: this machine cannot run it", name)
		default:
			p.addABI(a)
		}
	}
	return nil
}

func (p *profile) addABI(a abi) {
	if p.calls[a] != nil {
		return
	}
	p.calls[a] = &calls{last: -1}
	for i := range p.machines {
		if p.machines[i].audit == a.audit() {
			p.machines[i].abis = append(p.machines[i].abis, a)
			return
		}
	}
	p.machines = append(p.machines, machine{audit: a.audit(), abis: []abi{a}})
}

// addRule adds one entry of linux.seccomp.syscalls.
func (p *profile) addRule(s *specs.LinuxSyscall) error {
	ret, err := parseAction(s.Action, s.ErrnoRet)
	if err != nil {
		return err
	}
	if len(s.Names) == 0 {
		return fmt.Errorf("names is empty")
	}
	rules, err := parseConditions(ret, s.Args)
	if err != nil {
		return err
	}
	redundant := ret == p.defaultRet
	for _, name := range s.Names {
		if s.Action == specs.ActNotify {
			// The process must still be able to hand the descriptor over.
			if name == "write" {
				return fmt.Errorf("%s cannot be used for write", specs.ActNotify)
			}
			p.notifies = true
		}
		row := lookup(name)
		if row == nil {
			if name == "" {
				return fmt.Errorf("names holds an empty name")
			}
			p.warn("seccomp rule for system call %q ignored: there is no such call", name)
			continue
		}
		for a, c := range p.calls {
			if c == nil {
				continue
			}
			if nr := int(row.number[a]); nr >= 0 {
				if nr < armSlot {
					c.last = max(c.last, nr)
				}
				if !redundant {
					c.add(nr, ret, rules)
				}
			}
			if abi(a) == x86 && !redundant {
				if row.socketcall != 0 {
					c.add(x86Socketcall, ret, multiplexed(row.socketcall, ret, s.Args))
				}
				if row.ipc != 0 {
					c.add(x86IPC, ret, multiplexed(row.ipc, ret, s.Args))
				}
			}
		}
	}
	return nil
}

// multiplexed is the rule by which a rule for one call holds for x86's
// socketcall(2) or ipc(2) too. Their first argument says which call is meant,
// so that a condition on argument 0 cannot be kept; nor can libseccomp keep it.
func multiplexed(call uint8, ret uint32, args []specs.LinuxSeccompArg) []rule {
	conditions := []specs.LinuxSeccompArg{{Index: 0, Value: uint64(call), Op: specs.OpEqualTo}}
	for _, arg := range args {
		if arg.Index != 0 {
			conditions = append(conditions, arg)
		}
	}
	return []rule{{ret, conditions}}
}

// parseConditions returns the alternatives that args stand for: nil for none.
func parseConditions(ret uint32, args []specs.LinuxSeccompArg) ([]rule, error) {
	if len(args) == 0 {
		return nil, nil
	}
	var used uint
	repeated := false
	for i, arg := range args {
		if arg.Index > 5 {
			return nil, fmt.Errorf("args[%d]: index %d is larger than 5", i, arg.Index)
		}
		switch arg.Op {
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
			specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		default:
			return nil, fmt.Errorf("args[%d]: unknown operator %q", i, arg.Op)
		}
		repeated = repeated || used&(1<<arg.Index) != 0
		used |= 1 << arg.Index
	}
	if !repeated {
		return []rule{{ret, args}}, nil
	}
	rules := make([]rule, len(args))
	for i := range args {
		rules[i] = rule{ret, args[i : i+1]}
	}
	return rules, nil
}

// add gives the call a return value, or further rules if there are any.
func (c *calls) add(nr int, ret uint32, rules []rule) {
	v := c.verdicts[nr]
	switch {
	case v > 0: // already decided without conditions
	case rules == nil:
		c.verdicts[nr] = c.retVerdict(ret)
	case v < 0:
		c.rules[-v-1] = append(c.rules[-v-1], rules...)
	default:
		// Clipped: rules may be shared with other calls, and is appended to.
		c.rules = append(c.rules, rules[:len(rules):len(rules)])
		c.verdicts[nr] = verdict(-len(c.rules))
	}
}

func (c *calls) retVerdict(ret uint32) verdict {
	for i, known := range c.rets {
		if known == ret {
			return verdict(i + 1)
		}
	}
	c.rets = append(c.rets, ret)
	return verdict(len(c.rets))
}
