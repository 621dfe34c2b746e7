package kubeconfig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/state"
)

// User is whose kubeconfig it is.
type User struct {
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Path string `json:"path"` // of the file, absolute
}

// HomeOf returns the user with the file that kubectl uses in his home.
func HomeOf(uid, gid int, home string) User {
	return User{UID: uid, GID: gid, Path: filepath.Join(home, ".kube", "config")}
}

const (
	// As client-go makes them.
	fileMode fs.FileMode = 0o600
	dirMode  fs.FileMode = 0o755
	// lockWait is how long another writer may take; kubectl takes milliseconds.
	lockWait = 5 * time.Second
	lockPoll = 20 * time.Millisecond
)

// Add merges e into the user's kubeconfig, made with its folder when it is
// missing, and makes its context the current one. It reports whether it changed
// the file.
func Add(ctx context.Context, u User, e Entry) (changed bool, err error) {
	err = u.update(ctx, func(config []byte, _ bool) ([]byte, bool, error) {
		b, err := add(config, e)
		changed = err == nil && string(b) != string(config)
		return b, false, err
	})
	return changed, err
}

// Remove takes out what Add has put in, and restores the current context. A file
// that has nothing else in it goes, too. It reports whether it changed anything.
func Remove(ctx context.Context, u User, name string) (changed bool, err error) {
	err = u.update(ctx, func(config []byte, there bool) ([]byte, bool, error) {
		if !there {
			return config, false, nil
		}
		left, empty, err := drop(config, name)
		changed = err == nil && string(left) != string(config)
		return left, empty, err
	})
	return changed, err
}

// update changes the file under client-go's lock, by replacing it.
func (u User) update(ctx context.Context, change func(config []byte, there bool) (b []byte, remove bool, err error)) error {
	err := u.do(func() error {
		path := u.Path
		// A link, into a folder of dotfiles perhaps, stays one.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		config, err := os.ReadFile(path)
		there := err == nil
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		b, remove, err := change(config, there)
		if err != nil || !remove && string(b) == string(config) {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
			return err
		}
		unlock, err := lock(ctx, path)
		if err != nil {
			return err
		}
		defer unlock()
		// What was read before the lock may be old.
		if config, err = os.ReadFile(path); err != nil && (there || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
		if b, remove, err = change(config, there); err != nil {
			return err
		}
		if remove {
			// The folder, too, if it is kubectl's own and nothing else is in it.
			if dir := filepath.Dir(path); filepath.Base(dir) == ".kube" {
				defer os.Remove(dir)
			}
			defer unlock()
			return os.Remove(path)
		}
		mode := fileMode
		if fi, err := os.Stat(path); err == nil {
			mode = fi.Mode().Perm()
		}
		return state.WriteFile(path, b, mode)
	})
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", u.Path, err)
	}
	return nil
}

// lock takes the lock that client-go's programs heed: a file beside the config,
// there while somebody writes.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	name := path + ".lock"
	for end := time.Now().Add(lockWait); ; {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0)
		if err == nil {
			return func() { _ = os.Remove(name) }, f.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if time.Now().After(end) {
			return nil, &lockedError{name}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// lockedError says that another program has locked the file for long: it died.
type lockedError struct{ name string }

func (e *lockedError) Error() string { return "another program has locked it with " + e.name }
func (e *lockedError) Unwrap() error { return errdefs.ErrUnavailable }
func (e *lockedError) Hint() string {
	return "if no kubectl config runs, one has died: rm " + e.name
}

// do calls f on a thread that has the user's rights on files and none of root's
// (setfsuid(2), capabilities(7)), if there are any to give up. What f makes is
// the user's. The thread ends with it.
func (u User) do(f func() error) error {
	if os.Geteuid() != 0 || u.UID == 0 {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread, and its identity.
		runtime.LockOSThread()
		result <- func() error {
			// Only of this thread: the system call itself, not Go's setgroups.
			if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
				return fmt.Errorf("setgroups: %w", errno)
			}
			if err := unix.Setfsgid(u.GID); err != nil {
				return fmt.Errorf("setfsgid %d: %w", u.GID, err)
			}
			if err := unix.Setfsuid(u.UID); err != nil {
				return fmt.Errorf("setfsuid %d: %w", u.UID, err)
			}
			// The call does not say whether it worked; asking for nobody's does.
			if got, _ := unix.SetfsuidRetUid(-1); got != u.UID {
				return fmt.Errorf("setfsuid %d: the file system user is still %d: %w", u.UID, got, errdefs.ErrPermissionDenied)
			}
			return f()
		}()
	}()
	return <-result
}
