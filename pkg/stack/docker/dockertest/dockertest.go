// Package dockertest runs the tests of a package beside a Docker engine of
// their own, in namespaces that end with them: no link, rule, mount or process
// of theirs outlives them, and none is the host's.
package dockertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/client"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dirVar hands the folder of the tests' engine to the process inside.
const dirVar = "SANDBOX_DOCKERTEST_DIR"

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
)

// missing is why there is no engine.
var missing error

// Main is for TestMain: os.Exit(dockertest.Main(m)). args are dockerd's.
func Main(m *testing.M, args ...string) int {
	if dir := os.Getenv(dirVar); dir != "" {
		return inside(m, dir, args)
	}
	if missing = able(); missing != nil {
		return m.Run()
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "dockertest:", err)
		return 1
	}
	return code
}

// Host returns the address of the engine, and skips the test where there is
// none.
func Host(t testing.TB) string {
	t.Helper()
	if missing != nil {
		t.Skip(missing)
	}
	return socket(os.Getenv(dirVar))
}

// Client returns a client of the engine.
func Client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.NewClientWithOpts(client.WithHost(Host(t)), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Another starts a second engine, for the time of a test, and returns its
// address. It has no network, so that it does not disturb the first.
func Another(t testing.TB, args ...string) string {
	t.Helper()
	Host(t)
	dir, err := os.MkdirTemp("", "sbd")
	if err != nil {
		t.Fatal(err)
	}
	stop, err := start(dir, append([]string{"--bridge", "none", "--iptables=false"}, args...))
	t.Cleanup(func() {
		if err == nil {
			err = stop()
		}
		if err := errors.Join(err, removeMounts(dir+"/"), RemoveCgroups(filepath.Base(dir)), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return socket(dir)
}

func socket(dir string) string { return "unix://" + dir + "/docker.sock" }

func able() error {
	if os.Geteuid() != 0 {
		return errors.New("a Docker engine of one's own needs root")
	}
	for _, program := range []string{"dockerd", "containerd", "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	return nil
}

// outside runs this program again in namespaces of its own, and clears up
// after it.
func outside() (code int, err error) {
	dir, err := os.MkdirTemp("", "sbd")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, RemoveCgroups(filepath.Base(dir)), os.RemoveAll(dir)) }()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), dirVar+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// inside is process 1 of the namespaces: the kernel kills all others when it
// ends.
func inside(m *testing.M, dir string, args []string) int {
	err := boot()
	if err == nil {
		engine.stop, err = start(dir, args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dockertest:", err)
		return 1
	}
	engine.dir, engine.args = dir, args
	code := m.Run()
	if err := engine.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "dockertest:", err)
		return max(code, 1)
	}
	return code
}

// engine is the one that runs.
var engine struct {
	dir  string
	args []string
	stop func() error
}

// boot makes the namespaces' mounts and links what a machine has at its start.
func boot() error {
	if err := MountSysfs(); err != nil { // and makes all mounts private
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := mountRun(); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	return nil
}

// MountSysfs shows the links of this network namespace in /sys/class/net: a sysfs
// is that of the namespace in which it was mounted. The cgroups below it stay.
func MountSysfs() error {
	const sys, cgroups = "/sys", "/sys/fs/cgroup"
	aside, err := os.MkdirTemp("", "sbt")
	if err != nil {
		return err
	}
	defer os.Remove(aside)
	return errors.Join(
		unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
		unix.Mount(cgroups, aside, "", unix.MS_BIND|unix.MS_REC, ""),
		unix.Mount("sysfs", sys, "sysfs", 0, ""),
		unix.Mount(aside, cgroups, "", unix.MS_MOVE, ""),
	)
}

// mountRun has /run empty. What Docker and its tools keep there is not the
// host's either.
func mountRun() error {
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return nil
}

// start starts dockerd.
func start(dir string, args []string) (stop func() error, err error) {
	settings := filepath.Join(dir, "daemon.json") // not the machine's own
	if err := os.WriteFile(settings, []byte("{}"), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("dockerd", slices.Concat([]string{
		"--log-level", "warn", "--config-file", settings, "--data-root", dir + "/data", "--exec-root", dir + "/exec",
		"--pidfile", dir + "/pid", "--host", socket(dir), "--cgroup-parent", filepath.Base(dir),
	}, args)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended: //nolint:errcheck // it was told to end, or killed
			return log.Close()
		case <-time.After(stopTimeout):
			return errors.New("dockerd does not end")
		}
	}
	c, err := client.NewClientWithOpts(client.WithHost(socket(dir)), client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	defer c.Close()
	for end := time.Now().Add(startTimeout); ; time.Sleep(50 * time.Millisecond) {
		_, err := c.Ping(context.Background())
		if err == nil {
			return stop, nil
		}
		select {
		case died := <-ended:
			said, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("dockerd: %w\n%s", died, said)
		default:
		}
		if time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("dockerd: %w", err), stop())
		}
	}
}
