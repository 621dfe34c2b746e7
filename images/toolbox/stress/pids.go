package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// loadPIDs forks n processes that only wait, and holds them.
func loadPIDs(ctx context.Context, n int, out *lines) error {
	// PR_SET_PDEATHSIG watches the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var pids []int
	defer func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		for _, pid := range pids {
			_, _ = syscall.Wait4(pid, nil, 0, nil)
		}
	}()
	out.printf("pids: forking %d processes", n)
	for ctx.Err() == nil && len(pids) < n {
		pid, errno := fork()
		if errors.Is(errno, syscall.EAGAIN) {
			out.printf("pids: fork %d refused: %v (EAGAIN): pids.max or ulimit -u is reached", len(pids)+1, errno)
			break
		}
		if errno != 0 {
			return fmt.Errorf("fork %d: %w", len(pids)+1, errno)
		}
		pids = append(pids, pid)
	}
	out.printf("pids: holding %d of %d processes, and the threads of this one", len(pids), n)
	<-ctx.Done()
	return nil
}

// fork makes a copy of this process with one thread, which waits for its end.
// Go cannot run its own code in such a copy, for lack of the other threads: the
// child makes nothing but raw system calls, on the stack it has, and has every
// signal blocked before it exists, since Go's handlers would not work either.
//
//go:norace
func fork() (pid int, errno syscall.Errno) {
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return 0, syscall.EINVAL
	}
	r, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if r == 0 && errno == 0 {
		syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0, 0)
		for {
			syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0) // no fds, no end
		}
	}
	// What cannot fail with valid arguments needs no check.
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	return int(r), errno
}

// reserveThreads has Go start the threads that it may come to need: it cannot
// live with being refused one, and they too count as pids. Threads that have
// been used once wait to be used again.
func reserveThreads() {
	var all, ready sync.WaitGroup
	for range runtime.GOMAXPROCS(0) + 1 {
		ready.Add(1)
		all.Go(func() {
			runtime.LockOSThread() // one thread each, all at the same time
			defer runtime.UnlockOSThread()
			ready.Done()
			ready.Wait()
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
		})
	}
	all.Wait()
}
