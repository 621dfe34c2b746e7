package runtime

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// ExecOptions are the choices of `exec` that the process does not hold.
type ExecOptions struct {
	IO      IO
	PIDFile string
	// PIDFDSocket is a unix socket that gets a pidfd of the process, as one message.
	PIDFDSocket string
	Cgroup      string // below the container's own
	// IgnorePaused lets the process be made in a paused container; it runs when that is resumed.
	IgnorePaused bool
}

// Exec runs a further process in a running container: in its namespaces, its
// cgroup, and behind its seccomp filter. The process is a child of the caller, which
// must wait for it.
func (r *Runtime) Exec(ctx context.Context, id string, p *specs.Process, o ExecOptions) (*Process, error) {
	if err := validateProcess(p); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	c, err := r.open(id)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if s := c.status(); s != specs.StateRunning && s != specs.StateCreated && (s != StatusPaused || !o.IgnorePaused) {
		return nil, fmt.Errorf("cannot exec in container %s, which is %s: %w", id, s, errdefs.ErrFailedPrecondition)
	}
	spec, err := c.spec()
	if err != nil {
		return nil, err
	}
	spec.Process = p
	return r.execIn(ctx, c, spec, p.Args[0], o)
}

// execIn runs spec.Process in the container; program is what to execute, whatever the
// process's first argument says.
func (r *Runtime) execIn(ctx context.Context, c *container, spec *specs.Spec, program string, o ExecOptions) (*Process, error) {
	ns, err := planJoin(c.PID)
	if err != nil {
		return nil, err
	}
	defer ns.close()
	cg, err := c.execCgroup(o.Cgroup)
	if err != nil {
		return nil, err
	}
	inside := *c // with the PID of the further process
	cr := &creation{Runtime: r, container: &inside, spec: spec, options: CreateOptions{IO: o.IO, NoNewKeyring: true}, ns: ns, cg: cg}
	defer func() {
		if cr.cg != nil {
			_ = cr.cg.Close()
		}
	}()
	return cr.exec(ctx, program, o)
}

// execCgroup opens the cgroup of a further process: the container's, or one below
// that. If the first process has moved and the container's is gone, it is the
// first process's; nil where there is none.
func (c *container) execCgroup(below string) (*cgroup.Cgroup, error) {
	if slices.Contains(strings.Split(below, "/"), "..") {
		return nil, fmt.Errorf("cgroup %q is not below the container's: %w", below, errdefs.ErrInvalidArgument)
	}
	if below != "" && c.Cgroup != "" {
		return cgroup.Open(c.CgroupRoot, path.Join(c.Cgroup, path.Clean("/"+below)))
	}
	cg, err := c.openCgroup()
	if err != nil || cg != nil || c.Cgroup == "" {
		return cg, err
	}
	return c.initCgroup()
}

// initCgroup opens the cgroup that the first process is in now.
func (c *container) initCgroup() (*cgroup.Cgroup, error) {
	b, err := readFile("/proc/" + strconv.Itoa(c.PID) + "/cgroup")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "0::"); ok {
			return cgroup.Open(c.CgroupRoot, strings.TrimSuffix(name, "\n"))
		}
	}
	return nil, nil
}

