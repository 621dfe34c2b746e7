package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// warn tells what the host lacks.
func (r *Runtime) warn(messages ...string) {
	if r.Warn == nil {
		return
	}
	for _, m := range messages {
		r.Warn(m)
	}
}

// onThread runs f; when f changes the thread's namespaces, on a thread of its
// own, which ends with it.
func onThread(own bool, f func() error) error {
	if !own {
		return f()
	}
	done := make(chan error)
	go func() {
		goruntime.LockOSThread() // never unlocked: the runtime then ends the thread
		done <- f()
	}()
	return <-done
}

func idMappings(m []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(m))
	for i := range m {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m[i].ContainerID), HostID: int(m[i].HostID), Size: int(m[i].Size)}
	}
	return out
}

// cgroupName is the container's cgroup, relative to the cgroup file system's root.
// A path in systemd's form, slice:prefix:name, is mapped to where systemd would
// put the scope, without asking systemd.
func cgroupName(cgroupsPath, id string) (name, note string) {
	if cgroupsPath == "" {
		return "/" + id, ""
	}
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 || strings.ContainsRune(cgroupsPath, '/') {
		return path.Clean("/" + cgroupsPath), ""
	}
	slice, unit := parts[0], parts[2]
	if slice == "" {
		slice = "system.slice"
	}
	if !strings.HasSuffix(unit, ".slice") {
		unit = parts[1] + "-" + unit + ".scope"
	}
	// a-b-c.slice lies in a-b.slice, which lies in a.slice
	dir, prefix := "/", ""
	for _, s := range strings.Split(strings.TrimSuffix(slice, ".slice"), "-") {
		if s == "" {
			continue
		}
		prefix += s
		dir = path.Join(dir, prefix+".slice")
		prefix += "-"
	}
	return path.Join(dir, unit), "cgroup " + cgroupsPath + " is made in the cgroup file system, not through systemd"
}

// socketpair returns two connected stream sockets; the first is ours.
func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "sync"), os.NewFile(uintptr(fds[1]), "sync"), nil
}

// receive reads one byte, and the descriptor that may come with it (-1 if
// not). At the end of the stream the byte is 0.
func receive(f *os.File) (c byte, fd int, err error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(int(f.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECONNRESET), err == nil && n == 0:
			return 0, -1, nil
		case err != nil:
			return 0, -1, err
		}
		if oobn == 0 {
			return buf[0], -1, nil
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return 0, -1, err
		}
		for i := range msgs {
			if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil && len(fds) == 1 {
				return buf[0], fds[0], nil
			}
		}
		return buf[0], -1, nil
	}
}

// killAndReap ends a child of ours. Somebody else may have waited for it.
func killAndReap(pid int) error {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %d: %w", pid, err)
	}
	for {
		_, err := unix.Wait4(pid, nil, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil, errors.Is(err, unix.ECHILD):
			return nil
		default:
			return fmt.Errorf("wait for %d: %w", pid, err)
		}
	}
}

// writePIDFile replaces path with the PID in one step, as callers poll for it.
func writePIDFile(name string, pid int) error {
	tmp := path.Join(path.Dir(name), "."+path.Base(name))
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o644); err != nil { //nolint:gosec // for its readers
		return err
	}
	return os.Rename(tmp, name)
}

// setOOMScoreAdj tells the OOM killer how likely to choose pid; see proc(5).
func setOOMScoreAdj(pid, score int, trace *explain.Tracer) error {
	file := "/proc/" + strconv.Itoa(pid) + "/oom_score_adj"
	ev := explain.Event{
		Op: "write", Target: file, Value: strconv.Itoa(score), Source: "process.oomScoreAdj",
		Why: "how likely the OOM killer is to choose it: -1000 never, 1000 first",
	}
	return trace.Do(ev, func() error { return os.WriteFile(file, []byte(ev.Value), 0) })
}

// openFile is os.OpenFile for files that are not worth a place in Go's poller:
// six system calls less for each.
func openFile(name string, flags int, perm uint32) (*os.File, error) {
	for {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, perm)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		default:
			return os.NewFile(uintptr(fd), name), nil
		}
	}
}

// readFile is os.ReadFile by openFile.
func readFile(name string) ([]byte, error) {
	f, err := openFile(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// writeFile is os.WriteFile by openFile.
func writeFile(name string, data []byte) error {
	f, err := openFile(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
