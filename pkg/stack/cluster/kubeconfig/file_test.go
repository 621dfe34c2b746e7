package kubeconfig

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

const someone = 12345

// home makes a user with a home of his own; as root another one, otherwise
// whoever runs the test.
func home(t *testing.T) User {
	t.Helper()
	dir := t.TempDir()
	// Only root may enter what t.TempDir makes.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	u := HomeOf(os.Getuid(), os.Getgid(), dir)
	if os.Geteuid() == 0 {
		u.UID, u.GID = someone, someone
		if err := os.Chown(dir, someone, someone); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func write(t *testing.T, u User, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(u.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(u.Path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Dir(u.Path), u.Path} {
		if err := os.Chown(path, u.UID, u.GID); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(u.Path, mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func owned(t *testing.T, u User, path string, mode fs.FileMode) {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); int(st.Uid) != u.UID || int(st.Gid) != u.GID || fi.Mode().Perm() != mode {
		t.Errorf("%s: %d:%d %v, want %d:%d %v", path, st.Uid, st.Gid, fi.Mode().Perm(), u.UID, u.GID, mode)
	}
}

func TestFreshFile(t *testing.T) {
	u := home(t)
	if changed, err := Add(t.Context(), u, entry); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	if got := read(t, u.Path); got != fresh() {
		t.Errorf("got\n%s", got)
	}
	owned(t, u, u.Path, 0o600)
	owned(t, u, filepath.Dir(u.Path), 0o755)
	if changed, err := Add(t.Context(), u, entry); err != nil || changed {
		t.Errorf("again: changed %v, %v", changed, err)
	}
	if changed, err := Remove(t.Context(), u, "sandbox"); err != nil || !changed {
		t.Errorf("remove: changed %v, %v", changed, err)
	}
	if _, err := os.Stat(filepath.Dir(u.Path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder stays: %v", err)
	}
	if changed, err := Remove(t.Context(), u, "sandbox"); err != nil || changed {
		t.Errorf("remove again: changed %v, %v", changed, err)
	}
}

func TestFileOfOthers(t *testing.T) {
	u := home(t)
	write(t, u, other, 0o640)
	if _, err := Add(t.Context(), u, entry); err != nil {
		t.Fatal(err)
	}
	if got := read(t, u.Path); got != merged() {
		t.Errorf("got\n%s", got)
	}
	owned(t, u, u.Path, 0o640)
	if _, err := Remove(t.Context(), u, "sandbox"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, u.Path); got != other {
		t.Errorf("got\n%s", got)
	}
	owned(t, u, u.Path, 0o640)
	left, err := os.ReadDir(filepath.Dir(u.Path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestLink: a file that is a link stays one, and what it leads to is changed.
func TestLink(t *testing.T) {
	u := home(t)
	write(t, u, other, 0o600)
	real := filepath.Join(filepath.Dir(filepath.Dir(u.Path)), "dotfile")
	if err := os.Rename(u.Path, real); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, u.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := Add(t.Context(), u, entry); err != nil {
		t.Fatal(err)
	}
	if got := read(t, real); got != merged() {
		t.Errorf("got\n%s", got)
	}
	if to, err := os.Readlink(u.Path); err != nil || to != real {
		t.Errorf("link to %q, %v", to, err)
	}
}

// TestNoPrivilege: root does not do for a user what he could not do himself.
func TestNoPrivilege(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to give up")
	}
	for name, prepare := range map[string]func(t *testing.T, u User, secret string){
		"link to a file": func(t *testing.T, u User, secret string) {
			write(t, u, "", 0o600)
			if err := errors.Join(os.Remove(u.Path), os.Symlink(secret, u.Path)); err != nil {
				t.Fatal(err)
			}
		},
		"link to a folder": func(t *testing.T, u User, secret string) {
			if err := os.Symlink(filepath.Dir(secret), filepath.Dir(u.Path)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := home(t)
			dir := t.TempDir()
			secret := filepath.Join(dir, "secret")
			if err := errors.Join(os.WriteFile(secret, []byte("a: b\n"), 0o600), os.Chmod(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
			prepare(t, u, secret)
			if _, err := Add(t.Context(), u, entry); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("error %v, want permission denied", err)
			}
			if got := read(t, secret); got != "a: b\n" {
				t.Errorf("the secret is %q", got)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("beside it: %v", left)
			}
		})
	}
	if os.Geteuid() != 0 {
		t.Error("the test has lost its own rights")
	}
}

func TestLocked(t *testing.T) {
	u := home(t)
	write(t, u, other, 0o600)
	lock := u.Path + ".lock"
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Add(ctx, u, entry); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the context's", err)
	}
	begun := time.Now()
	_, err := Add(t.Context(), u, entry)
	hint, ok := errors.AsType[interface {
		error
		Hint() string
	}](err)
	if !errdefs.IsUnavailable(err) || !ok || !strings.Contains(hint.Hint(), lock) || time.Since(begun) < lockWait {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = os.Remove(lock) })
	if _, err := Add(t.Context(), u, entry); err != nil {
		t.Error(err)
	}
	if got := read(t, u.Path); got != merged() {
		t.Errorf("got\n%s", got)
	}
}
