package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const lockFlags = os.O_RDWR | os.O_CREATE | unix.O_NOFOLLOW

// lockFile takes an exclusive flock(2) on path, made with its folder when it
// is missing. Closing the file, or the end of the process, gives it up. The
// lock excludes other processes and other goroutines alike, since each call
// opens the file anew.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	for {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, lockFlags, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue // its holder removed the folder
		}
		if err != nil {
			return nil, err
		}
		if err := acquire(ctx, f); err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if current(f, path) {
			return f, nil
		}
		// Its holder removed the file while we waited: lock its successor.
		f.Close()
	}
}

// tryLockFile is lockFile for those who would rather leave alone what is in
// use, or gone: it then returns nil. flags are lockFlags, or less.
func tryLockFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && current(f, path) {
		return f, nil
	}
	f.Close()
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return nil, nil
}

// acquire locks f, or closes it. flock(2) cannot be interrupted from Go, so a
// wait that ctx ends goes on in the background and lets go of the lock as
// soon as it has it.
func acquire(ctx context.Context, f *os.File) error {
	err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		if err != nil {
			f.Close()
		}
		return err
	}
	got := make(chan error)
	go func() {
		err := flock(f, unix.LOCK_EX)
		select {
		case got <- err:
		case <-ctx.Done():
			f.Close()
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			f.Close()
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
