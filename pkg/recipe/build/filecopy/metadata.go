package filecopy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ownerOf is who a copy of st belongs to.
func (w *writer) ownerOf(st *unix.Stat_t) ids {
	switch {
	case w.owner != nil:
		return *w.owner
	case w.opts.KeepOwner:
		return ids{int(st.Uid), int(st.Gid)}
	}
	return ids{}
}

// metadata gives a file or a directory all but its time.
func (w *writer) metadata(to, from int, st *unix.Stat_t) error {
	if err := w.chmodown(to, st); err != nil {
		return err
	}
	attrs, err := xattrs(from)
	if err != nil {
		return err
	}
	for _, a := range attrs {
		err := unix.Fsetxattr(to, a.name, a.value, 0)
		// A file system without user xattrs (an old tmpfs) costs nothing but those.
		if err != nil && !(errors.Is(err, unix.EOPNOTSUPP) && strings.HasPrefix(a.name, "user.")) {
			return fmt.Errorf("set xattr %s: %w", a.name, err)
		}
	}
	return nil
}

// chmodown sets the owner first: chown(2) clears setuid bits.
func (w *writer) chmodown(to int, st *unix.Stat_t) error {
	own := w.ownerOf(st)
	if err := unix.Fchown(to, own.uid, own.gid); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if err := unix.Fchmod(to, w.mode.apply(st.Mode)); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	return nil
}

// nodeMetadata is for what cannot be opened for this: symlinks and FIFOs.
func (w *writer) nodeMetadata(at int, name string, e *entry) error {
	own := w.ownerOf(&e.st)
	if err := unix.Fchownat(at, name, own.uid, own.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if e.st.Mode&unix.S_IFMT != unix.S_IFLNK { // symlinks have no mode
		// Follows symlinks, but name was made a moment ago, and is none.
		if err := unix.Fchmodat(at, name, w.mode.apply(e.st.Mode), 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	return w.time(at, name, &e.st)
}

// time sets the source's mtime, or the epoch when that is earlier, of a file
// in the directory at, or with no name of at itself.
func (w *writer) time(at int, name string, st *unix.Stat_t) error {
	mtime := st.Mtim
	if epoch := w.opts.Epoch; !epoch.IsZero() {
		limit := unix.Timespec{Sec: epoch.Unix(), Nsec: int64(epoch.Nanosecond())}
		if mtime.Sec > limit.Sec || mtime.Sec == limit.Sec && mtime.Nsec > limit.Nsec {
			mtime = limit
		}
	}
	return setTime(at, name, mtime)
}

// setTime sets the access time too: a layer's content has one time only.
func setTime(at int, name string, t unix.Timespec) error {
	if err := unix.UtimesNanoAt(at, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

type xattr struct {
	name  string
	value []byte
}

// xattrs are those of an open file that an image has, sorted: file capabilities
// and what programs keep for themselves. All else belongs to the host.
func xattrs(fd int) ([]xattr, error) {
	var small [512]byte
	list, err := grow(small[:], func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list xattrs: %w", err)
	}
	var found []xattr
	for name := range bytes.SplitSeq(list, []byte{0}) {
		name := string(name)
		if !allowedXattr(name) {
			continue
		}
		value, err := grow(nil, func(buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue // it was removed a moment ago
		}
		if err != nil {
			return nil, fmt.Errorf("get xattr %s: %w", name, err)
		}
		found = append(found, xattr{name, value})
	}
	slices.SortFunc(found, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return found, nil
}

// allowedXattr is what layers may bring too; see the unpacking of images.
func allowedXattr(name string) bool {
	return name == "security.capability" ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// grow calls read with ever larger buffers until the answer fits.
func grow(buf []byte, read func([]byte) (int, error)) ([]byte, error) {
	if buf == nil {
		buf = make([]byte, 256)
	}
	for {
		n, err := read(buf)
		if err == nil {
			return buf[:n], nil
		}
		// 64 KiB is the most that xattr(7) allows for either.
		if !errors.Is(err, unix.ERANGE) || len(buf) > 64<<10 {
			return nil, err
		}
		buf = make([]byte, 4*len(buf))
	}
}
