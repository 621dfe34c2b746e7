package script

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// The results file is shared memory between the script's process and whoever
// follows it: a header (the failed operation's address, padding), then for
// each operation what the call returned and, in a timed script, two
// timespecs of CLOCK_MONOTONIC.
const (
	resultHeader = 64
	resultSize   = 8 + 16 + 16
	notRun       = math.MinInt64
)

func resultOffset(i int) int { return resultHeader + i*resultSize }

// ResultsSize is the size in bytes of the results file of n operations.
func ResultsSize(n int) int { return resultOffset(n) }

// Results are what a script's calls have returned so far.
type Results struct {
	mem []byte
	n   int
}

// CreateResults makes the results file for a script of n operations in f, which
// must be empty.
func CreateResults(f *os.File, n int) (*Results, error) {
	if err := f.Truncate(int64(ResultsSize(n))); err != nil {
		return nil, err
	}
	r, err := OpenResults(f, n)
	if err != nil {
		return nil, err
	}
	for i := range n {
		*r.word(resultOffset(i)) = notRun
	}
	return r, nil
}

// OpenResults maps an existing results file.
func OpenResults(f *os.File, n int) (*Results, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() < int64(ResultsSize(n)) {
		return nil, fmt.Errorf("results file %s: %d bytes, want %d", f.Name(), fi.Size(), ResultsSize(n))
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, ResultsSize(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return &Results{mem: mem, n: n}, nil
}

// Close unmaps the results.
func (r *Results) Close() error { return unix.Munmap(r.mem) }

func (r *Results) word(offset int) *int64 { return (*int64)(unsafe.Pointer(&r.mem[offset])) }

// Ran reports whether operation i was made.
func (r *Results) Ran(i int) bool { return *r.word(resultOffset(i)) != notRun }

// Errno is how operation i failed; 0 when it succeeded or was not made.
func (r *Results) Errno(i int) unix.Errno {
	v := *r.word(resultOffset(i))
	if v == notRun || v >= 0 || v < -4095 {
		return 0
	}
	return unix.Errno(-v)
}

// Failed returns the operation that ended the script, or -1.
func (r *Results) Failed() int {
	addr := *r.word(0)
	if addr == 0 {
		return -1
	}
	return int((addr-opBase)/opSize) - 1
}

// Error describes the failed operation i of ops.
func (r *Results) Error(i int, ev explain.Event) error {
	return &OpError{Op: ev.Op, Target: ev.Target, Value: ev.Value, Source: ev.Source, Errno: r.Errno(i)}
}

// OpError is a system call of a script that failed.
type OpError struct {
	Op, Target, Value string
	Source            string // config.json field
	Errno             unix.Errno
}

func (e *OpError) Error() string {
	msg := e.Op
	if e.Target != "" {
		msg += " " + e.Target
	}
	if e.Source != "" {
		msg += " (" + e.Source + ")"
	}
	return msg + ": " + e.Errno.Error()
}

func (e *OpError) Unwrap() error { return e.Errno }

// Report emits the explained operations among from…to-1 that were made.
func (s *Script) Report(r *Results, from, to int, pid int, trace *explain.Tracer) {
	if !trace.Enabled() {
		return
	}
	now, mono := time.Now(), monotonic()
	for i := from; i < to; i++ {
		op := &s.ops[i]
		if !s.explained(op) || !r.Ran(i) || op.Attempt && r.Errno(i) != 0 {
			continue
		}
		ev := op.Event
		ev.Actor, ev.PID = "init", pid
		start, end := r.timespec(i, 8), r.timespec(i, 24)
		ev.Time = now.Add(start - mono)
		if end > start {
			ev.Duration = end - start
		}
		if errno := r.Errno(i); errno != 0 {
			ev.Error = errno.Error()
		}
		trace.Emit(ev)
	}
}

func (r *Results) timespec(i, offset int) time.Duration {
	b := r.mem[resultOffset(i)+offset:]
	return time.Duration(binary.NativeEndian.Uint64(b))*time.Second + //nolint:gosec // a clock
		time.Duration(binary.NativeEndian.Uint64(b[8:])) //nolint:gosec // a clock
}

func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Started is when operation i of a timed script began, also of one that has not returned,
// such as a successful execve(2); now, where that is not known.
func (r *Results) Started(i int) time.Time {
	now := time.Now()
	start := r.timespec(i, 8)
	if start == 0 {
		return now
	}
	return now.Add(start - monotonic())
}
