package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/runtime"
)

// dial connects to a unix stream socket.
func dial(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("connect %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// terminal connects the caller's own terminal with the container's, for run
// and exec in the foreground without a console socket.
type terminal struct {
	socket *os.File // the container's master arrives here
	master *os.File
	saved  *unix.Termios
	output sync.WaitGroup
}

// ownTerminal gives io a console, unless the caller has named a socket for it. It is
// used only if the process has a terminal.
func ownTerminal(io *runtime.IO, detach bool) (*terminal, error) {
	t := &terminal{}
	if io.Console != nil || detach {
		return t, nil
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	t.socket, io.Console = os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console")
	// Left to the caller's terminal, if that is what the output goes to.
	io.KeepNewlines = true
	return t, nil
}

// Connect takes the container's master, if one was sent, and copies between it
// and the caller's standard streams.
func (t *terminal) Connect() error {
	if t.socket == nil {
		return nil
	}
	buf, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(t.socket.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if errors.Is(err, unix.EAGAIN) || err == nil && n == 0 {
		return nil // a process without a terminal
	}
	if err != nil {
		return fmt.Errorf("receive the terminal: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return err
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that Close ends the copying
		return err
	}
	t.master = os.NewFile(uintptr(fds[0]), "/dev/ptmx")
	t.raw()
	t.Resize()
	go func() { _, _ = io.Copy(t.master, os.Stdin) }()
	t.output.Add(1)
	go func() {
		defer t.output.Done()
		_, _ = io.Copy(os.Stdout, t.master) // ends with EIO when the last slave is closed
	}()
	return nil
}

// raw leaves line editing and signals of the caller's terminal to the container's.
func (t *terminal) raw() {
	saved, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	if err != nil {
		return // not a terminal
	}
	raw := *saved
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, &raw) == nil {
		t.saved = saved
	}
}

// Resize gives the container's terminal the size of the caller's.
func (t *terminal) Resize() {
	if t.master == nil {
		return
	}
	if size, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, size)
	}
}

// Drain waits until all output is copied.
func (t *terminal) Drain() { t.output.Wait() }

// Close restores the caller's terminal.
func (t *terminal) Close() {
	if t.saved != nil {
		_ = unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, t.saved)
	}
	for _, f := range []*os.File{t.master, t.socket} {
		if f != nil {
			_ = f.Close()
		}
	}
}
