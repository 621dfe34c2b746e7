// Package layer turns folders into the tars of image layers (image-spec,
// layer.md).
package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxPath is the longest path of an entry, in bytes: that of the kernel
// (PATH_MAX, limits.h) without its NUL. A process can make deeper folders,
// step by step, that nobody could unpack again.
const maxPath = 4095

// Pack writes the folder dir, which is an upperdir of overlayfs, as a layer's
// tar to w. The same content gives the same bytes: entries come in the order
// of names, owners are numbers, and no time is newer than epoch or has parts
// of a second. The root comes first, as "./".
//
// The folder is made to agree with the tar, so that a layer unpacked from it
// is the same tree: times are set, sockets and xattrs that a layer cannot
// hold are removed. What was changed is changed again by the next Pack, so
// that it may be interrupted.
//
// It refuses, with errdefs.ErrInvalidArgument, what a layer has no form for or
// Extract would refuse: device nodes, names that start with ".wh.", paths
// that are too long; and with errdefs.ErrFailedPrecondition an upperdir whose
// entries lie in the layers below (redirect_dir, metacopy). Nobody else may
// work in dir meanwhile.
func Pack(ctx context.Context, w io.Writer, dir string, epoch time.Time) error {
	root, err := openDir(unix.AT_FDCWD, dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer root.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", dir, err)
	}
	p := &packer{
		tw:    tar.NewWriter(w),
		epoch: epoch.Unix(),
		links: map[inode]string{},
		buf:   make([]byte, CopyBuffer),
	}
	if err := p.dir(ctx, root, ".", &st); err != nil {
		return err
	}
	return p.tw.Close()
}

// inode identifies a file that has several names.
type inode struct{ dev, ino uint64 }

type packer struct {
	tw    *tar.Writer
	epoch int64            // seconds since 1970
	links map[inode]string // the first name of each
	buf   []byte
	attrs xattrs
}

// openDir opens a directory, and no symlink to one.
func openDir(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// dir writes a directory and all below it. Its time is set last, since that
// of a directory changes with its entries.
func (p *packer) dir(ctx context.Context, dir *os.File, name string, st *unix.Stat_t) error {
	fd := int(dir.Fd())
	hdr := p.header(name, st)
	hdr.Typeflag, hdr.Name = tar.TypeDir, name+"/"
	opaque, err := p.attrs.take(fd, hdr)
	if err != nil {
		return entryError(name, err)
	}
	if err := p.tw.WriteHeader(hdr); err != nil {
		return entryError(name, err)
	}
	if opaque {
		mark := path.Join(name, WhiteoutOpaque)
		if err := p.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: mark}); err != nil {
			return entryError(mark, err)
		}
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return entryError(name, err)
	}
	slices.Sort(names)
	for _, base := range names {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := p.entry(ctx, fd, base, path.Join(name, base)); err != nil {
			return err
		}
	}
	if err := setTimes(fd, "", hdr.ModTime, nil); err != nil {
		return entryError(name, err)
	}
	return nil
}

// entry writes what dir has under the name base; name is its path.
func (p *packer) entry(ctx context.Context, dir int, base, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return entryError(name, err)
	}
	if len(name) > maxPath {
		return entryError(name[:64]+"…", fmt.Errorf("its path has %d bytes, at most %d can be unpacked: %w", len(name), maxPath, errdefs.ErrInvalidArgument))
	}
	if strings.HasPrefix(base, WhiteoutPrefix) {
		return entryError(name, fmt.Errorf("names that start with %q mean a removal in a layer, give it another: %w", WhiteoutPrefix, errdefs.ErrInvalidArgument))
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		sub, err := openDir(dir, base)
		if err != nil {
			return entryError(name, err)
		}
		defer sub.Close()
		return p.dir(ctx, sub, name, &st)
	}
	if err := p.leaf(ctx, dir, base, name, &st); err != nil {
		return entryError(name, err)
	}
	return nil
}

