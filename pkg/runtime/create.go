package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
	"github.com/sandboxlabs/sandbox/pkg/linux/device"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
	"github.com/sandboxlabs/sandbox/pkg/linux/seccomp"
	"github.com/sandboxlabs/sandbox/pkg/undo"
)

// Create makes a container out of a bundle: everything but the user's program
// runs, and its first process then waits for [Runtime.Start]. On an error
// nothing of it is left. The first process is a child of the caller, which
// must wait for it.
func (r *Runtime) Create(ctx context.Context, id string, o CreateOptions) (*Process, error) {
	bundle, err := filepath.Abs(o.Bundle)
	if err != nil {
		return nil, err
	}
	spec, raw, err := loadSpec(bundle)
	if err != nil {
		return nil, err
	}
	c, err := r.newContainer(id)
	if err != nil {
		return nil, err
	}
	defer c.close()
	c.record = record{
		ID: id, Bundle: bundle, Rootfs: spec.Root.Path, Created: time.Now().UTC(),
		Annotations: spec.Annotations, Hooks: spec.Hooks, HasProcess: spec.Process != nil, SharedPID: sharedPID(spec),
	}

	var undone undo.Stack
	undone.Push(func(context.Context) error { return os.RemoveAll(c.dir) })
	cr := &creation{Runtime: r, container: c, spec: spec, options: o, undo: &undone}
	p, err := cr.run(ctx, raw)
	if err != nil {
		return nil, undone.Run(err)
	}
	return p, nil
}

// creation is one create under way.
type creation struct {
	*Runtime
	*container
	spec    *specs.Spec
	options CreateOptions
	undo    *undo.Stack

	ns      nsPlan
	cg      *cgroup.Cgroup
	b       *builder
	results *script.Results
	sync    *os.File // our end of the socket to the first process
	process *script.Process
	told    int   // operations that were explained already
	search  []int // operations that look for the program
}

// run is the creation, step by step.
func (cr *creation) run(ctx context.Context, raw []byte) (*Process, error) {
	if !cr.atOnce() {
		for _, name := range []string{goFIFO, doneFIFO} {
			if err := unix.Mkfifo(cr.path(name), 0o600); err != nil {
				return nil, fmt.Errorf("make FIFO %s: %w", cr.path(name), err)
			}
		}
	}
	var err error
	if cr.ns, err = planNamespaces(cr.spec, cr.warn); err != nil {
		return nil, err
	}
	defer cr.ns.close()
	cr.nameCgroup()
	if err := cr.write(); err != nil { // intent: what a sweep must take back
		return nil, err
	}
	if err := cr.makeCgroup(); err != nil {
		return nil, err
	}
	if cr.cg != nil {
		defer cr.cg.Close()
	}
	if err := cr.clone(); err != nil {
		return nil, err
	}
	defer cr.results.Close()
	defer cr.sync.Close()
	defer cr.process.Close()
	// While the first process sets itself up:
	if err := writeFile(cr.path(configFile), raw); err != nil {
		return nil, err
	}
	if err := cr.identify(); err != nil {
		return nil, err
	}
	if err := cr.restrictDevices(); err != nil {
		return nil, err
	}
	if cr.atOnce() {
		// Said before it is asked: the first process goes on without a wait.
		if _, err := cr.sync.Write([]byte{syncGo}); err != nil && !errors.Is(err, unix.EPIPE) {
			return nil, fmt.Errorf("first process: %w", err)
		}
	}
	if err := cr.converse(ctx); err != nil {
		return nil, err
	}
	if cr.atOnce() {
		if err := cr.executed(cr.Tail[0].Index); err != nil {
			return nil, err
		}
	}
	return &Process{PID: cr.PID, Started: cr.atOnce()}, nil
}

// atOnce reports whether create starts the program, too.
func (cr *creation) atOnce() bool {
	return cr.options.Start && cr.spec.Process != nil && cr.spec.Hooks == nil
}

func (cr *creation) nameCgroup() {
	root, err := cgroup.Mount()
	if err != nil {
		cr.warn(fmt.Sprintf("no limit of any kind is applied: %v", err))
		return
	}
	name, note := cgroupName(cr.spec.Linux.CgroupsPath, cr.ID)
	if note != "" {
		cr.warn(note)
	}
	cr.CgroupRoot, cr.Cgroup = root, name
}

