package protocol

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listener accepts connections to a shim.
type Listener struct {
	f   *os.File
	raw syscall.RawConn
}

// Listen binds a unix socket at path, which must not exist. Who may connect is
// the folder's matter: it is root's, with mode 0700.
func Listen(path string) (*Listener, error) {
	short, dir, err := shortPath(path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if dir != nil {
		defer dir.Close()
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: short}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	if err := unix.Listen(fd, 128); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &Listener{f, raw}, nil
}

// Accept waits for the next connection. After Close it returns os.ErrClosed.
func (l *Listener) Accept() (*Conn, error) {
	var fd int
	var err error
	werr := l.raw.Read(func(lfd uintptr) bool {
		fd, _, err = unix.Accept4(int(lfd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return !errors.Is(err, unix.EAGAIN)
	})
	if werr != nil {
		return nil, werr
	}
	if err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	return NewConn(fd)
}

// Close stops listening. It leaves the socket's file.
func (l *Listener) Close() error { return l.f.Close() }
