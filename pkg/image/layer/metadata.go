package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

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
	dir, err := x.lookParent(path.Clean("./" + up))
	if x.replaced && err == nil {
		var st unix.Stat_t
		err = unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = unix.ENOTDIR
		}
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		return nil // replaced by a later entry
	}
	if err != nil {
		return err
	}
	return setTime(dir, base, d.mtime)
}
