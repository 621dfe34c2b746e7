package daemon

import (
	"syscall"
	"unsafe"
)

// setCredentials lists the system calls that give the calling thread other
// credentials, in the order in which they are allowed.
func setCredentials(uid, gid int, groups []uint32, first *uint32) [][4]uintptr {
	keep := ^uintptr(0)
	return [][4]uintptr{
		{syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(first)), 0},
		{syscall.SYS_SETRESGID, keep, uintptr(gid), keep},
		{syscall.SYS_SETRESUID, keep, uintptr(uid), keep},
	}
}
