package recipe

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/state"
)

func bootstrapDirs(t *testing.T) state.Dirs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip(err)
	}
	return state.Dirs{Root: t.TempDir()}
}

// TestDebianRoot makes a root file system from Debian's archive, if that is in
// reach, and finds it again.
func TestDebianRoot(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads packages")
	}
	dirs := bootstrapDirs(t)
	d := Debian{Suite: "trixie"}
	epoch := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	root, err := DebianRoot(t.Context(), dirs, d, epoch, os.Environ(), nil)
	if err != nil && (strings.Contains(err.Error(), "Failed to fetch") || strings.Contains(err.Error(), "Could not")) {
		t.Skip(err) // the archive is out of reach
	}
	if err != nil {
		t.Fatal(err)
	}
	for path, there := range map[string]bool{
		"bin/sh": true, "etc/debian_version": true, "dev": true, "dev/null": false, "etc/resolv.conf": false,
		"etc/apt/apt.conf.d/99mmdebstrap": false, "var/log/dpkg.log": false,
	} {
		if _, err := os.Lstat(filepath.Join(root, path)); (err == nil) != there {
			t.Errorf("%s: %v", path, err)
		}
	}
	begun := time.Now()
	again, err := DebianRoot(t.Context(), dirs, Debian{Suite: "trixie", Variant: "minbase", Packages: []string{}}, epoch, nil, nil)
	if err != nil || again != root || time.Since(begun) > time.Second {
		t.Errorf("again: %s, %v, %s", again, err, time.Since(begun))
	}
}

// TestDebianRootInterrupted: nothing runs on, nothing is mounted, and half a
// root file system is not taken for one.
func TestDebianRootInterrupted(t *testing.T) {
	dirs := bootstrapDirs(t)
	for _, after := range []time.Duration{0, 50 * time.Millisecond, 700 * time.Millisecond, 2 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		root, err := DebianRoot(ctx, dirs, Debian{Suite: "trixie"}, time.Unix(1, 0), os.Environ(), nil)
		cancel()
		if err == nil {
			t.Skipf("it was quicker than %s: %s", after, root)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Skip(err)
		}
	}
	for _, pattern := range []string{"debian/*/fs", "debian/*/new"} {
		if left, _ := filepath.Glob(filepath.Join(dirs.Build(), pattern)); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dirs.Root) {
		t.Errorf("mounts are left (%v)", err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range lines {
		b, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if strings.Contains(string(b), dirs.Root) {
			t.Errorf("runs on: %q", b)
		}
	}
}
