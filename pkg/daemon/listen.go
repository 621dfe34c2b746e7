package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lock makes this the only daemon of its state: it holds a flock(2) on path,
// with our PID in it, until the file that it returns is closed. The kernel
// lets go of it however the daemon dies.
func lock(path string) (*os.File, error) {
	for begun := time.Now(); ; {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open the daemon's lock: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if !errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("lock %s: %w", path, err)
			}
			pid := holder(path)
			if gone(pid) && time.Since(begun) < childTimeout {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			return nil, fmt.Errorf("another sandbox daemon is running (PID %s)", pid)
		}
		// A daemon that ended after a purge has removed the file between our
		// open and our lock: what we hold is then no longer at path.
		held, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		if there, err := os.Stat(path); err != nil || !os.SameFile(held, there) {
			f.Close()
			continue
		}
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("write our PID to %s: %w", path, err)
		}
		return f, nil
	}
}

// childTimeout bounds how long the lock of a daemon that was killed can live on
// in a child that it was starting: until that executes its program.
const childTimeout = 3 * time.Second

// gone reports whether the process that has written its PID is no more.
func gone(pid string) bool {
	n, err := strconv.Atoi(pid)
	return err == nil && n > 0 && errors.Is(unix.Kill(n, 0), unix.ESRCH)
}

// holder reads the PID of the daemon that holds the lock. It may have taken
// the lock only just now, and not have written its PID yet.
func holder(path string) string {
	for range 20 {
		b, err := os.ReadFile(path)
		if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
			return pid
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "unknown"
}

// groupID looks a group up; -1 if there is none of this name, and then the
// socket is root's alone.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	g, err := user.LookupGroup(name)
	if _, ok := errors.AsType[user.UnknownGroupError](err); ok {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("look up the group %s: %w", name, err)
	}
	return strconv.Atoi(g.Gid)
}

// listen makes the socket, replacing one that a killed daemon has left: we
// hold the lock, so nobody listens on it. Under systemd's socket activation
// (sd_listen_fds(3)) the socket is handed to us instead, and is not ours to
// remove at the end.
func listen(path string, gid int) (l *net.UnixListener, ours bool, err error) {
	if pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID")); pid == os.Getpid() && os.Getenv("LISTEN_FDS") == "1" {
		l, err = inherit()
		return l, false, err
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() != fs.ModeSocket {
		return nil, false, fmt.Errorf("%s is in the way: it is not a socket", path)
	}
	// Made under another name and moved into place when its owner and mode are
	// right, so that there is no moment at which they are wrong.
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, false, err
	}
	l.SetUnlinkOnClose(false) // it would remove tmp; Run removes the socket
	mode := fs.FileMode(0o600)
	if gid >= 0 {
		mode = 0o660
		err = os.Chown(tmp, os.Geteuid(), gid)
	}
	if err == nil {
		err = os.Chmod(tmp, mode)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		return nil, false, errors.Join(err, os.Remove(tmp))
	}
	return l, true, nil
}

// inherit takes file descriptor 3, the first that systemd passes.
func inherit() (*net.UnixListener, error) {
	f := os.NewFile(3, "LISTEN_FDS")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("socket passed by systemd: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("socket passed by systemd: %s is not a unix socket", l.Addr().Network())
	}
	return ul, nil
}

// notify tells systemd, if it started us as Type=notify, how we are
// (sd_notify(3)). An address that begins with @ is in the abstract namespace.
func notify(socket, state string) error {
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}

// peer is who is at the other end of a connection.
type peer struct {
	pid    int
	uid    uint32
	groups []uint32 // the effective one first
}

// peerOf asks the kernel who connected (SO_PEERCRED and SO_PEERGROUPS, unix(7)
// and socket(7)): the credentials are those at the time of connect(2), of the
// process, not of what /etc/group says now.
func peerOf(conn *net.UnixConn) (peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var p peer
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); sockErr != nil {
			return
		}
		p.pid, p.uid, p.groups = int(cred.Pid), cred.Uid, []uint32{cred.Gid}
		var more []uint32
		more, sockErr = peerGroups(fd)
		p.groups = append(p.groups, more...)
	})
	if err := errors.Join(err, sockErr); err != nil {
		return peer{}, fmt.Errorf("credentials of the peer: %w", err)
	}
	return p, nil
}

// mayUse reports whether the peer may use the API.
func (p peer) mayUse(gid int) bool {
	if p.uid == 0 || p.uid == uint32(os.Geteuid()) {
		return true
	}
	if gid < 0 {
		return false
	}
	for _, g := range p.groups {
		if g == uint32(gid) {
			return true
		}
	}
	return false
}

// hangup returns when the peer of conn has closed both directions, or conn is
// closed here. A peer that only ended its writing is not yet gone: the kernel
// then reports POLLRDHUP without POLLHUP.
func hangup(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var pollErr error
	// Read calls back now and whenever the descriptor's readiness has changed,
	// and parks the goroutine in between.
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: 0}}
		for {
			if _, pollErr = unix.Poll(fds, 0); pollErr != syscall.EINTR {
				break
			}
		}
		return pollErr != nil || fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
	})
	return errors.Join(err, pollErr)
}
