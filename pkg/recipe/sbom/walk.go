package sbom

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// maxDepth bounds how deep directories nest, and so how many are open at once.
const maxDepth = 500

// root is an open root file system.
type root struct{ *os.File }

func openRoot(dir string) (root, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	return root{f}, err
}

// open opens a regular file; symlinks are followed as in a chroot.
func (r root) open(name string) (*os.File, int64, error) {
	// Not blocking: it may be a FIFO.
	fd, err := r.openat2(name, unix.O_RDONLY|unix.O_NONBLOCK, unix.RESOLVE_IN_ROOT)
	if err != nil {
		return nil, 0, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: %w", name, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func (r root) openat2(name string, flags int, resolve uint64) (int, error) {
	return openat2(int(r.Fd()), name, flags, resolve)
}

// openat2 stays within one file system: nothing that is mounted below is of the image.
func openat2(dir int, name string, flags int, resolve uint64) (int, error) {
	how := &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(dir, name, how)
		// EAGAIN: a rename somewhere on the system raced with it (openat2(2)).
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// read reads a whole file of at most limit bytes.
func (r root) read(name string, limit int64) ([]byte, error) {
	f, size, err := r.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("it has more than %d bytes: %w", limit, errdefs.ErrInvalidArgument)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// walk looks at every file, and hands those that may tell of packages to the group.
func (s *scan) walk(ctx context.Context, group *errgroup.Group) error {
	w := &walker{scan: s, group: group, buf: make([]byte, 64<<10)}
	fd, err := s.root.openat2(".", unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH)
	if err != nil {
		return err
	}
	return w.dir(ctx, fd, "", 0)
}

type walker struct {
	*scan
	group *errgroup.Group
	buf   []byte
	files int
}

// dir walks an open directory, and closes it.
func (w *walker) dir(ctx context.Context, fd int, rel string, depth int) error {
	defer unix.Close(fd)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	list, err := w.list(fd)
	if err != nil {
		return fmt.Errorf("read directory /%s: %w", rel, err)
	}
	if w.files += len(list); w.files > maxFiles {
		return fmt.Errorf("there are more than %d files: %w", maxFiles, errdefs.ErrInvalidArgument)
	}
	for _, e := range list {
		name := path.Join(rel, e.name)
		var st unix.Stat_t
		if e.kind == unix.DT_UNKNOWN || e.kind == unix.DT_REG {
			if err := unix.Fstatat(fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				continue // it has gone
			}
			e.kind = uint8(st.Mode & unix.S_IFMT >> 12) // inode(7): as in d_type
		}
		switch e.kind {
		case unix.DT_DIR:
			if depth >= maxDepth {
				w.unreadable(name, fmt.Errorf("directories nest deeper than %d", maxDepth))
				continue
			}
			sub, err := openat2(fd, e.name, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
			if err != nil {
				continue // it has gone, is a directory no more, or a mount point
			}
			if err := w.dir(ctx, sub, name, depth+1); err != nil {
				return err
			}
		case unix.DT_REG:
			if read := reader(name, st.Mode, st.Size); read != nil {
				w.group.Go(func() error {
					if err := context.Cause(ctx); err != nil {
						return err
					}
					w.look(name, read)
					return nil
				})
			}
		}
	}
	return nil
}

// look opens a file of the walk, and has it read.
func (s *scan) look(name string, read func(*scan, string, *os.File, int64) error) {
	fd, err := s.root.openat2(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		s.unreadable(name, err)
		return
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return // it was replaced
	}
	if err := read(s, name, f, info.Size()); err != nil {
		s.unreadable(name, err)
	}
}

// reader returns what reads a file, or nil if it does not tell of packages. Most
// files are ruled out by their name and mode alone.
func reader(name string, mode uint32, size int64) func(*scan, string, *os.File, int64) error {
	base := path.Base(name)
	dir := path.Dir(name)
	switch {
	case base == "METADATA" && strings.HasSuffix(dir, ".dist-info"), base == "PKG-INFO" && strings.HasSuffix(dir, ".egg-info"):
		return (*scan).python
	case base == "package.json" && inNodeModules(dir):
		return (*scan).npm
	case slices.Contains([]string{".jar", ".war", ".ear"}, path.Ext(base)):
		return (*scan).java
	case mode&0o111 != 0 && size > minELF:
		return (*scan).golang
	}
	return nil
}

// dirent is an entry of getdents64(2).
type dirent struct {
	name string
	kind uint8 // DT_REG, …
}

func (w *walker) list(fd int) (list []dirent, err error) {
	for {
		n, err := unix.ReadDirent(fd, w.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return list, nil
		}
		// struct linux_dirent64: u64 ino, s64 off, u16 reclen, u8 type, name, 0.
		for rest := w.buf[:n]; len(rest) > 19; {
			length := int(binary.NativeEndian.Uint16(rest[16:]))
			name, _, _ := strings.Cut(string(rest[19:length]), "\x00")
			if name != "." && name != ".." {
				list = append(list, dirent{name, rest[18]})
			}
			rest = rest[length:]
		}
	}
}
