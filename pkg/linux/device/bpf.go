package device

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The members of union bpf_attr (linux/bpf.h), one struct for each command.
// Addresses are numbers there: what they point to must be pinned.

type progLoadAttr struct {
	kind, count   uint32
	instructions  uint64
	license       uint64
	logLevel      uint32
	logSize       uint32
	log           uint64
	kernelVersion uint32
	flags         uint32
	name          [16]byte
}

type progAttach struct {
	target, program, kind, flags, replace uint32
}

type progGet struct{ id uint32 }

// progQuery goes as far as the field that Linux 6.17 to 7.1 write without having
// been given room for it.
type progQuery struct {
	target, kind, query, flags uint32
	ids                        uint64
	count, _                   uint32
	idFlags, links, linkFlags  uint64
	revision                   uint64
}

type objectInfo struct {
	fd, size uint32
	info     uint64
}

// progInfo is the first part of struct bpf_prog_info.
type progInfo struct {
	_    [64]byte
	name [16]byte
}

// progLoad loads a device program and returns a descriptor of it. The kernel's
// verifier has then checked that it ends and reads nothing that it may not.
func progLoad(program []Instruction, name string) (fd int, err error) {
	license := []byte("Apache-2.0\x00")
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&program[0])
	pin.Pin(&license[0])
	attr := progLoadAttr{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(program)),
		instructions: uint64(uintptr(unsafe.Pointer(&program[0]))),
		license:      uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	copy(attr.name[:], name)
	return bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// progName returns the name that a program was loaded with.
func progName(fd int) (string, error) {
	var info progInfo
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&info)
	attr := objectInfo{fd: uint32(fd), size: uint32(unsafe.Sizeof(info)), info: uint64(uintptr(unsafe.Pointer(&info)))}
	_, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return unix.ByteSliceToString(info.name[:]), err
}

// bpf makes the system call. Errors are errno values. Descriptors that it returns
// are close-on-exec.
func bpf(command uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for try := 0; ; try++ {
		n, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EAGAIN || try == 30 { // EAGAIN: a signal has interrupted the verifier
			return -1, errno
		}
	}
}
