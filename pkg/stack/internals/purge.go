package internals

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// purge removes everything that sandbox has made in its two roots, by name, and
// a root itself if nothing else is in it. What the daemon still uses in the
// Run folder (its socket and lock) it removes itself when it exits.
func (s *Stage) purge(ctx context.Context, p stack.Progress) error {
	for _, root := range []string{s.Dirs.Root, s.Dirs.Run} {
		if err := checkRoot(root); err != nil {
			return err
		}
	}
	paths := owned(s.Dirs)
	if err := checkMounts(paths); err != nil {
		return err
	}
	if err := s.Purge(ctx); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			return err
		}
		// RemoveAll follows no symbolic link, neither path itself nor inside.
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("purge: %w", err)
		}
	}
	kept, err := leftover(s.Dirs.Root)
	if err != nil {
		return err
	}
	if len(kept) > 0 {
		p.Note("kept %s: it holds what sandbox did not make: %s", s.Dirs.Root, strings.Join(kept, ", "))
		return nil
	}
	switch err := os.Remove(s.Dirs.Root); {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		p.Note("%s is gone", s.Dirs.Root)
	case errors.Is(err, syscall.EBUSY):
		p.Note("%s is empty; it stays because it is a mount point", s.Dirs.Root)
	default:
		return err
	}
	return nil
}

// owned lists what sandbox makes in its roots. The changes come last: a purge
// that is broken off can be resumed as long as they are there.
func owned(dirs state.Dirs) []string {
	return []string{
		dirs.RunContainers(),
		dirs.RunBuild(),
		dirs.RuntimeRoot(),
		dirs.Containers(),
		dirs.Build(),
		dirs.Recipes(),
		dirs.Layers(),
		dirs.Images(),
		filepath.Dir(dirs.Leases()),
		filepath.Dir(dirs.Stage("")),
		filepath.Dir(dirs.RuntimeBinary()),
		dirs.Alerts(),
		dirs.Providers(),
		dirs.DaemonLog(),
		filepath.Dir(dirs.Change("")),
	}
}

// checkRoot refuses a root that cannot be meant: names like "images" below it
// may well belong to somebody else.
func checkRoot(root string) error {
	if !filepath.IsAbs(root) || filepath.Clean(root) != root || strings.Count(root, "/") < 2 {
		return fmt.Errorf("purge: %q is not a path that sandbox would delete from (it must be absolute, clean, and not at the top): %w",
			root, errdefs.ErrInvalidArgument)
	}
	for _, system := range []string{"/usr", "/etc", "/boot", "/bin", "/sbin", "/lib", "/lib64", "/dev", "/proc", "/sys"} {
		if strings.HasPrefix(root, system+"/") {
			return fmt.Errorf("purge: %s is part of the system: %w", root, errdefs.ErrInvalidArgument)
		}
	}
	switch fi, err := os.Lstat(root); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !fi.IsDir():
		return fmt.Errorf("purge: %s is not a folder itself (%s): %w", root, fi.Mode().Type(), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// checkMounts refuses to delete through a mount: what is behind it, a bind of
// somebody's home perhaps, was not made by sandbox.
func checkMounts(paths []string) error {
	var real []string // as the kernel names them
	for _, path := range paths {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("purge: %w", err)
		}
		real = append(real, filepath.Join(dir, filepath.Base(path)))
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		for _, path := range real {
			if m.Mountpoint == path || strings.HasPrefix(m.Mountpoint, path+"/") {
				return false, false
			}
		}
		return true, false
	})
	if err != nil {
		return fmt.Errorf("purge: read mountinfo: %w", err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("purge: %s is mounted on %s; unmount it first: %w",
			mounts[0].Source, mounts[0].Mountpoint, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// leftover lists what is in a folder; one that is not there is empty.
func leftover(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}
