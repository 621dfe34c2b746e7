package cgroup

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// Populated reports whether a process lives in the cgroup or below it. Zombies
// do not count.
func (c *Cgroup) Populated() (bool, error) {
	n, err := c.keyed("cgroup.events", "populated")
	return n != 0, err
}

// Frozen reports whether all processes of the cgroup are frozen.
func (c *Cgroup) Frozen() (bool, error) {
	n, err := c.keyed("cgroup.events", "frozen")
	return n != 0, err
}

// WaitEmpty waits until no process lives in the cgroup or below it.
func (c *Cgroup) WaitEmpty(ctx context.Context) error {
	return c.wait(ctx, "cgroup.events", func(b []byte) bool { return lookup(b, "populated") == 0 })
}

// Freeze stops all processes of the cgroup and below it, and waits until they
// have stopped: one that is in the middle of a system call such as a write to a
// slow disk stops after it. If ctx ends first, the cgroup is thawed.
func (c *Cgroup) Freeze(ctx context.Context, trace *explain.Tracer) error {
	err := c.write(trace, explain.Event{
		Target: "cgroup.freeze", Value: "1",
		Why: "stop every process in the cgroup where it is, without a signal that it could notice",
	})
	if err != nil {
		return err
	}
	err = c.wait(ctx, "cgroup.events", func(b []byte) bool { return lookup(b, "frozen") == 1 })
	if err != nil {
		_ = c.Thaw(trace) // the error that matters is err
		return fmt.Errorf("freeze cgroup %s: %w", c.name, err)
	}
	return nil
}

// Thaw lets the processes of a frozen cgroup run on.
func (c *Cgroup) Thaw(trace *explain.Tracer) error {
	return c.write(trace, explain.Event{
		Target: "cgroup.freeze", Value: "0",
		Why: "let the processes in the cgroup run on",
	})
}

// OOMKills returns how many processes of the cgroup the kernel has killed because
// it was out of memory. The error is fs.ErrNotExist without a memory controller.
func (c *Cgroup) OOMKills() (uint64, error) { return c.keyed("memory.events", "oom_kill") }

// WatchOOM calls killed, with the number of OOM kills since the cgroup was made,
// each time it has risen. It returns when ctx ends, with its error. The kernel
// notifies no more than about once in 10 ms, and not when the cgroup is removed.
// Without a memory controller the error is fs.ErrNotExist.
func (c *Cgroup) WatchOOM(ctx context.Context, killed func(total uint64)) error {
	var seen uint64
	return c.wait(ctx, "memory.events", func(b []byte) bool {
		if total := lookup(b, "oom_kill"); total > seen {
			seen = total
			killed(total)
		}
		return false
	})
}

// wait reads a file whose changes the kernel notifies (cgroup.events,
// memory.events) now and after each change, until done accepts its content.
//
// The kernel reports a change as POLLPRI, for which the Go runtime's poller does
// not look. It does look for POLLIN, which an epoll instance reports when what it
// watches is ready: so one is put in between. Compared with inotify this takes
// none of the few instances that a user may have (fs.inotify.max_user_instances),
// compared with poll(2) no thread for each waiting goroutine.
func (c *Cgroup) wait(ctx context.Context, file string, done func([]byte) bool) error {
	fail := func(op string, err error) error {
		return &fs.PathError{Op: op, Path: path.Join(c.Path(), file), Err: err}
	}
	fd, err := retry(func() (int, error) { return unix.Openat(c.fd, file, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(fd)

	var buf [512]byte
	check := func() (bool, error) {
		b, err := readAll(fd, buf[:]) // reading is what rearms the notification
		if isMissing(err) {
			return done(nil), err // removed: nothing can happen any more
		}
		return err == nil && done(b), err
	}
	if ok, err := check(); ok {
		return nil
	} else if err != nil {
		return fail("read", err)
	}

	poller, err := newPoller(fd)
	if err != nil {
		return fail("watch", err)
	}
	defer poller.Close()
	stop := context.AfterFunc(ctx, func() { _ = poller.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := poller.SyscallConn()
	if err != nil {
		return fail("watch", err)
	}
	for {
		err := conn.Read(func(epoll uintptr) bool {
			var events [1]unix.EpollEvent
			n, _ := retry(func() (int, error) { return unix.EpollWait(int(epoll), events[:], 0) })
			return n > 0
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fail("watch", err)
		}
		if ok, err := check(); ok {
			return nil
		} else if err != nil {
			return fail("read", err)
		}
	}
}

// newPoller returns an epoll instance that is readable when fd reports POLLPRI.
func newPoller(fd int) (*os.File, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLPRI, Fd: int32(fd)})
	if err == nil {
		// os.NewFile hands only non-blocking files to the runtime's poller.
		err = unix.SetNonblock(epoll, true)
	}
	if err != nil {
		_ = unix.Close(epoll)
		return nil, err
	}
	return os.NewFile(uintptr(epoll), "epoll"), nil
}