func (cr *creation) exec(ctx context.Context, program string, o ExecOptions) (*Process, error) {
	further := *cr.spec.Process
	p := &further
	p.Env = environ(p, func() []byte { return passwdIn("/proc/"+strconv.Itoa(cr.PID)+"/root", nil) })
	cr.spec.Process = p
	host, last := hostCapabilities()
	filter, err := cr.filter()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	defer ours.Close()
	cr.sync = ours
	results, err := memoryFile("results", nil)
	if err != nil {
		return nil, err
	}
	defer results.Close()

	null, err := openFile("/dev/null", unix.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()

	b := cr.newBuilder()
	b.stdio(o.IO, null)
	b.sync = b.file(theirs)
	resultsFD := b.file(results)
	b.guard()
	b.procfs = b.open(cwd, "/proc", unix.O_PATH|unix.O_DIRECTORY).Get()
	b.joinNamespaces(&cr.ns)
	b.root = cwd
	var slave *script.Var
	if p.Terminal {
		if o.IO.Console == nil {
			return nil, errors.New("process.terminal is set, but there is no console socket to send the terminal to")
		}
		s := b.terminal(&o.IO)
		slave = &s
	}
	if err := b.personality(); err != nil {
		return nil, err
	}
	if err := b.memoryPolicy(); err != nil {
		return nil, err
	}
	if err := b.finalAffinity(p.ExecCPUAffinity); err != nil {
		return nil, err
	}
	if err := b.process(p, cr.ID, cr.options, slave); err != nil {
		return nil, err
	}
	path, search := b.lookPath(program, p.Env)
	cr.search = search
	b.closeFiles(1) // sync
	if err := b.rlimits(p, host); err != nil {
		return nil, err
	}
	b.identity(p, host, last, filter)
	b.tell(syncCreated)
	execve := b.execve(p, path, "a further process of the container becomes the program")

	res, err := script.CreateResults(results, b.Len())
	if err != nil {
		return nil, err
	}
	defer res.Close()
	cr.results = res
	err = cr.cloneInto(resultsFD)
	if errors.Is(err, unix.EBUSY) && o.Cgroup == "" {
		// A systemd in there has moved itself below and delegates
		// controllers now: such a cgroup takes no processes any more.
		if err = cr.moveToInit(); err == nil {
			err = cr.cloneInto(resultsFD)
		}
	}
	if err != nil {
		return nil, err
	}
	_ = theirs.Close() // or we would never see its end
	defer cr.process.Close()
	pid := cr.process.PID
	cr.PID = pid
	if err = sendPIDFD(o.PIDFDSocket, cr.process); err == nil {
		err = cr.seeOff(ctx, execve)
	}
	if err == nil && p.OOMScoreAdj != nil {
		err = setOOMScoreAdj(pid, *p.OOMScoreAdj, cr.Trace)
	}
	if err == nil && o.PIDFile != "" {
		err = writePIDFile(o.PIDFile, pid)
	}
	if err != nil {
		return nil, errors.Join(err, killAndReap(pid))
	}
	return &Process{PID: pid}, nil
}

// moveToInit chooses the first process's own cgroup for the further one.
func (cr *creation) moveToInit() error {
	cg, err := cr.initCgroup()
	if err != nil || cg == nil {
		return errors.Join(unix.EBUSY, err)
	}
	_ = cr.cg.Close()
	cr.cg = cg
	return nil
}

// cloneInto starts the process in the container's cgroup and namespaces.
func (cr *creation) cloneInto(resultsFD int) error {
	attr := &syscall.SysProcAttr{}
	value := ""
	if cr.cg != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, cr.cg.FD()
		value = "CLONE_INTO_CGROUP"
	}
	ev := explain.Event{Op: "clone3", Target: cr.ID, Value: value, Why: "a process in the container's cgroup from its first instruction"}
	err := onThread(true, func() error {
		if err := cr.ns.enter(cr.Trace); err != nil {
			return err
		}
		if err := initialAffinity(cr.spec.Process.ExecCPUAffinity, cr.Trace); err != nil {
			return err
		}
		return cr.Trace.Do(ev, func() (err error) {
			cr.process, err = cr.b.Start(cr.b.files, resultsFD, attr)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("clone into container %s: %w", cr.ID, err)
	}
	return nil
}

// seeOff follows the process until it has executed the program.
func (cr *creation) seeOff(ctx context.Context, execve int) error {
	if err := cr.converse(ctx); err != nil {
		return err
	}
	return cr.executed(execve)
}

// executed waits until the process has executed the program, or has failed to.
func (cr *creation) executed(execve int) error {
	if _, _, err := receive(cr.sync); err != nil { // closed by execve, or by the end
		return err
	}
	cr.report(cr.b.Len())
	if i := cr.results.Failed(); i >= 0 {
		return cr.results.Error(i, cr.b.Op(i).Event)
	}
	ev := cr.b.Op(execve).Event
	ev.Actor, ev.PID, ev.Time = "init", cr.PID, cr.results.Started(execve)
	cr.Trace.Emit(ev)
	return nil
}
