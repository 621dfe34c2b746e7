// Package mount has the mount primitives that more than one package needs.
package mount

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// IDMap makes the detached mount tree (from open_tree(2) with
// OPEN_TREE_CLONE, not attached yet) show other owners: what is owned by
// ContainerID on disk appears owned by HostID. See mount_setattr(2),
// MOUNT_ATTR_IDMAP, Linux 5.12; the file system must support it (ext4 5.12,
// xfs 5.12, btrfs 5.15, tmpfs 6.3; overlayfs not), or the error is EINVAL.
//
// With recursive the mounts below are mapped, too.
func IDMap(tree int, userns *os.File, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(tree, "", flags, &unix.MountAttr{
		Attr_set:  unix.MOUNT_ATTR_IDMAP,
		Userns_fd: uint64(userns.Fd()),
	})
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("mount_setattr MOUNT_ATTR_IDMAP: the file system does not support ID-mapped mounts: %w", err)
	}
	if err != nil {
		return fmt.Errorf("mount_setattr MOUNT_ATTR_IDMAP: %w", err)
	}
	return nil
}

// UserNamespace returns a user namespace with these mappings and no process
// in it, to be used with IDMap. Closing the file ends it.
//
// The kernel makes user namespaces only together with a process or for one.
// Ours is a copy of this program that ptrace(2) stops before its first
// instruction, and that is killed as soon as its namespace is open.
func UserNamespace(uids, gids []syscall.SysProcIDMap) (*os.File, error) {
	var pidfd int
	child, err := os.StartProcess("/proc/self/exe", []string{"userns"}, &os.ProcAttr{
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: uids,
			GidMappings: gids,
			Ptrace:      true,
			Pdeathsig:   syscall.SIGKILL,
			PidFD:       &pidfd,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	unix.Close(pidfd) // os.Process has its own
	userns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", child.Pid))
	// A subreaper's own loop may have waited for it first.
	kill := child.Kill()
	if _, werr := child.Wait(); werr != nil && !errors.Is(werr, unix.ECHILD) {
		kill = errors.Join(kill, werr)
	}
	if err = errors.Join(err, kill); err != nil {
		if userns != nil {
			userns.Close()
		}
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	return userns, nil
}
