package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Limits bound what one tar may make.
type Limits struct {
	Files int    // entries, and folders that they lie in
	Bytes int64  // of the files' contents
	Words string // Bytes for people, with the reason
}

// extractor writes the entries of one tar below an open directory.
//
// The tar is hostile. No path of it is ever given to the kernel whole but to
// openat2(2) with RESOLVE_BENEATH, which refuses, atomically, every symlink
// and ".." that would leave the root; everything else works on one name
// within the directory that this opened, and does not follow that name.
type extractor struct {
	root   int // fd
	limits Limits
	files  int
	bytes  int64
	buf    []byte
	dirs   []dirTime
	// parent caches the directory of the previous entry: tars come in the
	// order of directories.
	parent     int
	parentPath string
	whiteout   func(dir int, name string) error
	whiteouts  []string        // by their paths, while they are made
	opaque     map[string]bool // directories, likewise
	replaced   bool            // an entry has replaced another
	// plain: the tar is no layer's, but one that ExtractPlain was given.
	plain bool
	own   *ids      // of every entry; nil: as the tar says
	epoch time.Time // the latest mtime; zero: no limit
}

// dirTime is a directory's mtime, set last, since entries made in it change it.
type dirTime struct {
	path  string
	mtime unix.Timespec
}

// Extract unpacks the tar of a layer into the empty folder root, in the form
// that overlayfs wants for a lowerdir. It stops at the tar's end marker.
// Errors name the entry; those of the tar are errdefs.ErrInvalidArgument.
func Extract(root string, r io.Reader, limits Limits) error {
	x, err := newExtractor(root, limits)
	if err != nil {
		return err
	}
	defer x.close()
	return x.extract(r)
}

func newExtractor(root string, limits Limits) (*extractor, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	// MkdirTemp made it 0700; a root that the layer does not describe is 0755.
	if err := unix.Fchmod(fd, 0o755); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("chmod %s: %w", root, err)
	}
	return &extractor{
		root: fd, limits: limits, buf: make([]byte, CopyBuffer),
		parent: -1, whiteout: makeWhiteout, opaque: map[string]bool{},
	}, nil
}

func (x *extractor) close() {
	x.forgetParent()
	unix.Close(x.root)
}

// extract reads entries up to the tar's end marker. Errors name the entry.
func (x *extractor) extract(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", Classify(err))
		}
		if err := x.entry(hdr, tr); err != nil {
			return fmt.Errorf("entry %q: %w", hdr.Name, Classify(explainEscape(err)))
		}
	}
	if err := x.dropWhiteouts(); err != nil {
		return err
	}
	for _, d := range x.dirs {
		if err := x.setDirTime(d); err != nil {
			return fmt.Errorf("entry %q: %w", d.path, err)
		}
	}
	return nil
}

func (x *extractor) entry(hdr *tar.Header, content io.Reader) error {
	name, err := EntryPath(hdr.Name)
	if err != nil {
		return err
	}
	if err := x.charge(1, hdr.Size); err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil // git archive writes them; nothing in them is for us
	}
	owner, err := owner(hdr)
	if err != nil {
		return err
	}
	if x.own != nil {
		owner = *x.own
	}
	if !x.epoch.IsZero() && hdr.ModTime.After(x.epoch) {
		hdr.ModTime = x.epoch
	}
	if name == "." {
		if hdr.Typeflag != tar.TypeDir {
			return fmt.Errorf("the root is no directory: %w", errdefs.ErrInvalidArgument)
		}
		if x.plain {
			return nil // it was there before
		}
		return x.dirMeta(x.root, ".", hdr, owner)
	}
	parentPath, base := path.Split(name)
	parentPath = path.Clean(parentPath)
	dir, err := x.openParent(parentPath)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, WhiteoutPrefix) && !x.plain {
		return x.applyWhiteout(dir, parentPath, base)
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return x.mkdir(dir, name, base, hdr, owner)
	case tar.TypeReg, tar.TypeGNUSparse:
		return x.regular(dir, base, hdr, owner, content)
	case tar.TypeSymlink:
		err = x.replace(dir, base, func() error { return unix.Symlinkat(hdr.Linkname, dir, base) })
	case tar.TypeLink:
		return x.hardlink(dir, base, hdr.Linkname)
	case tar.TypeFifo:
		err = x.replace(dir, base, func() error { return unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0) })
	case tar.TypeChar:
		if hdr.Devmajor == 0 && hdr.Devminor == 0 && !x.plain {
			x.whiteouts = append(x.whiteouts, name)
			return x.replace(dir, base, func() error { return x.whiteout(dir, base) })
		}
		fallthrough
	case tar.TypeBlock:
		return fmt.Errorf("device node %d:%d: images may not bring devices, a container gets its own /dev: %w",
			hdr.Devmajor, hdr.Devminor, errdefs.ErrInvalidArgument)
	default:
		return fmt.Errorf("unknown tar entry type %q: %w", hdr.Typeflag, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	return nodeMeta(dir, base, hdr, owner)
}

