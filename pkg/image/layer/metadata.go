package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// applyWhiteout makes what base, a name that starts with ".wh.", asks for.
func (x *extractor) applyWhiteout(dir int, base string) error {
	if base == WhiteoutOpaque {
		return setOpaque(dir)
	}
	if strings.HasPrefix(base, WhiteoutMeta) {
		return nil
	}
	name := strings.TrimPrefix(base, WhiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("whiteout of %q: %w", name, errdefs.ErrInvalidArgument)
	}
	err := x.whiteout(dir, name)
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
	return setOpaque(fd)
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
func setOpaque(dir int) error {
	if err := unix.Fsetxattr(dir, xattrOpaque, []byte("y"), 0); err != nil {
		return fmt.Errorf("set xattr %s: %w", xattrOpaque, err)
	}
	return nil
}

// dirMeta gives a directory its owner, mode and xattrs now, its mtime later.
func (x *extractor) dirMeta(fd int, name string, hdr *tar.Header, own ids) error {
	if err := fileMeta(fd, hdr, own); err != nil {
		return err
	}
	x.dirs = append(x.dirs, dirTime{name, mtime(hdr)})
	return nil
}

// fileMeta sets the owner first: chown(2) clears setuid bits and file
// capabilities. What is as it should be already is left alone: each change of
// an inode goes through the file system's journal.
func fileMeta(fd int, hdr *tar.Header, own ids) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	chown := int(st.Uid) != own.uid || int(st.Gid) != own.gid
	if chown {
		if err := unix.Fchown(fd, own.uid, own.gid); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
	}
	if mode := uint32(hdr.Mode) & 0o7777; chown || st.Mode&0o7777 != mode {
		if err := unix.Fchmod(fd, mode); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || !allowedXattr(name) {
			continue
		}
		err := unix.Fsetxattr(fd, name, []byte(value), 0)
		// A file system without user xattrs (an old tmpfs) costs nothing but those.
		if err != nil && !(errors.Is(err, unix.EOPNOTSUPP) && strings.HasPrefix(name, "user.")) {
			return fmt.Errorf("set xattr %s: %w", name, err)
		}
	}
	return nil
}

// nodeMeta is for nodes that cannot be opened for this: symlinks and FIFOs.
func nodeMeta(dir int, base string, hdr *tar.Header, own ids) error {
	if err := unix.Fchownat(dir, base, own.uid, own.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if hdr.Typeflag != tar.TypeSymlink { // symlinks have no mode
		// Follows symlinks, but base was made a moment ago, and is none.
		if err := unix.Fchmodat(dir, base, uint32(hdr.Mode)&0o7777, 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	return setTime(dir, base, mtime(hdr))
}

func mtime(hdr *tar.Header) unix.Timespec {
	if hdr.ModTime.IsZero() {
		return unix.Timespec{}
	}
	return unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
}

// setTime sets the access time too: a layer's content has one time only.
func setTime(dir int, base string, at unix.Timespec) error {
	if err := unix.UtimesNanoAt(dir, base, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

func (x *extractor) setDirTime(d dirTime) error {
	if d.path == "." {
		return setTime(x.root, ".", d.mtime)
	}
	up, base := path.Split(d.path)
	dir, err := x.openParent(path.Clean("./" + up))
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOENT) {
		return nil // replaced by a later entry
	}
	if err != nil {
		return err
	}
	err = setTime(dir, base, d.mtime)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
