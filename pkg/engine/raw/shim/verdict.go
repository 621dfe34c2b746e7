package shim

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
)

// Exit codes of a program that could not be executed, as shells give them.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

// verdict says how the container ended, and why. startErr is the error of a
// start that failed.
func (s *shim) verdict(startErr error) api.Exit {
	e := api.Exit{Code: code(s.init.status), At: s.init.at}
	switch {
	case startErr != nil:
		e.Message = startErr.Error()
		e.Code = codeNotExecutable
		if errors.Is(startErr, unix.ENOENT) {
			e.Code = codeNotFound
		}
		return e
	case s.init.status.Signaled():
		e.Message = "killed by signal " + unix.SignalName(s.init.status.Signal())
	}
	oom, err := s.oom()
	if err != nil {
		warn(err)
	}
	if oom == "" {
		return e
	}
	e.OOMKilled = true
	if e.Code == 128+int(unix.SIGKILL) {
		e.Message = "killed by the kernel: " + oom
	} else {
		e.Message = "a process in the container was killed by the kernel: " + oom
	}
	return e
}

// oom returns why the kernel has killed processes of the container for want of
// memory, or "" if it has not. The cgroup is as old as the container, so its
// counters are the container's alone.
func (s *shim) oom() (string, error) {
	cg, err := s.runtime(nil).OpenCgroup(s.opts.ID)
	if errdefs.IsFailedPrecondition(err) {
		return "", nil // a host without cgroup v2: create has warned of it
	}
	if err != nil {
		return "", fmt.Errorf("look for OOM kills: %w", err)
	}
	defer cg.Close()
	kills, err := cg.OOMKills()
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // no memory controller: create has warned of it
	}
	if err != nil || kills == 0 {
		return "", err
	}
	stats, err := cg.Stats()
	if err != nil {
		return "", err
	}
	if m := stats.Memory; m != nil && m.Events.OOM > 0 && m.Max != cgroup.Unlimited {
		return fmt.Sprintf("memory.max (%d bytes) was exceeded", m.Max), nil
	}
	return "the machine, or a cgroup above the container's, ran out of memory", nil
}
