package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// How to lock: flock(2). Closing the file, or the end of the process, gives a
// lock up. It excludes other processes and other goroutines alike, since each
// call opens the file anew.
const (
	shared    = unix.LOCK_SH
	exclusive = unix.LOCK_EX
)

// lock locks a file, which is made with its folder when it is missing, and
// waits for it until ctx ends.
func lock(ctx context.Context, path string, how int) (*os.File, error) {
	for {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		f, err := openLock(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // its folder was removed
		}
		if err != nil {
			return nil, err
		}
		if err := acquire(ctx, f, how); err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if current(f, path) {
			return f, nil
		}
		_ = f.Close() // its holder has removed it: lock its successor
	}
}

// tryLock is lock for who would rather leave alone what is in use, or gone: it
// then returns nil.
func tryLock(path string, how int) (*os.File, error) {
	f, err := openLock(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = flock(f, how|unix.LOCK_NB)
	if err == nil && current(f, path) {
		return f, nil
	}
	_ = f.Close()
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return nil, nil
}

func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
}

// acquire locks f, or closes it. flock(2) cannot be interrupted from Go, so a
// wait that ctx ends goes on in the background, and lets go of the lock as soon
// as it has it.
func acquire(ctx context.Context, f *os.File, how int) error {
	err := flock(f, how|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		if err != nil {
			_ = f.Close()
		}
		return err
	}
	got := make(chan error)
	go func() {
		err := flock(f, how)
		select {
		case got <- err:
		case <-ctx.Done():
			_ = f.Close()
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			_ = f.Close()
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// current reports whether path still names the open file f.
func current(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	want, err := os.Lstat(path)
	return err == nil && os.SameFile(have, want)
}
