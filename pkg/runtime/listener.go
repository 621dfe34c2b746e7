package runtime

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// forwardListener sends the seccomp notify descriptor to the agent that
// listens at linux.seccomp.listenerPath (config-linux.md, "The Container
// Process State").
func (cr *creation) forwardListener(fd int) error {
	if fd < 0 {
		return fmt.Errorf("seccomp: the first process sent no listener")
	}
	defer unix.Close(fd)
	s := cr.spec.Linux.Seccomp
	state, err := json.Marshal(specs.ContainerProcessState{
		Version: SpecVersion, Fds: []string{specs.SeccompFdName}, Pid: cr.PID,
		Metadata: s.ListenerMetadata, State: *cr.state(specs.StateCreating),
	})
	if err != nil {
		return err
	}
	if err := sendTo(s.ListenerPath, state, fd); err != nil {
		return fmt.Errorf("linux.seccomp.listenerPath: %w", err)
	}
	return nil
}

// sendPIDFD sends p's pidfd to the unix socket at path, if there is one to send it to:
// unlike a PID it can never come to mean another process.
func sendPIDFD(path string, p *script.Process) error {
	if path == "" {
		return nil
	}
	if err := sendTo(path, []byte("pidfd"), p.PIDFD); err != nil {
		return fmt.Errorf("--pidfd-socket: %w", err)
	}
	return nil
}

// sendTo sends message, and with it the descriptor fd, to the unix socket at path.
func sendTo(path string, message []byte, fd int) error {
	sock, err := connect(path)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	if err := unix.Sendmsg(sock, message, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("send to %s: %w", path, err)
	}
	return nil
}

// connect connects to a unix stream socket.
func connect(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect %s: %w", path, err)
	}
	return fd, nil
}
