// Package script makes a process out of a list of system calls.
//
// A container's first process must do some two hundred things to itself, from
// inside its new namespaces, before it becomes the user's program. Here those
// things are data: a [Script] lists the system calls, and [Script.Start]
// assembles them into a sealed, anonymous ELF image of a few pages, whose only
// code is a 268 byte interpreter (interp/amd64.S), and clones a process
// straight into it. So
//
//   - the runtime's own binary never enters a container (CVE-2019-5736), nor
//     does its memory: there is nothing of it to overwrite or to read;
//   - no second start of the Go runtime is paid for;
//   - what is explained to a learner and what is executed are one table.
//
// Each operation has a successor for success and one for failure, so that
// "mkdir, or it exists" and "mount sysfs, or else bind /sys" can be said.
package script

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// Arg is an argument of a system call: a value, or a variable.
type Arg struct {
	v        uint64
	variable bool
}

// Int is an argument that is a plain number.
func Int[T ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{v: uint64(v)} //nolint:gosec // two's complement is what the kernel wants
}

// Var is a variable of the script: eight bytes in its memory, which a call
// stores its result in ([Op.Out]) and later calls take as an argument.
type Var struct{ addr uint64 }

// Get is the argument that is the variable's value when the call is made.
func (v Var) Get() Arg { return Arg{v: v.addr, variable: true} }

// Label is a place in the script. The zero Label is none.
type Label int

// Op is one operation: a system call, what follows it, and how it is told.
type Op struct {
	Nr   uintptr // unix.SYS_…, or NoCall
	Args []Arg   // at most six
	// Out, if set, receives the result of a successful call.
	Out Var
	// Accept is an errno that counts as success (without storing to Out).
	Accept unix.Errno
	// OK and Err are where to go on after success and failure. No OK: the
	// next operation. No Err: the script ends, and the failure is its result.
	OK, Err Label
	// Event describes the operation; Event.Op and Event.Target also name it
	// in errors.
	Event explain.Event
	// Plumbing is not explained: it changes nothing that a learner could see.
	Plumbing bool
	// Attempt is explained only if it succeeds: its failure is a question answered.
	Attempt bool
	// Warn, if set, is what to tell the user when the call failed and the
	// script went on by Err.
	Warn string
}

// NoCall is the number of an operation that makes no system call: its first
// argument is its result, so that Out can be set.
const NoCall = ^uintptr(0)

// Addresses of the image's parts; interp/*.S knows the first and the last.
const (
	textBase   = 0x400000
	opBase     = 0x500000
	dataBase   = 0x10000000
	resultBase = 0x600000000
)

// opWords is the size of an operation in the image, in 8-byte words:
// nr, 6 arguments, ok, err, accept, out, result, mask and flags.
const (
	opWords = 13
	opSize  = opWords * 8
	timed   = 1 << 8
)

// Script is a list of operations and the memory that they refer to.
type Script struct {
	ops    []Op
	labels []int // operation index by Label
	data   []byte
	timed  bool
}

// New returns an empty script. When timed, each explained operation's start and
// end are recorded, at the cost of two more system calls each.
func New(timed bool) *Script {
	return &Script{
		ops:    make([]Op, 0, 256),
		labels: make([]int, 1, 64),
		data:   make([]byte, 0, 16<<10),
		timed:  timed,
	}
}

func (s *Script) explained(op *Op) bool { return !op.Plumbing && op.Event.Op != "" }

// Timed reports whether the script's operations will be explained, so that the
// caller can save itself the formatting of values.
func (s *Script) Timed() bool { return s.timed }

// Do appends an operation and returns its index.
func (s *Script) Do(op Op) int {
	s.ops = append(s.ops, op)
	return len(s.ops) - 1
}

// Len is the number of operations so far.
func (s *Script) Len() int { return len(s.ops) }

// Op returns the operation with the given index.
func (s *Script) Op(i int) *Op { return &s.ops[i] }

// NewLabel returns a label that is not placed yet.
func (s *Script) NewLabel() Label {
	s.labels = append(s.labels, -1)
	return Label(len(s.labels) - 1)
}

// Place puts l before the next operation.
func (s *Script) Place(l Label) { s.labels[l] = len(s.ops) }

// Bytes copies b into the script's memory, 8-byte aligned, and returns its address.
func (s *Script) Bytes(b []byte) Arg {
	s.align()
	addr := dataBase + uint64(len(s.data))
	s.data = append(s.data, b...)
	return Arg{v: addr}
}

// String copies v with a final NUL.
func (s *Script) String(v string) Arg {
	addr := dataBase + uint64(len(s.data))
	s.data = append(s.data, v...)
	s.data = append(s.data, 0)
	return Arg{v: addr}
}

// Strings makes a NULL-terminated array of strings, as execve(2) wants.
func (s *Script) Strings(v []string) Arg {
	words := make([]uint64, 0, len(v)+1)
	for _, e := range v {
		words = append(words, s.String(e).v)
	}
	return s.Words(append(words, 0)...)
}

// Words makes an array of 8-byte words.
func (s *Script) Words(v ...uint64) Arg {
	s.align()
	addr := dataBase + uint64(len(s.data))
	for _, w := range v {
		s.data = binary.NativeEndian.AppendUint64(s.data, w)
	}
	return Arg{v: addr}
}

// NewVar returns a new variable, holding initial.
func (s *Script) NewVar(initial uint64) Var { return Var{s.Words(initial).v} }

// VarIn returns the variable that lies at an offset in earlier memory, for
// structures that must contain a result. All eight bytes are overwritten.
func (s *Script) VarIn(memory Arg, offset uint64) Var { return Var{memory.v + offset} }

// Addr is the address of memory, to be put into a structure.
func (s *Script) Addr(memory Arg) uint64 { return memory.v }

func (s *Script) align() {
	for len(s.data)%8 != 0 {
		s.data = append(s.data, 0)
	}
}
