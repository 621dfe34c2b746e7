package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// explained adds to a failed mount's errno what it means here. overlayfs
// answers nearly everything with EINVAL and tells the reason to dmesg only.
func explained(err error, target string, lower []string, upper, work string) error {
	if err == nil {
		return nil
	}
	if why := reason(err, target, lower, upper, work); why != "" {
		return fmt.Errorf("mount overlay %s: %s: %w", target, why, err)
	}
	return fmt.Errorf("mount overlay %s: %w", target, err)
}

func reason(err error, target string, lower []string, upper, work string) string {
	switch {
	case errors.Is(err, unix.ENODEV):
		return "this kernel has no overlayfs (modprobe overlay)"
	case errors.Is(err, unix.EPERM):
		return "mounting needs CAP_SYS_ADMIN"
	case errors.Is(err, unix.EBUSY):
		return "upperdir or workdir is in use by another overlay"
	case errors.Is(err, unix.ELOOP):
		return "one of the directories lies within another, or file systems are stacked too deep"
	}
	dirs := append([]string{target}, lower...)
	if upper != "" {
		dirs = append(dirs, upper, work)
	}
	for _, dir := range dirs {
		var st unix.Stat_t
		if serr := unix.Stat(dir, &st); serr != nil {
			return fmt.Sprintf("%s: %v", dir, serr)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return dir + " is not a directory"
		}
	}
	if upper == "" {
		if len(lower) == 1 {
			return "without an upper directory overlayfs needs two lower ones"
		}
		return ""
	}
	if name := unfitForUpper(upper); name != "" {
		return fmt.Sprintf("upperdir %s is on %s, which cannot hold the upper layer of an overlay; ext4, xfs, btrfs and tmpfs can", upper, name)
	}
	var a, b unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, upper, 0, unix.STATX_MNT_ID, &a) == nil &&
		unix.Statx(unix.AT_FDCWD, work, 0, unix.STATX_MNT_ID, &b) == nil && a.Mnt_id != b.Mnt_id {
		return "upperdir and workdir are on different mounts"
	}
	if within(upper, work) || within(work, upper) {
		return "upperdir and workdir lie within each other"
	}
	if _, err := os.Lstat(work + "/work/incompat/volatile"); err == nil {
		return "upperdir was mounted volatile before and may be incomplete: it cannot be used again"
	}
	return ""
}

func within(a, b string) bool {
	return a == b || strings.HasPrefix(a, strings.TrimSuffix(b, "/")+"/")
}

// unfitForUpper names dir's file system when overlayfs refuses it as upper:
// one that lacks trusted xattrs or whiteouts, or decides about names itself.
func unfitForUpper(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return ""
	}
	switch st.Type {
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs itself (a container's own root file system?)"
	case unix.NFS_SUPER_MAGIC:
		return "NFS"
	case unix.FUSE_SUPER_MAGIC:
		return "FUSE"
	case unix.MSDOS_SUPER_MAGIC:
		return "FAT"
	case unix.V9FS_MAGIC:
		return "9p"
	case unix.ECRYPTFS_SUPER_MAGIC:
		return "eCryptfs"
	case unix.SQUASHFS_MAGIC:
		return "squashfs, which is read-only"
	case 0x00c0ffee: // HOSTFS_SUPER_MAGIC, fs/hostfs/hostfs_kern.c
		return "hostfs (user-mode Linux)"
	case 0x786f4256: // VBOXSF_SUPER_MAGIC, fs/vboxsf/super.c
		return "vboxsf (a VirtualBox shared folder)"
	}
	return ""
}