// leaf writes anything but a directory.
func (p *packer) leaf(ctx context.Context, dir int, base, name string, st *unix.Stat_t) error {
	hdr := p.header(name, st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			// overlayfs gives all its whiteouts one inode: they are no links.
			return p.whiteoutOf(name)
		}
		fallthrough
	case unix.S_IFBLK:
		return fmt.Errorf("device node %d:%d: images may not bring devices, a container gets its own /dev: %w",
			unix.Major(st.Rdev), unix.Minor(st.Rdev), errdefs.ErrInvalidArgument)
	case unix.S_IFSOCK:
		// It has a meaning only as long as the process that made it.
		return unix.Unlinkat(dir, base, 0)
	case unix.S_IFREG:
		if st.Nlink > 1 && p.link(hdr, st) {
			break
		}
		return p.regular(ctx, dir, base, hdr, st)
	case unix.S_IFLNK:
		if st.Nlink > 1 && p.link(hdr, st) {
			break
		}
		target, err := readLink(dir, base)
		if err != nil {
			return err
		}
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		if st.Nlink > 1 && p.link(hdr, st) {
			break
		}
		hdr.Typeflag = tar.TypeFifo
	}
	if err := p.tw.WriteHeader(hdr); err != nil {
		return err
	}
	return setTimes(dir, base, hdr.ModTime, st)
}

// link makes hdr a hard link to a file that was written before; otherwise it
// remembers the name of this one.
func (p *packer) link(hdr *tar.Header, st *unix.Stat_t) bool {
	id := inode{st.Dev, st.Ino}
	first, ok := p.links[id]
	if !ok {
		p.links[id] = hdr.Name
		return false
	}
	hdr.Typeflag, hdr.Linkname = tar.TypeLink, first
	return true
}

func (p *packer) regular(ctx context.Context, dir int, base string, hdr *tar.Header, st *unix.Stat_t) error {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return err
	}
	if now.Ino != st.Ino || now.Dev != st.Dev || now.Size != st.Size {
		return fmt.Errorf("it changes while it is packed: %w", errdefs.ErrFailedPrecondition)
	}
	hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
	whiteout, err := p.attrs.take(fd, hdr)
	if err != nil {
		return err
	}
	if whiteout {
		delete(p.links, inode{st.Dev, st.Ino})
		return p.whiteoutOf(hdr.Name)
	}
	if err := p.tw.WriteHeader(hdr); err != nil {
		return err
	}
	for left := st.Size; left > 0; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := unix.Read(fd, p.buf[:min(left, int64(len(p.buf)))])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("it changes while it is packed: %w", errdefs.ErrFailedPrecondition)
		}
		if _, err := p.tw.Write(p.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return setTimes(dir, base, hdr.ModTime, st)
}

// whiteoutOf writes that the layers below shall not have name. A removal has
// no time.
func (p *packer) whiteoutOf(name string) error {
	dir, base := path.Split(name)
	return p.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: dir + WhiteoutPrefix + base})
}

// header has what all entries have. The format is left to the writer, which
// takes PAX only for what ustar has no room for.
func (p *packer) header(name string, st *unix.Stat_t) *tar.Header {
	return &tar.Header{
		Name:    name,
		Mode:    int64(st.Mode & 0o7777),
		Uid:     int(st.Uid),
		Gid:     int(st.Gid),
		ModTime: time.Unix(min(st.Mtim.Sec, p.epoch), 0),
	}
}

// setTimes gives a file of the folder the time that its entry has, unless st
// says that it has it. An empty base means dir itself.
func setTimes(dir int, base string, at time.Time, st *unix.Stat_t) error {
	ts := unix.Timespec{Sec: at.Unix()}
	if st != nil && st.Mtim == ts {
		return nil
	}
	if base == "" {
		base = "." // of a directory that is open, and so itself
	}
	if err := unix.UtimesNanoAt(dir, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

func readLink(dir int, base string) (string, error) {
	buf := make([]byte, maxPath+1)
	n, err := unix.Readlinkat(dir, base, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func entryError(name string, err error) error {
	return fmt.Errorf("entry %q: %w", name, err)
}
