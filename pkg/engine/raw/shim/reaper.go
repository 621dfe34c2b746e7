package shim

import (
	"errors"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// reaper collects the exit statuses of this process's children: those that the
// runtime makes for us, which we wait for by name, and strangers, which are
// orphans that the kernel gave to us as a child subreaper (a container with the
// host's PID namespace has no init of its own).
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan<- unix.WaitStatus
	// calls counts the runtime calls under way. The runtime waits for its own
	// helpers (hooks), whose statuses must not be taken from it.
	calls int
}

func newReaper() *reaper {
	r := &reaper{waiting: map[int]chan<- unix.WaitStatus{}}
	// One pending SIGCHLD is enough: each look collects everything.
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGCHLD)
	go func() {
		for range c {
			r.reap()
		}
	}()
	return r
}

// call runs a call into the runtime. If it returns a process, its status will
// be sent on the channel.
func (r *reaper) call(fn func() (pid int, err error)) (<-chan unix.WaitStatus, error) {
	r.mu.Lock()
	r.calls++
	r.mu.Unlock()

	pid, err := fn()

	status := make(chan unix.WaitStatus, 1)
	r.mu.Lock()
	r.calls--
	if err == nil && pid > 0 {
		r.waiting[pid] = status
	}
	r.mu.Unlock()
	r.reap() // its SIGCHLD may have come and gone
	return status, err
}

// signal sends sig to a child that call has returned, unless it has been
// collected: its number may belong to someone else by now.
func (r *reaper) signal(pid int, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.waiting[pid]; !ok {
		return unix.ESRCH
	}
	return unix.Kill(pid, sig)
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for pid := range r.waiting {
		r.collect(pid)
	}
	for r.calls == 0 && r.collect(-1) {
	}
}

// collect takes one status and reports whether there was one.
func (r *reaper) collect(pid int) bool {
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(pid, &status, unix.WNOHANG|unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || got <= 0 {
			return false
		}
		if c, ok := r.waiting[got]; ok {
			delete(r.waiting, got)
			c <- status
		}
		return true
	}
}
