package runtime

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// process appends what config.json's process asks for, apart from its identity
// and the program itself.
func (b *builder) process(p *specs.Process, id string, o CreateOptions, slave *script.Var) error {
	if !o.NoNewKeyring {
		// Keys of the caller's session are none of the container's business.
		b.optional(script.Op{
			Nr: unix.SYS_KEYCTL, Args: []script.Arg{script.Int(unix.KEYCTL_JOIN_SESSION_KEYRING), b.String("_ses." + id)},
			Event: explain.Event{Op: "keyctl", Target: "JOIN_SESSION_KEYRING", Value: "_ses." + id, Why: "a keyring of its own: the caller's keys are none of its business"},
		})
	}
	b.session(p, slave)
	if slave == nil {
		b.ownStdio(p, o.IO)
	}
	if err := b.scheduling(p); err != nil {
		return err
	}
	b.securityLabel(p)
	b.workDir(p)
	return nil
}

// scheduling appends scheduler and I/O priority.
func (b *builder) scheduling(p *specs.Process) error {
	if s := p.Scheduler; s != nil {
		attr, err := schedAttr(s)
		if err != nil {
			return err
		}
		b.call(explain.Event{Op: "sched_setattr", Value: string(s.Policy), Source: "process.scheduler"},
			unix.SYS_SCHED_SETATTR, script.Int(0), attr.memory(b), script.Int(0))
	}
	if io := p.IOPriority; io != nil {
		class := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}[io.Class]
		if class == 0 || io.Priority < 0 || io.Priority > 7 {
			return fmt.Errorf("process.ioPriority: class %q priority %d is not possible", io.Class, io.Priority)
		}
		const whoProcess = 1
		b.call(explain.Event{Op: "ioprio_set", Value: fmt.Sprintf("%s %d", io.Class, io.Priority), Source: "process.ioPriority"},
			unix.SYS_IOPRIO_SET, script.Int(whoProcess), script.Int(0), script.Int(class<<13|io.Priority))
	}
	return nil
}

// schedulerAttr is struct sched_attr of sched_setattr(2).
type schedulerAttr struct {
	policy                    uint32
	flags                     uint64
	nice                      int32
	priority                  uint32
	runtime, deadline, period uint64
}

func (a *schedulerAttr) memory(b *builder) script.Arg {
	const size = 48
	return b.Words(
		size|uint64(a.policy)<<32,
		a.flags,
		uint64(uint32(a.nice))|uint64(a.priority)<<32, //nolint:gosec // two's complement
		a.runtime, a.deadline, a.period,
	)
}

func schedAttr(s *specs.Scheduler) (*schedulerAttr, error) {
	a := &schedulerAttr{
		nice: s.Nice, priority: uint32(s.Priority), //nolint:gosec // checked by the kernel
		runtime: s.Runtime, deadline: s.Deadline, period: s.Period,
	}
	switch s.Policy {
	case specs.SchedOther:
		a.policy = 0
	case specs.SchedFIFO:
		a.policy = 1
	case specs.SchedRR:
		a.policy = 2
	case specs.SchedBatch:
		a.policy = 3
	case specs.SchedISO:
		a.policy = 4
	case specs.SchedIdle:
		a.policy = 5
	case specs.SchedDeadline:
		a.policy = 6
	default:
		return nil, fmt.Errorf("process.scheduler: unknown policy %q", s.Policy)
	}
	for _, f := range s.Flags {
		switch f {
		case specs.SchedFlagResetOnFork:
			a.flags |= 0x01
		case specs.SchedFlagReclaim:
			a.flags |= 0x02
		case specs.SchedFlagDLOverrun:
			a.flags |= 0x04
		case specs.SchedFlagKeepPolicy:
			a.flags |= 0x08
		case specs.SchedFlagKeepParams:
			a.flags |= 0x10
		case specs.SchedFlagUtilClampMin:
			a.flags |= 0x20
		case specs.SchedFlagUtilClampMax:
			a.flags |= 0x40
		default:
			return nil, fmt.Errorf("process.scheduler: unknown flag %q", f)
		}
	}
	return a, nil
}

// personality appends linux.personality.
func (b *builder) personality() error {
	p := b.spec.Linux.Personality
	if p == nil {
		return nil
	}
	var v int
	switch p.Domain {
	case specs.PerLinux:
		v = 0
	case specs.PerLinux32:
		v = 8
	default:
		return fmt.Errorf("linux.personality: unknown domain %q", p.Domain)
	}
	if len(p.Flags) > 0 {
		return fmt.Errorf("linux.personality: flags are not supported (config-linux.md defines none)")
	}
	b.call(explain.Event{Op: "personality", Value: string(p.Domain), Source: "linux.personality"}, unix.SYS_PERSONALITY, script.Int(v))
	return nil
}
