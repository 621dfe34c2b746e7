package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// engines measures a container with a network from the command line to its
// end, through each engine's daemon, and the daemons' memory.
func engines(tmp string, n int) error {
	if n == 0 {
		n = 30
	}
	undo, err := privateState(tmp)
	if err != nil {
		return err
	}
	defer undo()
	sandbox, stop, err := daemon("bin/sandbox status", "bin/sandbox", "daemon")
	if err != nil {
		return err
	}
	defer stop()
	if out, err := exec.Command("bin/sandbox", "up", "--only", "internals").CombinedOutput(); err != nil {
		return fmt.Errorf("sandbox up: %w: %s", err, out)
	}
	docker, stop, err := daemon("docker version", "dockerd")
	if err != nil {
		return err
	}
	// dockerd leaves its parent cgroups behind; rmdir spares any in use.
	defer func() {
		stop()
		removeCgroups("docker")
	}()
	if err := importImage(tmp); err != nil {
		return err
	}

	start := []*competitor{
		{name: "sandbox version", argv: fixed("bin/sandbox", "version")},
		{name: "docker --version", argv: fixed("docker", "--version")},
		{name: "busybox true", argv: fixed("busybox", "true")},
	}
	if err := race(5*n, start); err != nil {
		return err
	}
	table("Command line: start to exit", start)

	run := []*competitor{
		{name: "sandbox run --rm", argv: fixed("bin/sandbox", "run", "--rm", "toolbox", "true")},
		{name: "docker run --rm", argv: fixed("docker", "run", "--rm", "sandbox-bench", "true")},
	}
	if err := race(n, run); err != nil {
		return err
	}
	table("Engine: a container with network, removed at its end", run)

	fmt.Printf("\nDaemon: resident memory after %d containers\n\n| | VmRSS |\n|---|--:|\n", n)
	for _, d := range []struct {
		name string
		pids []int
	}{
		{"sandbox daemon", []int{sandbox}},
		{"dockerd and its containerd", append(children(docker), docker)},
	} {
		var sum int
		for _, pid := range d.pids {
			kib, err := resident(pid)
			if err != nil {
				return err
			}
			sum += kib
		}
		fmt.Printf("| %s | %.1f MB |\n", d.name, float64(sum)*1024/1e6)
	}
	return nil
}

// privateState gives this mount namespace empty state folders, all on one disk,
// and an empty /run. The mounts end with the namespace; undo unmounts the folders,
// so that what is in them can be removed.
func privateState(tmp string) (undo func(), err error) {
	var mounted []string
	undo = func() {
		for _, dir := range mounted {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	for _, dir := range []string{"/var/lib/sandbox", "/var/lib/docker", "/var/lib/containerd"} {
		source := filepath.Join(tmp, filepath.Base(dir))
		for _, d := range []string{source, dir} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return undo, err
			}
		}
		if err := unix.Mount(source, dir, "", unix.MS_BIND, ""); err != nil {
			return undo, fmt.Errorf("bind %s: %w", dir, err)
		}
		mounted = append(mounted, dir)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return undo, fmt.Errorf("mount tmpfs on /run: %w", err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return undo, fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	return undo, nil
}

// removeCgroups removes the parent cgroups that a daemon leaves behind; rmdir
// spares any in use.
func removeCgroups(name string) {
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	for _, dir := range append(parents, "/sys/fs/cgroup/"+name) {
		for _, child := range []string{"buildkit", ""} {
			_ = unix.Rmdir(filepath.Join(dir, child))
		}
	}
}

// daemon starts a daemon and waits until the probe command succeeds. stop ends
// it with SIGTERM and waits for it.
func daemon(probe string, argv ...string) (pid int, stop func(), err error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the log says more
		close(ended)
	}()
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(15 * time.Second):
			_ = cmd.Process.Kill()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ask := strings.Fields(probe)
	for {
		if exec.CommandContext(ctx, ask[0], ask[1:]...).Run() == nil {
			return cmd.Process.Pid, stop, nil
		}
		select {
		case <-ended:
			return 0, nil, fmt.Errorf("%s ended: %s", strings.Join(argv, " "), log.String())
		case <-ctx.Done():
			stop()
			return 0, nil, fmt.Errorf("%s does not answer: %s", strings.Join(argv, " "), log.String())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// importImage gives docker an image that is one static program, as small as
// the toolbox that sandbox runs.
func importImage(tmp string) error {
	root := filepath.Join(tmp, "image")
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		return err
	}
	if err := copyProgram("busybox", filepath.Join(root, "bin", "true")); err != nil {
		return err
	}
	archive := filepath.Join(tmp, "image.tar")
	if out, err := exec.Command("tar", "-cf", archive, "-C", root, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	if out, err := exec.Command("docker", "import", archive, "sandbox-bench").CombinedOutput(); err != nil {
		return fmt.Errorf("docker import: %w: %s", err, out)
	}
	return nil
}

// resident returns a process's VmRSS in KiB; see proc_pid_status(5).
func resident(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.Atoi(strings.Fields(value)[0])
		}
	}
	return 0, fmt.Errorf("no VmRSS in the status of process %d", pid)
}

// children returns the processes that pid has started and that still run.
func children(pid int) []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// PID (comm) state PPID …, and comm may hold anything.
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, child)
		}
	}
	return pids
}