func (cr *creation) makeCgroup() (err error) {
	if cr.Cgroup == "" {
		return nil
	}
	res := cr.spec.Linux.Resources
	if cr.cg, err = cgroup.Create(cr.CgroupRoot, cr.Cgroup, cgroup.Needed(res), cr.Trace); err != nil {
		return err
	}
	if !cr.cg.Fresh() {
		if err := unused(cr.cg); err != nil {
			_ = cr.cg.Close()
			return err
		}
	}
	cr.undo.Push(func(ctx context.Context) error {
		again, err := cgroup.Open(cr.CgroupRoot, cr.Cgroup)
		if err != nil {
			return nil // it is gone already
		}
		defer again.Close()
		return again.Delete(ctx, cr.Trace)
	})
	warnings, err := cr.cg.Apply(res, cr.Trace)
	cr.warn(warnings...)
	return err
}

// unused refuses a cgroup that was there already if somebody lives in it, whom the
// container's limits would meet and its deletion would kill; or if it is frozen, as the
// first process would be.
func unused(cg *cgroup.Cgroup) error {
	populated, err := cg.Populated()
	if err != nil {
		return err
	}
	frozen, err := cg.Frozen()
	if err != nil {
		return err
	}
	switch {
	case populated:
		return fmt.Errorf("linux.cgroupsPath: there are processes in cgroup %s: %w", cg.Name(), errdefs.ErrAlreadyExists)
	case frozen:
		return fmt.Errorf("linux.cgroupsPath: cgroup %s is frozen: %w", cg.Name(), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// restrictDevices is done when the first process exists already, which has its
// own to do meanwhile; the user's program does not run before create returns.
func (cr *creation) restrictDevices() error {
	if cr.cg == nil || cr.spec.Linux.Resources == nil {
		return nil
	}
	err := attachDevices(cr.cg, cr.spec.Linux.Resources, cr.Trace)
	if errors.Is(err, device.ErrUnsupported) {
		cr.warn(err.Error())
		return nil
	}
	return err
}

// attachDevices restricts the cgroup to the devices of the resources and those
// that every container has. Making a node is allowed for any device, as runc
// allows it: the first process makes them, and a node alone opens nothing.
func attachDevices(cg *cgroup.Cgroup, res *specs.LinuxResources, trace *explain.Tracer) error {
	if len(res.Devices) == 0 {
		return nil
	}
	rules := append(res.Devices[:len(res.Devices):len(res.Devices)],
		specs.LinuxDeviceCgroup{Allow: true, Type: "c", Access: "m"}, specs.LinuxDeviceCgroup{Allow: true, Type: "b", Access: "m"})
	return device.Attach(cg.FD(), append(rules, device.DefaultAllowed()...), trace)
}

// clone writes the script and starts the first process with it.
func (cr *creation) clone() error {
	host, last := hostCapabilities()
	var filter *seccomp.Filter
	if s := cr.spec.Linux.Seccomp; s != nil {
		f, warnings, err := seccomp.Compile(s)
		if err != nil {
			return err
		}
		_ = warnings // calls that this kernel does not know: nothing to filter
		filter = &f
	}

	ours, theirs, err := socketpair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	cr.sync = ours
	var files []*os.File // to be closed here, once the process has them
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	keep := func(f *os.File, err error) (*os.File, error) {
		if err == nil {
			files = append(files, f)
		}
		return f, err
	}
	results, err := keep(openFile(cr.path(resultsFile), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600))
	if err != nil {
		return err
	}
	var fifos []*os.File
	if !cr.atOnce() {
		for _, name := range []string{goFIFO, doneFIFO} {
			f, err := keep(openFile(cr.path(name), unix.O_RDWR, 0))
			if err != nil {
				return err
			}
			fifos = append(fifos, f)
		}
	}
	null, err := keep(openFile("/dev/null", unix.O_RDWR, 0))
	if err != nil {
		return err
	}
	var tree *os.File
	if cr.ns.own(unix.CLONE_NEWNS) {
		if tree, err = keep(cloneTree(cr.spec.Root.Path, true, "root.path", cr.Trace)); err != nil {
			return fmt.Errorf("root.path: %w", err)
		}
	}

	b := &builder{
		Script: script.New(cr.Trace.Enabled()), trace: cr.Trace, spec: cr.spec, warn: func(s string) { cr.warn(s) },
		userns: cr.ns.own(unix.CLONE_NEWUSER),
	}
	cr.b = b
	defer b.close()
	b.stdio(cr.options.IO, null)
	b.sync = b.file(theirs)
	for _, f := range fifos {
		b.file(f)
	}
	resultsFD := b.file(results)
	if err := cr.writeScript(b, tree, host, last, filter); err != nil {
		return err
	}
	if cr.results, err = script.CreateResults(results, b.Len()); err != nil {
		return err
	}
	cr.Ops = b.Len()

	attr := &syscall.SysProcAttr{Cloneflags: cr.ns.clone}
	if cr.ns.clone&unix.CLONE_NEWUSER != 0 {
		attr.UidMappings = idMappings(cr.spec.Linux.UIDMappings)
		attr.GidMappings = idMappings(cr.spec.Linux.GIDMappings)
		attr.GidMappingsEnableSetgroups = true
		// Root of the namespace before it executes the script, or it would
		// lose its capabilities by that: root outside may be nobody inside.
		attr.Credential = &syscall.Credential{NoSetGroups: true}
	}
	value := cloneFlags(cr.ns.clone)
	if cr.cg != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, cr.cg.FD()
		value += "|CLONE_INTO_CGROUP"
	}
	ev := explain.Event{
		Op: "clone3", Target: cr.ID, Value: value, Source: "linux.namespaces",
		Why: "one system call makes the first process, its namespaces, and puts it into its cgroup",
	}
	err = onThread(len(cr.ns.before) > 0, func() error {
		if err := cr.ns.enter(cr.Trace); err != nil {
			return err
		}
		return cr.Trace.Do(ev, func() (err error) {
			cr.process, err = b.Start(b.files, resultsFD, attr)
			return err
		})
	})
	if err != nil {
		_ = cr.results.Close()
		_ = cr.sync.Close()
		return fmt.Errorf("clone the first process (%s): %w", value, err)
	}
	cr.PID = cr.process.PID
	cr.undo.Push(func(context.Context) error { return killAndReap(cr.PID) })
	return nil
}

// writeScript lists what the first process does, from its birth to the user's program.
func (cr *creation) writeScript(b *builder, tree *os.File, host capSet, last int, filter *seccomp.Filter) error {
	spec := cr.spec
	p := spec.Process
	b.guard()
	b.joinNamespaces(&cr.ns)
	var slave *script.Var
	if tree != nil {
		if err := b.attachRoot(tree); err != nil {
			return err
		}
		cgroupDir := ""
		if cr.cg != nil {
			cgroupDir = cr.cg.Path()
		}
		late, err := b.mounts(&cr.ns, cr.Bundle, cgroupDir)
		if err != nil {
			return err
		}
		if err := b.devices(); err != nil {
			return err
		}
		if p != nil && p.Terminal {
			if cr.options.IO.Console == nil {
				return errors.New("process.terminal is set, but there is no console socket to send the terminal to")
			}
			s := b.terminal(&cr.options.IO)
			b.console(s)
			slave = &s
		}
		for _, f := range late {
			f()
		}
	} else {
		if len(spec.Mounts)+len(spec.Linux.MaskedPaths)+len(spec.Linux.ReadonlyPaths) > 0 || spec.Root.Readonly {
			cr.warn("the container has no mount namespace of its own: mounts, masked and read-only paths are left out, since they would change the host")
		}
		b.procfs = b.open(cwd, "/proc", unix.O_PATH|unix.O_DIRECTORY).Get()
	}
	b.uts()
	if cr.pausesAtMounts() {
		b.tell(syncMounts)
		b.hear()
	}
	b.sysctls()
	if tree != nil {
		b.readonlyPaths()
		b.maskedPaths()
		b.readonlyRoot()
		if err := b.pivot(cr.options.NoPivot); err != nil {
			return err
		}
	} else {
		b.call(explain.Event{Op: "chroot", Target: spec.Root.Path, Source: "root.path"}, unix.SYS_CHROOT, b.String(spec.Root.Path))
		b.quiet("chdir", "/", unix.SYS_CHDIR, b.String("/"))
	}
	ready := func() {
		b.tell(syncCreated)
		if cr.atOnce() {
			b.hear()
			return
		}
		startFD := b.sync + 1
		b.quiet("wait for start", "", unix.SYS_READ, script.Int(startFD), b.Bytes(make([]byte, 8)), script.Int(1))
	}
	if p == nil { // nothing to start: there is a container to look at and to delete
		ready()
		b.quiet("exit", "", unix.SYS_EXIT_GROUP, script.Int(0))
		return nil
	}
	p.Env = environ(p, func() []byte { return passwdIn(spec.Root.Path, spec.Mounts) })
	b.loopback(&cr.ns)
	if err := b.personality(); err != nil {
		return err
	}
	if err := b.memoryPolicy(); err != nil {
		return err
	}
	if err := b.process(p, cr.ID, cr.options, slave); err != nil {
		return err
	}
	path, search := b.lookPath(p.Args[0], p.Env)
	cr.search = search
	if cr.atOnce() {
		b.closeFiles(1) // sync
	} else {
		b.closeFiles(3) // sync, and the two FIFOs
	}
	if err := b.rlimits(p, host); err != nil {
		return err
	}
	b.identity(p, host, last, filter)
	ready()
	i := b.execve(p, path, "the container's first process becomes the program")
	cr.Tail = append(cr.Tail, tailOp{i, b.Op(i).Event})
	return nil
}

// pausesAtMounts reports whether the parent has something to do when all is
// mounted, but the root not changed yet.
func (cr *creation) pausesAtMounts() bool {
	h := cr.spec.Hooks
	return h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0 //nolint:staticcheck // prestart is deprecated, not gone
}

// identify completes the record with the first process, so that other commands find it.
func (cr *creation) identify() error {
	start, _, err := processStat(cr.PID)
	if err != nil {
		return err
	}
	cr.StartTime = start
	if err := cr.oomScoreAdj(); err != nil {
		return err
	}
	if err := cr.write(); err != nil {
		return err
	}
	if err := sendPIDFD(cr.options.PIDFDSocket, cr.process); err != nil {
		return err
	}
	if f := cr.options.PIDFile; f != "" {
		return writePIDFile(f, cr.PID)
	}
	return nil
}

// oomScoreAdj is written from outside: inside a user namespace there is no right to.
func (cr *creation) oomScoreAdj() error {
	if cr.spec.Process == nil || cr.spec.Process.OOMScoreAdj == nil {
		return nil
	}
	err := setOOMScoreAdj(cr.PID, *cr.spec.Process.OOMScoreAdj, cr.Trace)
	if errors.Is(err, unix.EACCES) {
		cr.warn(err.Error() + ": this host has no CAP_SYS_RESOURCE, so the score can be raised only")
		return nil
	}
	return err
}

// converse answers the first process until it waits for start.
func (cr *creation) converse(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = unix.Kill(cr.PID, unix.SIGKILL) })
	defer stop()
	for {
		c, fd, err := receive(cr.sync)
		cr.report(cr.b.Len())
		switch {
		case err != nil:
			return fmt.Errorf("first process: %w", err)
		case c == syncCreated:
			return nil
		case c == syncFD:
			if err := cr.forwardListener(fd); err != nil {
				return err
			}
		case c == syncMounts:
			if err := cr.atMounts(ctx); err != nil {
				return err
			}
			if _, err := cr.sync.Write([]byte{syncGo}); err != nil {
				return fmt.Errorf("first process: %w", err)
			}
		default: // the first process has ended
			return cr.failure(ctx)
		}
	}
}

