package layer

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// applyWhiteout makes what base, a name that starts with ".wh.", asks for.
func (x *extractor) applyWhiteout(dir int, parent, base string) error {
	if base == WhiteoutOpaque {
		return x.setOpaque(dir, parent)
	}
	if strings.HasPrefix(base, WhiteoutMeta) {
		return nil
	}
	name := strings.TrimPrefix(base, WhiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("whiteout of %q: %w", name, errdefs.ErrInvalidArgument)
	}
	at := path.Join(parent, name)
	err := x.whiteout(dir, name)
	if err == nil {
		x.whiteouts = append(x.whiteouts, at)
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	// The layer itself has that name already. A whiteout is about the layers
	// below only: a file hides them anyway, a directory must be told to.
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil //nolint:nilerr // not a directory
	}
	defer unix.Close(fd)
	return x.setOpaque(fd, at)
}

// makeWhiteout makes overlayfs's mark for "not there": a character device
// 0:0, which everybody may make since Linux 5.8, or, on file systems without
// device nodes, the empty file with an xattr that overlayfs takes since 6.7.
func makeWhiteout(dir int, name string) error {
	err := unix.Mknodat(dir, name, unix.S_IFCHR, 0)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
		return makeXattrWhiteout(dir, name)
	}
	return err
}

// makeXattrWhiteout also marks the directory: overlayfs looks for such files
// only in directories whose opaque xattr is "x".
func makeXattrWhiteout(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fsetxattr(fd, xattrWhiteout, nil, 0); err != nil {
		return fmt.Errorf("set xattr %s: %w", xattrWhiteout, err)
	}
	// "y" hides everything below already, and more.
	err = unix.Fsetxattr(dir, xattrOpaque, []byte("x"), unix.XATTR_CREATE)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("set xattr %s: %w", xattrOpaque, err)
	}
	return nil
}

// setOpaque hides all that the layers below have in the directory.
func (x *extractor) setOpaque(dir int, name string) error {
	x.opaque[name] = true
	if err := unix.Fsetxattr(dir, xattrOpaque, []byte("y"), 0); err != nil {
		return fmt.Errorf("set xattr %s: %w", xattrOpaque, err)
	}
	return nil
}

// dropWhiteouts removes those that lie in opaque directories: they hide nothing
// more, and overlayfs lists what it does not have to merge as it is, whiteouts
// as names that cannot be found.
func (x *extractor) dropWhiteouts() error {
	if len(x.opaque) == 0 {
		return nil
	}
	for _, name := range x.whiteouts {
		if !x.inOpaque(name) {
			continue
		}
		up, base := path.Split(name)
		dir, err := x.lookParent(path.Clean("./" + up))
		if err != nil || !isWhiteout(dir, base) {
			continue // replaced by a later entry
		}
		if err := unix.Unlinkat(dir, base, 0); err != nil {
			return fmt.Errorf("remove the whiteout of %q: %w", name, err)
		}
	}
	return nil
}

func (x *extractor) inOpaque(name string) bool {
	for name != "." {
		if name = path.Dir(name); x.opaque[name] {
			return true
		}
	}
	return false
}

// isWhiteout reports whether a name is one of either form. Xattrs of the kind
// that marks them no layer can bring.
func isWhiteout(dir int, name string) bool {
	var st unix.Stat_t
	if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return st.Rdev == 0
	case unix.S_IFREG:
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return false
		}
		defer unix.Close(fd)
		_, err = unix.Fgetxattr(fd, xattrWhiteout, nil)
		return err == nil
	}
	return false
}
