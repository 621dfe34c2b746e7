package runtime

import (
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// builder writes the script of a container's process. Its methods each append
// the operations of one concern; init and exec call them in order.
type builder struct {
	*script.Script
	spec  *specs.Spec
	files []*os.File // the process's descriptors 0, 1, 2, …
	owned []*os.File // those among them that are the builder's to close
	warn  func(string)
	trace *explain.Tracer // for what the parent does on the process's behalf

	extra  int        // --preserve-fds: descriptors 3…3+extra-1 reach the user's program
	sync   int        // descriptor of the socket to the parent
	root   script.Arg // descriptor of the root file system's mount, once attached
	procfs script.Arg // descriptor of the host's /proc, whatever the container mounts

	userns  bool // in a user namespace that is not the host's
	devNull script.Arg
}

// file gives the process another descriptor and returns its number. They are
// all marked close-on-exec before the user's program is executed.
func (b *builder) file(f *os.File) int {
	b.files = append(b.files, f)
	return len(b.files) - 1
}

// stdio gives the process its standard streams and preserved descriptors. A stream that is
// missing is null, not closed: the next file to be opened would take its place.
func (b *builder) stdio(io IO, null *os.File) {
	for _, f := range []*os.File{io.Stdin, io.Stdout, io.Stderr} {
		if f == nil {
			f = null
		}
		b.files = append(b.files, f)
	}
	b.files = append(b.files, io.Extra...)
	b.extra = len(io.Extra)
}

// close closes what the process has its own copies of by now.
func (b *builder) close() {
	for _, f := range b.owned {
		_ = f.Close()
	}
}

var cwd = script.Int(unix.AT_FDCWD)

// call appends a system call that must succeed and is explained as ev.
func (b *builder) call(ev explain.Event, nr uintptr, args ...script.Arg) int {
	return b.Do(script.Op{Nr: nr, Args: args, Event: ev})
}

// quiet appends a system call that must succeed and is not explained; op and
// target name it in errors.
func (b *builder) quiet(op, target string, nr uintptr, args ...script.Arg) int {
	return b.Do(script.Op{Nr: nr, Args: args, Event: explain.Event{Op: op, Target: target}, Plumbing: true})
}

// open appends an open(2) and returns the variable that holds the descriptor.
func (b *builder) open(dir script.Arg, path string, flags int) script.Var {
	fd := b.NewVar(0)
	b.Do(script.Op{
		Nr: unix.SYS_OPENAT, Args: []script.Arg{dir, b.String(path), script.Int(flags | unix.O_CLOEXEC), script.Int(0)},
		Out: fd, Event: explain.Event{Op: "open", Target: path}, Plumbing: true,
	})
	return fd
}

func (b *builder) closeFD(fd script.Arg) {
	b.Do(script.Op{Nr: unix.SYS_CLOSE, Args: []script.Arg{fd}, Event: explain.Event{Op: "close"}, Plumbing: true})
}

// optional appends a call whose failure is survived, with a warning if warn is
// not empty.
func (b *builder) optional(op script.Op) {
	next := b.NewLabel()
	op.Err = next
	b.Do(op)
	b.Place(next)
}

// writeFile writes value to a file below dir (a descriptor), which lies in a kernel
// file system. It is explained as a write to ev.Target.
func (b *builder) writeFile(dir script.Arg, path, value string, ev explain.Event) {
	ev.Op, ev.Value = "write", value
	fd := b.open(dir, path, unix.O_WRONLY)
	b.call(ev, unix.SYS_WRITE, fd.Get(), b.String(value), script.Int(len(value)))
	b.closeFD(fd.Get())
}

// tell sends one byte to the parent; hear waits for one from it.
func (b *builder) tell(c byte) {
	b.quiet("tell the runtime", "", unix.SYS_WRITE, script.Int(b.sync), b.Bytes([]byte{c}), script.Int(1))
}

func (b *builder) hear() {
	b.quiet("wait for the runtime", "", unix.SYS_READ, script.Int(b.sync), b.Bytes(make([]byte, 8)), script.Int(1))
}

// The bytes that the first process and its parent exchange over the sync socket:
//
//	parent                         first process
//	clone3 ───────────────────────▶ (id maps are written by the clone)
//	                                joins and unshares namespaces, mounts, devices
//	                 ◀─ syncPID     only where it goes on as another one, see fork
//	syncGo ───────────────────────▶
//	                 ◀─ syncMounts  only where there are hooks to run
//	hooks, moves
//	syncGo ───────────────────────▶ pivot_root, masks, identity, seccomp
//	                 ◀─ syncFD      with a seccomp notify descriptor, if there is one
//	                 ◀─ syncCreated
//
// From there on the caller of create may be gone: `start` meets the first
// process through two FIFOs in the state folder. It waits in a read of "go"; it
// is the only writer of "done", which execve(2) closes.
const (
	syncPID     = 'p'
	syncMounts  = 'm'
	syncGo      = 'g'
	syncFD      = 'f'
	syncCreated = 'c'
)
