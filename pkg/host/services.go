package host

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
)

// Group is whose members may use the daemon's socket, and so are as good as
// root.
const Group = "sandbox"

func serviceChecks() []check {
	return []check{
		{
			name: "group " + Group, why: "its members may use sandbox without sudo; that makes them equal to root",
			look: func(_ context.Context, h *Host) finding {
				for line := range strings.Lines(read(h.Etc, "group") + "\n") {
					fields := strings.Split(strings.TrimSpace(line), ":")
					if len(fields) < 4 || fields[0] != Group {
						continue
					}
					if fields[3] == "" {
						return okf("there, without members")
					}
					return okf("members: %s", fields[3])
				}
				return warnf("missing: only root can use the socket")
			},
			fix: "groupadd --system " + Group + ", then usermod -aG " + Group + " USER for those who may", repair: addGroup,
		},
		{
			name: "systemd", why: "it starts the daemon again after a reboot",
			look: func(_ context.Context, h *Host) finding {
				if exists(h.Run, "systemd/system") {
					return okf("process 1: the daemon will be a unit")
				}
				return okf("not process 1 (%s is): up starts the daemon as a process of its own, and again after a reboot", read(h.Proc, "1/comm"))
			},
		},
		{
			name: "Docker", why: "not needed to run containers here; the cluster, monitoring and AWS run in it",
			look: lookDocker, fix: "start it: sudo systemctl start docker", repair: repairDocker,
		},
		{
			name: "containerd", why: "not needed to run containers here; the engine containerd is built on it",
			look: lookContainerd,
		},
	}
}

// lookContainerd only connects: more would take its gRPC client, which every
// start of the program would pay for.
func lookContainerd(ctx context.Context, h *Host) finding {
	socket := filepath.Join(h.Run, "containerd", "containerd.sock")
	for _, path := range []string{socket, filepath.Join(h.Run, "docker", "containerd", "containerd.sock")} {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			_ = conn.Close()
			return okf("answers at %s", path)
		case errors.Is(err, fs.ErrPermission):
			return okf("there is a socket that this user may not use: %s", path)
		case !errors.Is(err, fs.ErrNotExist):
			return okf("does not answer at %s", path)
		}
	}
	return okf("not running")
}
