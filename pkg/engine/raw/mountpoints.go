package raw

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mountPoints are the traces that the mounts of a container leave in its upper
// folder: empty files and folders to mount on, and the copies that overlayfs
// has made of the folders which those are in.
type mountPoints struct {
	made   []string          // of which the root file system has nothing before
	copied map[string]string // folders of lower layers, with their attributes
}

// findMountPoints returns what mounting on targets will leave in upper. rootfs
// is the root file system, in which nothing is mounted yet.
func findMountPoints(rootfs *os.File, upper string, targets []string) (mountPoints, error) {
	m := mountPoints{copied: map[string]string{}}
	top, err := os.OpenRoot(upper)
	if err != nil {
		return m, err
	}
	defer top.Close()
	base, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", rootfs.Fd()))
	if err != nil {
		return m, err
	}
	for _, target := range targets {
		if fd, err := openIn(rootfs, target, unix.O_PATH); err == nil {
			_ = fd.Close()
			continue
		}
		// Up to the first folder that is there, then down again by its real name.
		parent, missing := path.Clean("/"+target), []string{}
		var dir *os.File
		for dir == nil {
			missing = append([]string{path.Base(parent)}, missing...)
			parent = path.Dir(parent)
			if dir, err = openIn(rootfs, parent, unix.O_RDONLY|unix.O_DIRECTORY); err != nil && parent == "/" {
				return m, fmt.Errorf("mount point %s: %w", target, err)
			}
		}
		real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
		_ = dir.Close()
		if err != nil {
			return m, err
		}
		real = strings.TrimPrefix(real, base)
		for p := real; p != "" && p != "/"; p = path.Dir(p) {
			if _, err := top.Lstat(p[1:]); err == nil || m.copied[p] != "" {
				continue // it is there already, for whatever reason
			}
			dir, err := openIn(rootfs, p, unix.O_RDONLY|unix.O_DIRECTORY)
			if err != nil {
				return m, fmt.Errorf("mount point %s: %w", target, err)
			}
			m.copied[p], err = attributes(dir)
			_ = dir.Close()
			if err != nil {
				return m, fmt.Errorf("mount point %s: %w", target, err)
			}
		}
		for _, name := range missing {
			if real = path.Join("/", real, name); !slices.Contains(m.made, real) {
				m.made = append(m.made, real)
			}
		}
	}
	return m, nil
}

// openIn opens a path of a root file system, as a process in it would.
func openIn(rootfs *os.File, p string, flags int) (*os.File, error) {
	fd, err := unix.Openat2(int(rootfs.Fd()), p, &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "openat2", Path: p, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

// remove takes them out of upper again, unless they are used by now: what is
// not empty, or no longer as it was, is the process's.
func (m mountPoints) remove(upper string) error {
	if len(m.made) == 0 {
		return nil
	}
	// Whatever links the process has put in the way do not lead out of this.
	top, err := os.OpenRoot(upper)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer top.Close()
	var errs []error
	for _, p := range deepestFirst(m.made) {
		st, err := top.Lstat(p[1:])
		if err != nil || !st.IsDir() && (!st.Mode().IsRegular() || st.Size() > 0) {
			continue // on another mount (/dev/pts), or the process's
		}
		errs = append(errs, removeEmpty(top, p))
	}
	parents := make([]string, 0, len(m.copied))
	for p := range m.copied {
		parents = append(parents, p)
	}
	for _, p := range deepestFirst(parents) {
		dir, err := top.Open(p[1:])
		if err != nil {
			continue
		}
		now, err := attributes(dir)
		_ = dir.Close()
		if err == nil && now == m.copied[p] {
			errs = append(errs, removeEmpty(top, p))
		}
	}
	return errors.Join(errs...)
}

func removeEmpty(top *os.Root, p string) error {
	err := top.Remove(p[1:])
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return ignoreMissing(err)
}

func deepestFirst(paths []string) []string {
	return slices.SortedFunc(slices.Values(paths), func(a, b string) int {
		if d := strings.Count(b, "/") - strings.Count(a, "/"); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
}

// attributes are a folder's owner, mode and extended attributes, in one string.
// Those of overlayfs which say nothing about its contents are left out; an
// opaque folder is another one than what it hides.
func attributes(dir *os.File) (string, error) {
	var st unix.Stat_t
	fd := int(dir.Fd())
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(fd, names)
	if errors.Is(err, unix.ENOTSUP) {
		n, err = 0, nil
	}
	if err != nil {
		return "", err
	}
	var all []string
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
		switch name := string(name); name {
		case "", "trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.nlink", "trusted.overlay.uuid":
		default:
			n, err := unix.Fgetxattr(fd, name, value)
			if err != nil {
				return "", err
			}
			all = append(all, name+"="+string(value[:n]))
		}
	}
	slices.Sort(all)
	return fmt.Sprintf("%d:%d %o %q", st.Uid, st.Gid, st.Mode, all), nil
}
