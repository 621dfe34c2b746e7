package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/state"
)

// The process's first thread cannot end as others do: keep it for the main
// goroutine, so that none of the tests' goroutines changes its namespace.
func init() { runtime.LockOSThread() }

const (
	insideVar = "SANDBOX_TEST_NETNS" // set in the private namespace
	leasesVar = "SANDBOX_TEST_LEASES"
)

// TestMain runs all tests in a network namespace of their own, which plays
// the host: nothing that they do to links, sysctls and rules can reach the
// real one.
func TestMain(m *testing.M) {
	if path := os.Getenv(leasesVar); path != "" {
		otherProcess(path) // of TestLeasesProcesses
		return
	}
	if os.Getenv(insideVar) == "" && os.Geteuid() == 0 {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), insideVar+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
		if err := cmd.Run(); cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "private network namespace:", err)
			os.Exit(1)
		}
		os.Exit(cmd.ProcessState.ExitCode())
	}
	if os.Geteuid() == 0 {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "ip link set lo up: %v: %s\n", err, out)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// newNetwork makes a network on a bridge of the test's own. Its resolver files
// name the given upstream servers.
func newNetwork(t testing.TB, upstreams ...string) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes links and packet filter rules")
	}
	dir := t.TempDir()
	var conf strings.Builder
	for _, u := range upstreams {
		fmt.Fprintf(&conf, "nameserver %s\n", u)
	}
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte(conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := New(Config{
		Dirs: state.Dirs{Root: dir, Run: dir}, Bridge: "sbtbr0", Log: zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)),
		Resolv: ResolvFiles{Conf: filepath.Join(dir, "resolv.conf"), Systemd: filepath.Join(dir, "none")},
	})
	if err != nil {
		t.Fatal(err)
	}
	before := inventory(t)
	t.Cleanup(func() {
		if err := n.Down(context.Background(), nil); err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if after := inventory(t); after != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
		}
	})
	return n
}

// inventory is all links, addresses, routes and rules of the namespace, but
// for Docker's.
func inventory(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, args := range [][]string{
		{"ip", "-o", "link"}, {"ip", "-4", "-o", "addr"}, {"ip", "route"}, {"nft", "list", "ruleset"}, {"iptables-legacy-save"},
	} {
		if _, err := exec.LookPath(args[0]); err != nil {
			continue
		}
		out := run(t, args...)
		for line := range strings.Lines(out) {
			// What iptables makes by itself and stays: empty tables and chains.
			if f := strings.Fields(line); len(f) > 1 && !strings.Contains(strings.ToLower(line), "docker") && (strings.HasPrefix(line, "-A") || args[0] == "ip" || args[0] == "nft" && strings.Contains(line, "sandbox")) {
				b.WriteString(line)
			}
		}
	}
	return b.String()
}

func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// namespace is a container's network namespace: a process that sleeps in it.
type namespace struct {
	cmd *exec.Cmd
}

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ns := &namespace{cmd}
	t.Cleanup(ns.end)
	return ns
}

func (ns *namespace) end() {
	_ = ns.cmd.Process.Kill()
	_ = ns.cmd.Wait()
}

func (ns *namespace) path() string { return fmt.Sprintf("/proc/%d/ns/net", ns.cmd.Process.Pid) }

// in runs fn on a thread in ns. Sockets that it opens stay there.
func (ns *namespace) in(t testing.TB, fn func() error) {
	t.Helper()
	if err := ns.try(fn); err != nil {
		t.Fatal(err)
	}
}

func (ns *namespace) try(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		f, err := os.Open(ns.path())
		if err != nil {
			done <- err
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("setns: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// ids are container IDs that differ in their first digits.
func id(i int) string { return fmt.Sprintf("%012x%052x", i, i) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
