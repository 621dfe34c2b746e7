package images_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// need skips a test on a machine that lacks a program, or root.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts daemons, which takes long")
	}
	if os.Geteuid() != 0 {
		t.Skip("daemons of containers need root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
}

// home makes the folder of a daemon of this test's own. What the daemon names
// after the folder, such as its parent cgroup, is searched for when all has ended.
func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(dockertest.RemoveCgroups(filepath.Base(dir)), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
		for _, left := range leftOf(t, dir) {
			t.Error("left behind:", left)
		}
	})
	return dir
}

// leftOf lists what there still is of a daemon whose folder was dir: processes
// and mounts that name it, and its cgroups.
func leftOf(t *testing.T, dir string) (left []string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range processes {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), dir) {
			left = append(left, "process "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return append(left, dockertest.Cgroups(filepath.Base(dir))...)
}

// daemon is another program's daemon, which ends with the test, or with the
// process that runs it.
type daemon struct {
	cmd   *exec.Cmd
	ended chan struct{}
	mu    sync.Mutex
	log   strings.Builder
}

// Write takes up what the daemon logs.
func (d *daemon) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(b)
}

// startDaemon starts argv in the network p, nil being the host's, and in a
// mount namespace of its own, with which its mounts end. It returns when ready
// says so.
func startDaemon(t *testing.T, p *pocket, ready func(context.Context) error, argv ...string) *daemon {
	t.Helper()
	if p != nil {
		argv = append([]string{"nsenter", "--net=" + nsPath(p.ns)}, argv...)
	}
	d := &daemon{cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.WaitDelay = d, d, time.Second
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGTERM}
	started := make(chan error)
	go func() {
		// The death signal is sent when the thread ends that started it, not
		// the process: keep that thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- d.cmd.Start()
		<-d.ended
	}()
	if err := <-started; err != nil {
		close(d.ended)
		t.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait() // the log says more
		close(d.ended)
	}()
	t.Cleanup(func() { d.stop(t) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return d
		}
		select {
		case <-d.ended:
			t.Fatalf("%s has ended", argv[0])
		case <-ctx.Done():
			t.Fatalf("%s does not answer: %v", argv[0], err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *daemon) stop(t *testing.T) {
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(30 * time.Second):
		t.Errorf("%s does not end", d.cmd.Args[0])
		_ = d.cmd.Process.Kill()
		<-d.ended
	}
	if t.Failed() {
		d.mu.Lock()
		defer d.mu.Unlock()
		log := d.log.String()
		t.Logf("the end of %s's log:\n%s", filepath.Base(d.cmd.Path), log[max(len(log)-8<<10, 0):])
	}
}

// nsPath is how other processes name a namespace that this one holds open.
func nsPath[FD ~int](fd FD) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) }
