package proxy

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// listener is one published TCP port on one address.
type listener struct {
	file   *os.File
	target addr

	mu     sync.Mutex
	closed bool
	conns  map[*os.File]bool // both sides of every connection
	wg     sync.WaitGroup
}

func (l *listener) serve() {
	defer l.wg.Wait()
	for {
		client, err := accept(l.file)
		switch {
		case err == nil:
			l.wg.Go(func() { l.forward(client) })
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			// The connection stays in the backlog: what is short may be
			// given back meanwhile.
			time.Sleep(50 * time.Millisecond)
		default:
			// accept(2): errors of the connection itself, such as
			// ECONNABORTED, are reported by accept; the next one may be fine.
		}
	}
}

// forward connects one client to the container, and passes bytes both ways
// until both sides have ended theirs.
func (l *listener) forward(client *os.File) {
	if !l.track(client) {
		return
	}
	defer l.untrack(client)
	server, err := connect(l.target)
	if err != nil {
		// Refused by the container: refuse the client as well, by a reset.
		_ = control(client, func(fd int) error {
			return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
		return
	}
	if !l.track(server) {
		return
	}
	defer l.untrack(server)
	var both sync.WaitGroup
	both.Go(func() { pass(server, client) })
	both.Go(func() { pass(client, server) })
	both.Wait()
}

// pass copies src to dst. An end of src is passed on as one, and the other
// direction stays open (half-close): `printf … | nc` gets its answer. A broken
// side ends both.
func pass(dst, src *os.File) {
	// Hidden behind plain interfaces: *os.File would try copy_file_range(2)
	// first, which sockets do not have.
	_, err := io.Copy(struct{ io.Writer }{dst}, struct{ io.Reader }{src})
	if err == nil {
		err = control(dst, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
	}
	if err != nil {
		_ = control(src, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
		_ = control(dst, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
	}
}

// track lets close end f too; when it has run already, f is closed.
func (l *listener) track(f *os.File) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		f.Close()
		return false
	}
	l.conns[f] = true
	return true
}

func (l *listener) untrack(f *os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, f)
	f.Close()
}

func (l *listener) close() error {
	l.mu.Lock()
	l.closed = true
	for f := range l.conns {
		f.Close()
	}
	l.mu.Unlock()
	return l.file.Close()
}

// accept waits for the next connection. When listener is closed, the error is
// os.ErrClosed.
func accept(listener *os.File) (*os.File, error) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var acceptErr error
	err = raw.Read(func(l uintptr) bool {
		fd, _, acceptErr = unix.Accept4(int(l), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return !errors.Is(acceptErr, unix.EAGAIN)
	})
	if err != nil {
		// The poller's own error, which nothing outside of it can name.
		return nil, os.ErrClosed
	}
	if acceptErr != nil {
		return nil, acceptErr
	}
	return newConn(fd, "client"), nil
}

// connect opens a TCP connection.
func connect(a addr) (*os.File, error) {
	fd, err := unix.Socket(a.family(), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, a.sockaddr()); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return nil, err
	}
	f := newConn(fd, "container")
	if err := f.SetWriteDeadline(time.Now().Add(connectTimeout)); err != nil {
		f.Close()
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	// connect(2): writable is when it has been decided; SO_ERROR says how.
	var connectErr error
	err = raw.Write(func(fd uintptr) bool {
		if errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
			connectErr = errors.Join(err, unix.Errno(errno))
			return true
		}
		_, err := unix.Getpeername(int(fd))
		return err == nil
	})
	if err = errors.Join(err, connectErr, f.SetWriteDeadline(time.Time{})); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// newConn wraps a connected, non-blocking socket. Dead peers are noticed by
// keep-alive, as neither side may ever send again.
func newConn(fd int, name string) *os.File {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return os.NewFile(uintptr(fd), name)
}

// control runs fn on f's descriptor; a closed file is an error.
func control(f *os.File, fn func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var fnErr error
	if err := raw.Control(func(fd uintptr) { fnErr = fn(int(fd)) }); err != nil {
		return err
	}
	return fnErr
}
