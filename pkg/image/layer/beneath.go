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
	fd, err := x.lookParent(dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return x.makeParent(dir)
	}
	return fd, err
}

// lookParent opens the directory dir, if it is there.
func (x *extractor) lookParent(dir string) (int, error) {
	if dir == "." {
		return x.root, nil
	}
	if x.parent >= 0 && x.parentPath == dir {
		return x.parent, nil
	}
	fd, err := x.openBeneath(dir)
	if err != nil {
		return -1, fmt.Errorf("parent %s: %w", dir, err)
	}
	x.forgetParent()
	x.parent, x.parentPath = fd, dir
	return fd, nil
}

func (x *extractor) makeParent(dir string) (int, error) {
	if err := x.charge(1, 0); err != nil {
		return -1, err
	}
	up, base := path.Split(dir)
	parent, err := x.openParent(path.Clean(up))
	if err != nil {
		return -1, err
	}
	opaque := false
	err = unix.Mkdirat(parent, base, 0o755)
	if errors.Is(err, unix.EEXIST) {
		if x.plain || !isWhiteout(parent, base) {
			return -1, fmt.Errorf("parent %s: %w", dir, unix.ENOTDIR)
		}
		// Removed, and made anew by what is to lie in it.
		opaque = true
		err = x.replace(parent, base, func() error { return unix.Mkdirat(parent, base, 0o755) })
	}
	if err != nil {
		return -1, fmt.Errorf("make parent %s: %w", dir, err)
	}
	fd, err := x.lookParent(dir)
	if err != nil {
		return -1, err
	}
	if opaque {
		if err := x.setOpaque(fd, dir); err != nil {
			return -1, err
		}
	}
	// Past the umask.
	if err := unix.Fchmod(fd, 0o755); err != nil {
		return -1, fmt.Errorf("parent %s: %w", dir, err)
	}
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
// goes first, a directory with all that is in it.
func (x *extractor) replace(dir int, base string, create func() error) error {
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := x.remove(dir, base); err != nil {
		return err
	}
	err = create()
	if dir != x.parent {
		x.forgetParent()
	}
	return err
}

// remove takes away what an earlier entry put under a name, if one did.
func (x *extractor) remove(dir int, base string) error {
	err := unix.Unlinkat(dir, base, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOTEMPTY) {
		err = removeTree(dir, base)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("replace an earlier entry: %w", err)
	}
	x.replaced = true
	return nil
}
