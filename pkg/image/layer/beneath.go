package layer

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// EntryPath is the cleaned name of a tar entry, relative to the root that it
// is unpacked to; "." is the root itself. Absolute names and names with ".."
// are refused even where they would lead back inside: no honest tool writes
// them.
func EntryPath(name string) (string, error) {
	switch {
	case name == "/":
		return ".", nil
	case strings.HasPrefix(name, "/"):
		return "", fmt.Errorf("absolute path: %w", errdefs.ErrInvalidArgument)
	case strings.IndexByte(name, 0) >= 0:
		return "", fmt.Errorf("path with a NUL byte: %w", errdefs.ErrInvalidArgument)
	case name == "":
		return "", fmt.Errorf("empty path: %w", errdefs.ErrInvalidArgument)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("path with \"..\": %w", errdefs.ErrInvalidArgument)
		}
	}
	return path.Clean(name), nil
}

// openParent opens the directory dir, and makes what is missing of it: tars
// may leave parents out.
func (x *extractor) openParent(dir string) (int, error) {
	if dir == "." {
		return x.root, nil
	}
	if x.parent >= 0 && x.parentPath == dir {
		return x.parent, nil
	}
	fd, err := x.openBeneath(dir)
	if errors.Is(err, unix.ENOENT) {
		if err := x.charge(1, 0); err != nil {
			return -1, err
		}
		up, base := path.Split(dir)
		parent, err := x.openParent(path.Clean(up))
		if err != nil {
			return -1, err
		}
		if err := unix.Mkdirat(parent, base, 0o755); err != nil {
			return -1, fmt.Errorf("make parent %s: %w", dir, err)
		}
		// Again from the root, and past the umask.
		if fd, err = x.openBeneath(dir); err == nil {
			err = unix.Fchmod(fd, 0o755)
		}
		if err != nil {
			return -1, fmt.Errorf("parent %s: %w", dir, err)
		}
	} else if err != nil {
		return -1, fmt.Errorf("parent %s: %w", dir, err)
	}
	x.forgetParent()
	x.parent, x.parentPath = fd, dir
	return fd, nil
}

// forgetParent drops the cached directory; needed whenever an entry replaces
// another, since the cached path may then lead elsewhere.
func (x *extractor) forgetParent() {
	if x.parent >= 0 {
		unix.Close(x.parent)
		x.parent = -1
	}
}

func (x *extractor) openBeneath(name string) (int, error) {
	how := &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	if x.plain {
		// What leads out of it by a symlink that was there before stays within.
		how.Resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
	}
	for {
		fd, err := unix.Openat2(x.root, name, how)
		// EAGAIN: a rename somewhere on the system raced with a ".." (openat2(2)).
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// explainEscape says in words what openat2's errno means for a layer.
func explainEscape(err error) error {
	switch {
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("a symlink leads out of the layer: %w: %w", err, errdefs.ErrInvalidArgument)
	case errors.Is(err, unix.ELOOP):
		return fmt.Errorf("symlinks go round in a circle: %w: %w", err, errdefs.ErrInvalidArgument)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// replace makes a node by create; what an earlier entry put under that name
// goes first. Of a layer a directory goes only when it is empty.
func (x *extractor) replace(dir int, base string, create func() error) error {
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	err = unix.Unlinkat(dir, base, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
	}
	if x.plain && errors.Is(err, unix.ENOTEMPTY) {
		err = removeTree(dir, base)
	}
	if err != nil {
		return fmt.Errorf("replace an earlier entry: %w", err)
	}
	err = create()
	if dir != x.parent {
		x.forgetParent()
	}
	return err
}