// failure tells why the first process ended before it was ready.
func (cr *creation) failure(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	i := cr.results.Failed()
	if i < 0 {
		return errors.New("the first process was killed while it was being set up (out of memory in its cgroup?)")
	}
	if n := len(cr.search); n > 0 && i == cr.search[n-1] {
		return cr.notFound()
	}
	return cr.results.Error(i, cr.b.Op(i).Event)
}

// notFound is the error of a program that is not there, or not executable.
func (cr *creation) notFound() error {
	name := cr.spec.Process.Args[0]
	for _, i := range cr.search {
		if errno := cr.results.Errno(i); errno != unix.ENOENT && errno != unix.ENOTDIR {
			return fmt.Errorf("exec %q: %w", name, errno)
		}
	}
	if len(cr.search) > 1 {
		return fmt.Errorf("exec %q: executable file not found in $PATH: %w", name, unix.ENOENT)
	}
	return fmt.Errorf("exec %q: %w", name, unix.ENOENT)
}

// report explains and warns of what the script has done so far.
func (cr *creation) report(until int) {
	cr.b.Report(cr.results, cr.told, until, cr.PID, cr.Trace)
	for i := cr.told; i < until; i++ {
		if op := cr.b.Op(i); op.Warn != "" && cr.results.Errno(i) != 0 {
			cr.warn(op.Warn)
		}
	}
	for cr.told < until && cr.results.Ran(cr.told) {
		cr.told++
	}
}
