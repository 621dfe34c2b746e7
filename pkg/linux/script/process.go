package script

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a script under way.
type Process struct {
	PID   int
	PIDFD int // pidfd_open(2)'s; -1 where the kernel has none
}

// Start clones a process that runs the script: files become its descriptors
// 0, 1, 2, …, where files[results] is the results file. attr's Cloneflags, CgroupFD
// and id mappings apply to the clone. The caller's thread is what the process
// inherits namespaces from.
func (s *Script) Start(files []*os.File, results int, attr *syscall.SysProcAttr) (*Process, error) {
	img, err := s.image(results)
	if err != nil {
		return nil, err
	}
	exe, err := seal(img)
	if err != nil {
		return nil, err
	}
	defer exe.Close()

	fds := make([]uintptr, 0, len(files)+1)
	for _, f := range files {
		if f == nil {
			fds = append(fds, ^uintptr(0))
			continue
		}
		fds = append(fds, f.Fd())
	}
	fds = append(fds, exe.Fd())
	p := &Process{PIDFD: -1}
	attr.PidFD = &p.PIDFD
	// The process holds the image as its last descriptor, at a number that
	// the shuffling of descriptors in the child cannot change.
	p.PID, _, err = syscall.StartProcess(fmt.Sprintf("/proc/self/fd/%d", len(fds)-1), []string{"init"},
		&syscall.ProcAttr{Files: fds, Env: []string{}, Sys: attr})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Close releases the pidfd.
func (p *Process) Close() error {
	if p.PIDFD < 0 {
		return nil
	}
	return unix.Close(p.PIDFD)
}

// seal puts img into an executable memory file that nobody can change any
// more, whoever gets at it by /proc/PID/exe; see memfd_create(2).
func seal(img []byte) (*os.File, error) {
	const mfdExec = 0x10 // Linux 6.3; older kernels refuse flags they do not know
	fd, err := unix.MemfdCreate("init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|mfdExec)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "init")
	if _, err := f.Write(img); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write init image: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS,
		unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("seal init image: %w", err)
	}
	return f, nil
}
