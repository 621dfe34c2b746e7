package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The process's first thread cannot end as others do: keep it for the main
// goroutine, so that none of the tests' goroutines changes its namespace.
func init() { runtime.LockOSThread() }

// TestMain runs all tests in a network namespace of their own, which plays
// the host: nothing that they do to links, sysctls and rules can reach the
// real one.
func TestMain(m *testing.M) {
	const inside = "SANDBOX_TEST_NETNS"
	if os.Getenv(inside) == "" && os.Geteuid() == 0 {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
		if err := cmd.Run(); cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "private network namespace:", err)
			os.Exit(1)
		}
		os.Exit(cmd.ProcessState.ExitCode())
	}
	os.Exit(m.Run())
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes links and packet filter rules")
	}
}

// inNamespace runs fn on a thread in ns. Sockets that it opens stay there.
func inNamespace(t testing.TB, ns *os.File, fn func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("setns: %w", err)
			return
		}
		done <- fn()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// newNamespace makes a network namespace that lives until the test ends.
func newNamespace(t testing.TB) *os.File {
	t.Helper()
	type result struct {
		ns  *os.File
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		done <- result{ns, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.ns.Close() })
	return r.ns
}

// run returns what a command prints.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func openHost(t testing.TB) *Namespace {
	t.Helper()
	needRoot(t)
	n, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

var (
	testSubnet  = netip.MustParsePrefix("10.89.0.0/16")
	testGateway = netip.MustParsePrefix("10.89.0.1/16")
)

const testBridge = "sbtbr0"

// tryDial connects from ns, on the calling goroutine's thread, which it
// leaves there.
func tryDial(ns *os.File, address string) error {
	runtime.LockOSThread()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	c, err := net.DialTimeout("tcp4", address, 500*time.Millisecond)
	if err == nil {
		c.Close()
	}
	return err
}