// charge counts what an entry makes. Size is what the header says: a sparse
// file claims far more than its tar holds.
func (x *extractor) charge(files int, size int64) error {
	if x.files += files; x.files > x.limits.Files {
		return fmt.Errorf("layer has more than %d entries: %w", x.limits.Files, errdefs.ErrInvalidArgument)
	}
	if size < 0 || size > x.limits.Bytes-x.bytes {
		return fmt.Errorf("layer unpacks to more than %s: %w", x.limits.Words, errdefs.ErrInvalidArgument)
	}
	x.bytes += size
	return nil
}

func (x *extractor) mkdir(dir int, name, base string, hdr *tar.Header, own ids) error {
	err := unix.Mkdirat(dir, base, 0o700)
	opaque := false
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = nil
		} else {
			// A whiteout, or a file, that hid what the layers below have here:
			// that may not shine through the directory either.
			opaque = !x.plain
			err = x.replace(dir, base, func() error { return unix.Mkdirat(dir, base, 0o700) })
		}
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if opaque {
		if err := x.setOpaque(fd, name); err != nil {
			return err
		}
	}
	return x.dirMeta(fd, name, hdr, own)
}

func (x *extractor) regular(dir int, base string, hdr *tar.Header, own ids, content io.Reader) error {
	fd := -1
	err := x.replace(dir, base, func() (err error) {
		// With its mode, which mostly is all that fileMeta would have to set.
		fd, err = unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(hdr.Mode)&0o777)
		return err
	})
	if err != nil {
		return err
	}
	err = x.fill(fd, hdr, own, content)
	// close(2) reports the errors of delayed writes on some file systems.
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return setTime(dir, base, mtime(hdr))
}

func (x *extractor) fill(fd int, hdr *tar.Header, own ids, content io.Reader) error {
	if _, err := io.CopyBuffer(fdWriter(fd), struct{ io.Reader }{content}, x.buf); err != nil {
		return err
	}
	return fileMeta(fd, hdr, own)
}

// hardlink links a file of the same layer. Neither end follows a symlink: a
// link to a symlink is a second name for the symlink.
func (x *extractor) hardlink(dir int, base, target string) error {
	name, err := EntryPath(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	up, targetBase := path.Split(name)
	from, err := x.openBeneath(path.Clean("./" + up))
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, missingTarget(err))
	}
	defer unix.Close(from)
	err = x.replace(dir, base, func() error {
		return unix.Linkat(from, targetBase, dir, base, 0)
	})
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, missingTarget(err))
	}
	return nil
}

func missingTarget(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("no such file in this layer: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// ids are an entry's owner.
type ids struct{ uid, gid int }

func owner(hdr *tar.Header) (ids, error) {
	for _, id := range []int{hdr.Uid, hdr.Gid} {
		// 2^32-1 is "leave it" to chown(2), and no valid ID.
		if id < 0 || id >= math.MaxUint32 {
			return ids{}, fmt.Errorf("owner %d:%d is no valid ID: %w", hdr.Uid, hdr.Gid, errdefs.ErrInvalidArgument)
		}
	}
	return ids{hdr.Uid, hdr.Gid}, nil
}

type fdWriter int

func (w fdWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := unix.Write(int(w), p[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}
