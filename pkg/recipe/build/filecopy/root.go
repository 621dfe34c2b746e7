package filecopy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxLinks is how many symlinks one path may lead through: as many as BuildKit
// follows.
const maxLinks = 255

// root is an open directory that no path leads out of.
type root struct {
	fd   int
	path string // for messages
	st   unix.Stat_t
}

func openRoot(dir string) (root, error) {
	r := root{path: dir}
	var err error
	if r.fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return r, fmt.Errorf("open %s: %w", dir, classify(err))
	}
	if err := unix.Fstat(r.fd, &r.st); err != nil {
		unix.Close(r.fd)
		return r, fmt.Errorf("stat %s: %w", dir, err)
	}
	return r, nil
}

func (r root) close() { unix.Close(r.fd) }

// open opens rel, a path that resolve returned. A symlink that has come into
// it since then is an error.
func (r root) open(rel string, flags int) (int, error) { return openBeneath(r.fd, rel, flags) }

func openBeneath(dir int, rel string, flags int) (int, error) {
	how := &unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, rel, how)
		// EAGAIN: a rename somewhere on the system raced with it (openat2(2)).
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

func (r root) lstat(rel string) (st unix.Stat_t, err error) {
	fd, err := r.open(rel, unix.O_PATH)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	return st, unix.Fstat(fd, &st)
}

// resolve follows all symlinks of name as a process in a chroot would, and
// returns the path below the root that it leads to, without a symlink; "." is
// the root. What does not exist, or see hides, stays as it is named.
func (r root) resolve(name string, see func(rel string) (bool, error)) (string, error) {
	done, rest, links := "", strings.Split(name, "/"), 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = parent(done)
			continue
		}
		done = path.Join(done, part)
		target, err := r.readlink(done)
		if err != nil {
			return "", fmt.Errorf("resolve %s: %w", name, classify(err))
		}
		if target == "" {
			continue
		}
		if see != nil {
			if ok, err := see(done); err != nil {
				return "", err
			} else if !ok {
				continue // the next step does not find it
			}
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("resolve %s: symlinks go round in a circle: %w", name, errdefs.ErrInvalidArgument)
		}
		if done = parent(done); path.IsAbs(target) {
			done = ""
		}
		rest = slices.Concat(strings.Split(target, "/"), rest)
	}
	return path.Join(".", done), nil
}

// parent is the directory of a relative path; "" is the root, and its own.
func parent(rel string) string {
	if dir := path.Dir(rel); dir != "." {
		return dir
	}
	return ""
}

// readlink returns "" for what is no symlink, or is not there.
func (r root) readlink(rel string) (string, error) {
	fd, err := r.open(rel, unix.O_PATH)
	if err != nil {
		if missing(err) {
			err = nil
		}
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", err
	}
	return readlinkat(fd, "")
}

func readlinkat(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// readFile reads a regular file of at most limit bytes; symlinks in its path
// are followed within the root.
func (r root) readFile(name string, limit int64) ([]byte, error) {
	rel, err := r.resolve(name, nil)
	if err != nil {
		return nil, err
	}
	// Not blocking: it may be a FIFO.
	fd, err := r.open(rel, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file: %w", name, errdefs.ErrInvalidArgument)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes: %w", name, limit, errdefs.ErrInvalidArgument)
	}
	return data, err
}

// names lists a directory that nobody has read from since it was opened, sorted.
func names(fd int) ([]string, error) {
	buf := make([]byte, 32<<10)
	var list []string
	for {
		n, err := unix.ReadDirent(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			slices.Sort(list)
			return list, nil
		}
		_, _, list = unix.ParseDirent(buf[:n], -1, list)
	}
}

// missing reports whether err says that there is no such file.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}

// classify gives the errno of a path that somebody else has chosen its class.
func classify(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EISDIR), errors.Is(err, unix.EINVAL): // EINVAL: a NUL
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return fmt.Errorf("it was replaced while it was read: %w: %w", err, errdefs.ErrAborted)
	}
	return err
}
