package shim

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
	"github.com/sandboxlabs/sandbox/pkg/runtime"
)

// process is a process of the container that this shim has started, with our
// ends of its standard streams.
type process struct {
	pid int
	tty bool
	log *containerLog // nil for exec

	stdin   *os.File // nil: it reads /dev/null. A terminal's master, if tty.
	outputs []output
	out     broadcast
	copying sync.WaitGroup

	ended  chan struct{} // closed when status is set
	status unix.WaitStatus
	at     time.Time
}

type output struct {
	stream protocol.Type
	f      *os.File
}

// newPipe returns a pipe of which only our end is non-blocking: O_NONBLOCK
// belongs to the open file, and a program that inherits it would break.
func newPipe(ours int) (r, w *os.File, err error) {
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	if err := unix.SetNonblock(fd[ours], true); err != nil {
		_ = unix.Close(fd[0])
		_ = unix.Close(fd[1])
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	return os.NewFile(uintptr(fd[0]), "pipe"), os.NewFile(uintptr(fd[1]), "pipe"), nil
}

// streams say what a process's standard streams are connected to.
type streams struct {
	tty, stdin bool
	log        *containerLog // nil for exec
	client     *session      // the one that is there from the start, or nil
}

// spawn gives fn the other ends of new streams and has it make a process with
// them.
func (s *shim) spawn(o streams, fn func(runtime.IO) (*runtime.Process, error)) (_ *process, err error) {
	p := &process{tty: o.tty, log: o.log, ended: make(chan struct{})}
	if o.client != nil {
		p.out.add(o.client)
	}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
		if err != nil {
			p.closeStreams()
		}
	}()

	var io runtime.IO
	var console int
	if o.tty {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("socketpair: %w", err)
		}
		console = fds[0]
		defer unix.Close(console)
		io.Console = os.NewFile(uintptr(fds[1]), "console")
		theirs = append(theirs, io.Console)
		// Until the terminal takes their place, 0, 1 and 2 are not free to
		// become other descriptors.
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		io.Stdin, io.Stdout, io.Stderr = null, null, null
		theirs = append(theirs, null)
	} else {
		for _, o := range []struct {
			stream protocol.Type
			end    **os.File
		}{{protocol.Stdout, &io.Stdout}, {protocol.Stderr, &io.Stderr}} {
			r, w, err := newPipe(0)
			if err != nil {
				return nil, err
			}
			p.outputs = append(p.outputs, output{o.stream, r})
			*o.end = w
			theirs = append(theirs, w)
		}
		if o.stdin {
			r, w, err := newPipe(1)
			if err != nil {
				return nil, err
			}
			p.stdin, io.Stdin = w, r
		} else if io.Stdin, err = os.Open(os.DevNull); err != nil {
			return nil, err
		}
		theirs = append(theirs, io.Stdin)
	}

	status, err := s.reaper.call(func() (int, error) {
		rp, err := fn(io)
		if err != nil {
			return 0, err
		}
		p.pid = rp.PID
		return rp.PID, nil
	})
	if err != nil {
		return nil, err
	}
	go p.waitStatus(status)
	if o.tty {
		master, err := receiveMaster(console)
		if err != nil {
			_ = s.reaper.signal(p.pid, unix.SIGKILL)
			return nil, err
		}
		p.outputs = []output{{protocol.Stdout, master}}
		p.stdin = master
	}
	for _, o := range p.outputs {
		p.copying.Add(1)
		go p.copy(o)
	}
	return p, nil
}

func (p *process) waitStatus(status <-chan unix.WaitStatus) {
	p.status = <-status
	p.at = time.Now().UTC()
	p.out.release()
	close(p.ended)
}

// receiveMaster takes the terminal's master out of the message that the runtime
// has put on the console socket (runc's console-socket convention).
func receiveMaster(socket int) (*os.File, error) {
	data, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, data, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.New("receive terminal: no descriptor came with the message")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("receive terminal: one descriptor was expected")
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		_ = unix.Close(fds[0])
		return nil, fmt.Errorf("set terminal non-blocking: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "ptmx"), nil
}

// copy passes one stream on until its end. For a terminal that is EIO: no
// process has the other side open.
func (p *process) copy(o output) {
	defer p.copying.Done()
	buf := make([]byte, 32<<10)
	for {
		n, err := o.f.Read(buf)
		if n > 0 {
			if p.log != nil {
				p.log.Write(o.stream, buf[:n])
			}
			p.out.write(o.stream, buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// input takes frames from a client until it goes away.
func (p *process) input(conn *protocol.Conn) {
	buf := make([]byte, 4096)
	for {
		t, n, err := conn.ReadHeader()
		if err != nil {
			return
		}
		switch t {
		case protocol.CloseStdin:
			// A terminal has no end of file; ^D is a character.
			if !p.tty && p.stdin != nil {
				_ = p.stdin.Close()
			}
		case protocol.Stdin:
			for n > 0 {
				m, err := conn.Read(buf[:min(n, len(buf))])
				if err != nil {
					return
				}
				n -= m
				if p.stdin != nil {
					// A process that has closed its stdin does not
					// care; the client will learn from its exit.
					_, _ = p.stdin.Write(buf[:m])
				}
			}
		default:
			return
		}
	}
}

func (p *process) resize(rows, cols uint16) error {
	if !p.tty {
		return nil
	}
	raw, err := p.stdin.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = raw.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	return errors.Join(err, ierr)
}

// closeStreams closes our ends.
func (p *process) closeStreams() {
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
	for _, o := range p.outputs {
		_ = o.f.Close()
	}
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// code is the exit code as shells count it: 128+N after signal N.
func code(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}
