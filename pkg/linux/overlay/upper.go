package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Mapping is the user namespace of a container: how the owners of files, as
// they are in image layers, appear on the host. The zero value maps nothing.
type Mapping struct {
	UIDs, GIDs []syscall.SysProcIDMap
}

// Prepare makes the directories upper and work for an overlay over lower (top
// first), whose parents exist. The root of an overlay has the mode, the owner
// and the times of its upper directory, so upper takes them over from the top
// layer, its owner mapped by m. Directories that are there already are kept.
func Prepare(lower []string, upper, work string, m Mapping) error {
	if len(lower) == 0 {
		return fmt.Errorf("prepare upperdir %s: no lower layers: %w", upper, unix.EINVAL)
	}
	var top unix.Stat_t
	if err := unix.Lstat(lower[0], &top); err != nil {
		return fmt.Errorf("prepare upperdir %s: stat %s: %w", upper, lower[0], err)
	}
	uid, err := mapID(int(top.Uid), m.UIDs)
	if err != nil {
		return fmt.Errorf("prepare upperdir %s: uid: %w", upper, err)
	}
	gid, err := mapID(int(top.Gid), m.GIDs)
	if err != nil {
		return fmt.Errorf("prepare upperdir %s: gid: %w", upper, err)
	}
	err = makeDir(upper, func(fd int) error {
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return err
		}
		if err := unix.Fchmod(fd, top.Mode&0o7777); err != nil {
			return err
		}
		return unix.Futimes(fd, []unix.Timeval{timeval(top.Atim), timeval(top.Mtim)})
	})
	if err != nil {
		return fmt.Errorf("prepare upperdir %s: %w", upper, err)
	}
	// overlayfs alone works in workdir, with the mounter's credentials.
	if err := makeDir(work, func(fd int) error { return unix.Fchmod(fd, 0o700) }); err != nil {
		return fmt.Errorf("prepare workdir %s: %w", work, err)
	}
	return nil
}

// Discard removes what Prepare made and the container wrote. It is no error
// when they are gone.
func Discard(upper, work string) error {
	// overlayfs leaves a directory of mode 0 in workdir, which root may enter.
	return errors.Join(os.RemoveAll(upper), os.RemoveAll(work))
}

// makeDir makes a directory and sets it up by fd, past the umask and without
// a path that somebody could exchange in between.
func makeDir(path string, setUp func(fd int) error) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", filepath.Dir(path), err)
	}
	defer unix.Close(parent)
	base := filepath.Base(path)
	err = unix.Mkdirat(parent, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setUp(fd)
}

// mapID is the host's ID for id in the container.
func mapID(id int, mappings []syscall.SysProcIDMap) (int, error) {
	if len(mappings) == 0 {
		return id, nil
	}
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + id - m.ContainerID, nil
		}
	}
	return 0, fmt.Errorf("%d is not in the user namespace's mapping: %w", id, unix.EINVAL)
}

func timeval(t unix.Timespec) unix.Timeval { return unix.NsecToTimeval(t.Nano()) }
