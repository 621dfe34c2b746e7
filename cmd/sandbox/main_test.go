package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sandboxlabs/sandbox/pkg/embedded"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
	"github.com/vishvananda/netlink"
)

var update = flag.Bool("update", false, "write the golden --help files instead of comparing")

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && filepath.Base(os.Args[0]) != "sandbox" && os.Getenv(ownNetwork) == "" {
		os.Exit(runInOwnNetwork())
	}
	if os.Getenv(ownNetwork) != "" && filepath.Base(os.Args[0]) != "sandbox" {
		if err := errors.Join(loopbackUp(), dockertest.MountSysfs()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	// The scripts, and the daemon that `up` starts, run this test binary under
	// the program's name.
	testscript.Main(m, map[string]func(){"sandbox": main})
}

// ownNetwork is set in the environment of tests that have a network namespace
// of their own.
const ownNetwork = "SANDBOX_TEST_NETNS"

// runInOwnNetwork runs this test binary again in a new network namespace: there
// the bridge and the rules of a daemon are not those of the one that may run on
// this machine, and go with the namespace.
func runInOwnNetwork() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), ownNetwork+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if ended, ok := errors.AsType[*exec.ExitError](err); ok {
			return ended.ExitCode()
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// loopbackUp sets the namespace's loopback interface up: it begins without, and
// a daemon's registry is there.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

const (
	scripts = "../../testdata/script"
	golden  = "../../testdata/help"
)

// TestCommandLine runs what needs neither root nor a daemon.
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: filepath.Join(scripts, "cli"), Setup: setup, RequireExplicitExec: true, Condition: condition, Cmds: commands})
}

// TestReal runs a real daemon with real containers, each script on folders of
// its own, one after the other: they share the bridge.
func TestReal(t *testing.T) {
	needReal(t)
	files, err := filepath.Glob(filepath.Join(scripts, "real", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts: %v %v", files, err)
	}
	for _, file := range files {
		// A parallel subtest would start only when this test has ended.
		testscript.RunT(sequential{t}, testscript.Params{Files: []string{file}, Setup: setupReal, RequireExplicitExec: true, Condition: condition, Cmds: commands})
	}
}

// needReal skips where no container can run.
func needReal(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	f, err := embedded.Open(embedded.Runtime)
	if err != nil {
		t.Skip(err)
	}
	_ = f.Close()
}

// sequential is testing.T without its parallelism.
type sequential struct{ *testing.T }

func (s sequential) Parallel() {}
func (s sequential) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) { f(sequential{t}) })
}
func (s sequential) Verbose() bool { return testing.Verbose() }

func setup(env *testscript.Env) error {
	env.Setenv("SANDBOX_ROOT", filepath.Join(env.WorkDir, "lib"))
	env.Setenv("SANDBOX_RUN", filepath.Join(env.WorkDir, "run"))
	env.Setenv("HOME", env.WorkDir)
	return nil
}

// setupReal takes short folders: a unix socket's path has at most 107 bytes.
func setupReal(env *testscript.Env) error {
	dir, err := os.MkdirTemp("", "sbt")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	root, run := filepath.Join(dir, "lib"), filepath.Join(dir, "run")
	env.Setenv("SANDBOX_ROOT", root)
	env.Setenv("SANDBOX_RUN", run)
	env.Setenv("OTHER", filepath.Join(dir, "other")) // for a second daemon
	env.Setenv("HOME", env.WorkDir)
	// Another daemon of this machine may have the usual port.
	env.Setenv("SANDBOX_REGISTRY", "127.0.0.1:0")
	env.Defer(func() {
		purge(env.T().(sequential).T, root, run)
		_ = os.RemoveAll(dir)
	})
	return nil
}

// purge leaves nothing of a script that has ended early.
func purge(t *testing.T, root, run string) {
	if _, err := os.Stat(root); err != nil {
		return
	}
	program, err := exec.LookPath("sandbox")
	if err != nil {
		t.Error(err)
		return
	}
	cmd := exec.Command(program, "--state-dir", root, "--run-dir", run, "down", "--purge")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("purge: %v: %s", err, out)
		_ = killDaemon(run) // if it is that which hangs
	}
}

// killDaemon ends the daemon at once, and waits until it is gone.
func killDaemon(run string) error {
	b, err := os.ReadFile(filepath.Join(run, "daemon.lock"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for range 500 {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("process %d does not end", pid)
}

// commands adds `exits CODE PROGRAM ARG…`: run it, and compare its exit code;
// and `killdaemon`: kill -9.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"exits": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 2 {
			ts.Fatalf("usage: exits CODE PROGRAM ARG…")
		}
		code := 0
		if err := ts.Exec(args[1], args[2:]...); err != nil {
			ended, ok := errors.AsType[*exec.ExitError](err)
			if !ok {
				ts.Fatalf("%v", err)
			}
			code = ended.ExitCode()
		}
		if strconv.Itoa(code) != args[0] {
			ts.Fatalf("%s exits with %d, not %s", strings.Join(args[1:], " "), code, args[0])
		}
	},
	"killdaemon": func(ts *testscript.TestScript, _ bool, _ []string) {
		ts.Check(killDaemon(ts.Getenv("SANDBOX_RUN")))
	},
}

// condition adds [memory], [pids] and so on: the cgroup v2 controllers that
// this host has; and [vm]: this is the virtual machine, which is several times
// slower, and is for what needs those.
func condition(name string) (bool, error) {
	if name == "vm" {
		return os.Getenv("SANDBOX_VM") != "", nil
	}
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return false, nil // hybrid: without them
	}
	for _, controller := range strings.Fields(string(b)) {
		if controller == name {
			return true, nil
		}
	}
	return false, nil
}

// TestHelp keeps the --help of every command, and with it every flag, as
// reviewed: `go test ./cmd/sandbox -run Help -update` writes what has changed.
func TestHelp(t *testing.T) {
	program, err := exec.LookPath("sandbox")
	if err != nil {
		t.Fatal(err)
	}
	help := func(args ...string) []byte {
		out, err := exec.Command(program, append(args, "--help")...).Output()
		if err != nil {
			t.Fatalf("sandbox %s --help: %v", strings.Join(args, " "), err)
		}
		return out
	}
	names := []string{""}
	list := func(text []byte, group string) {
		for line := range strings.Lines(string(text)) {
			// Commands are indented by two blanks, flags by more or begin with -.
			if rest, ok := strings.CutPrefix(line, "  "); ok && rest[0] >= 'a' && rest[0] <= 'z' && !strings.HasPrefix(rest, "sandbox ") {
				names = append(names, group+strings.Fields(rest)[0])
			}
		}
	}
	list(help(), "")
	for _, group := range []string{"image", "aws", "tf"} {
		list(help(group), group+" ")
	}
	if len(names) < 40 {
		t.Fatalf("found only the commands %q", names)
	}
	for _, command := range names {
		got := help(strings.Fields(command)...)
		if command != "" && !bytes.Contains(got, []byte("Examples:")) {
			t.Errorf("%s has no examples", command)
		}
		file := filepath.Join(golden, "sandbox.txt")
		if command != "" {
			file = filepath.Join(golden, strings.ReplaceAll(command, " ", "-")+".txt")
		}
		if *update {
			if err := os.MkdirAll(golden, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%v (go test ./cmd/sandbox -run Help -update writes it)", err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s is not what `sandbox %s --help` prints (go test ./cmd/sandbox -run Help -update writes it):\n%s", file, command, got)
		}
	}
}
