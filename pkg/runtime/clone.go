package runtime

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
	"github.com/sandboxlabs/sandbox/pkg/linux/seccomp"
)

// clone writes the script and starts the first process with it.
func (cr *creation) clone() error {
	host, last := hostCapabilities()
	filter, err := cr.filter()
	if err != nil {
		return err
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
	results, err := keep(cr.resultsFile())
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

	b := cr.newBuilder()
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
	if !cr.ns.forks() {
		return nil
	}
	if err := cr.adopt(); err != nil {
		_ = cr.results.Close()
		_ = cr.sync.Close()
		_ = cr.process.Close()
		return err
	}
	return nil
}

// resultsFile makes the file that the script's results go to. Start reads it, too,
// unless it is done with the create.
func (cr *creation) resultsFile() (*os.File, error) {
	if cr.atOnce() {
		return memoryFile(resultsFile, nil)
	}
	return openFile(cr.path(resultsFile), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
}

// filter compiles the container's seccomp profile; nil if it has none. What the
// compiler leaves out are calls that this kernel does not know: nothing to filter.
func (cr *creation) filter() (*seccomp.Filter, error) {
	if cr.spec.Linux.Seccomp == nil {
		return nil, nil
	}
	f, _, err := seccomp.Compile(cr.spec.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	return &f, nil
}

// newBuilder begins the script of the process that is to be made.
func (cr *creation) newBuilder() *builder {
	cr.b = &builder{
		Script: script.New(cr.Trace.Enabled()), trace: cr.Trace, spec: cr.spec, warn: func(s string) { cr.warn(s) },
		userns: cr.ns.own(unix.CLONE_NEWUSER),
	}
	return cr.b
}

// adopt takes the child of the cloned process, which ends, for the first process.
func (cr *creation) adopt() error {
	c, _, err := receive(cr.sync)
	if err == nil && c != syncPID {
		err = cr.failure(context.Background())
	}
	message := make([]byte, 15)
	if err == nil {
		_, err = io.ReadFull(cr.sync, message)
	}
	if err != nil {
		return err
	}
	maker := cr.PID
	cr.PID = int(binary.NativeEndian.Uint32(message[7:]))
	if _, err := wait(maker); err != nil {
		return fmt.Errorf("wait for the maker of the first process: %w", err)
	}
	_ = cr.process.Close()
	cr.process.PID = cr.PID
	if cr.process.PIDFD, err = unix.PidfdOpen(cr.PID, 0); err != nil {
		return fmt.Errorf("open the first process: %w", err)
	}
	_, err = cr.sync.Write([]byte{syncGo})
	return err
}

// writeScript lists what the first process does, from its birth to the user's program.
func (cr *creation) writeScript(b *builder, tree *os.File, host capSet, last int, filter *seccomp.Filter) error {
	spec := cr.spec
	p := spec.Process
	b.guard()
	b.joinNamespaces(&cr.ns)
	if cr.ns.forks() {
		b.fork()
	}
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
