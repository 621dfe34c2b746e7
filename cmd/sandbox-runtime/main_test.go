package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// These tests run the command line as a caller of runc would: the test binary itself
// is the runtime when it is started with this variable.
const beRuntime = "SANDBOX_TEST_BE_RUNTIME"

func TestMain(m *testing.M) {
	if os.Getenv(beRuntime) != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// bench is a folder with a bundle and the state of containers.
type bench struct {
	*testing.T
	dir string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t, t.TempDir()}
	t.Cleanup(func() {
		for _, id := range strings.Fields(b.ok("list", "-q")) {
			b.ok("delete", "-f", id)
		}
	})
	return b
}

func (b *bench) command(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], append([]string{"--root", b.dir}, args...)...)
	c.Env = append(os.Environ(), beRuntime+"=1")
	return c
}

// run returns what the command prints, and its exit code.
func (b *bench) run(args ...string) (stdout, stderr string, code int) {
	b.Helper()
	return b.start(b.command(args...))
}

func (b *bench) start(c *exec.Cmd) (stdout, stderr string, code int) {
	b.Helper()
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	// A container left in the background keeps the pipes open.
	c.WaitDelay = 500 * time.Millisecond
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		b.Fatal(err)
	}
	return o.String(), e.String(), c.ProcessState.ExitCode()
}

// ok runs a command that must succeed, and returns its output.
func (b *bench) ok(args ...string) string {
	b.Helper()
	stdout, stderr, code := b.run(args...)
	if code != 0 {
		b.Fatalf("%q: exit code %d\n%s%s", args, code, stdout, stderr)
	}
	return stdout
}

// bundle makes a bundle whose program is a shell script, in busybox.
func (b *bench) bundle(script string, change ...func(*specs.Spec)) string {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		b.Skip("no busybox on this host")
	}
	dir := b.TempDir()
	bin := filepath.Join(dir, "rootfs/bin")
	if err := os.MkdirAll(bin, 0o755); err != nil { //nolint:gosec // a root file system
		b.Fatal(err)
	}
	if out, err := exec.Command("cp", busybox, bin).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"sh", "sleep", "cat", "ls", "stty", "echo", "id"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			b.Fatal(err)
		}
	}
	b.ok("spec", "--bundle", dir)
	file := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal(raw, spec); err != nil {
		b.Fatal(err)
	}
	spec.Process.Terminal, spec.Process.Args = false, []string{"sh", "-c", script}
	for _, f := range change {
		f(spec)
	}
	if raw, err = json.Marshal(spec); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		b.Fatal(err)
	}
	return dir
}

func terminalOn(s *specs.Spec) { s.Process.Terminal = true }

var serial int

// sleeper starts a container in the background and returns its ID.
func (b *bench) sleeper(flags ...string) string {
	b.Helper()
	serial++
	id := fmt.Sprintf("sbt-cli-%d-%d", os.Getpid(), serial)
	dir := b.bundle("exec sleep 1000")
	b.ok(append(append([]string{"run", "-d", "--bundle", dir}, flags...), id)...)
	return id
}

func TestUsage(t *testing.T) {
	b := newBench(t)
	for _, args := range [][]string{
		{"nonesuch"}, {"--nonesuch"}, {"create"}, {"create", "a", "b"}, {"create", "--nonesuch", "a"}, {"exec", "a"},
		{"kill", "a", "NONESUCH"}, {"events", "--interval", "0s", "a"}, {"update"}, {"delete"}, {"list", "--format", "xml"},
	} {
		if stdout, stderr, code := b.run(args...); code == 0 || code > 2 && args[0] != "exec" || stdout != "" || stderr == "" {
			t.Errorf("%q: exit code %d, %q, %q", args, code, stdout, stderr)
		}
	}
	for _, args := range [][]string{{}, {"--help"}, {"-h"}, {"help"}, {"create", "--help"}, {"exec", "-h"}, {"-v"}, {"--version"}, {"features"}} {
		if out := b.ok(args...); out == "" {
			t.Errorf("%q prints nothing", args)
		}
	}
	if out := b.ok("--version"); !strings.Contains(out, "spec: 1.") {
		t.Errorf("version %q", out)
	}
}

// Engines look for these words.
func TestErrorsThatAreParsed(t *testing.T) {
	b := newBench(t)
	log := filepath.Join(t.TempDir(), "log.json")
	for _, command := range []string{"state", "start", "kill", "pause", "delete"} {
		_ = os.Remove(log)
		if _, stderr, code := b.run("--log", log, "--log-format", "json", command, "nonesuch"); code != 1 || !strings.Contains(stderr, "does not exist") {
			t.Errorf("%s: exit code %d, %q", command, code, stderr)
		}
		raw, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		var line struct {
			Level, Msg string
			Time       time.Time
		}
		if err := json.Unmarshal(raw, &line); err != nil || line.Level != "error" || !strings.Contains(line.Msg, "does not exist") || line.Time.IsZero() {
			t.Errorf("%s: log %s %v", command, raw, err)
		}
	}
	b.ok("delete", "--force", "nonesuch")
	id := b.sleeper()
	b.ok("kill", id, "KILL")
	b.await(id, "stopped")
	if _, stderr, code := b.run("kill", id, "TERM"); code != 1 || !strings.Contains(stderr, "container not running") {
		t.Errorf("kill of a stopped container: %d %q", code, stderr)
	}
	if _, stderr, code := b.run("exec", id, "true"); code != 255 || !strings.Contains(stderr, "cannot exec in") {
		t.Errorf("exec in a stopped container: %d %q", code, stderr)
	}
	_, stderr, code := b.run("run", "--bundle", b.bundle("", func(s *specs.Spec) { s.Process.Args = []string{"nonesuch"} }), id+"x")
	if code != 1 || !strings.Contains(stderr, "executable file not found in $PATH") {
		t.Errorf("run of no program: %d %q", code, stderr)
	}
}

func (b *bench) state(id string) (s struct {
	Version, ID, Status, Bundle, Rootfs, Owner string
	PID                                        int
	Created                                    time.Time
}) {
	b.Helper()
	if err := json.Unmarshal([]byte(b.ok("state", id)), &s); err != nil {
		b.Fatal(err)
	}
	return s
}

func (b *bench) await(id, status string) {
	b.Helper()
	for range 200 {
		if b.state(id).Status == status {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Fatalf("container %s is %s, want %s", id, b.state(id).Status, status)
}

func TestLifecycleByCommands(t *testing.T) {
	b := newBench(t)
	dir := b.bundle("exec sleep 1000")
	pidFile := filepath.Join(t.TempDir(), "pid")
	id := fmt.Sprintf("sbt-cli-life-%d", os.Getpid())
	b.ok("create", "--pid-file", pidFile, id, "-b", dir) // flags after arguments, too
	s := b.state(id)
	raw, _ := os.ReadFile(pidFile)
	if s.Status != "created" || fmt.Sprint(s.PID) != string(raw) || s.Bundle != dir || s.Rootfs != dir+"/rootfs" || s.Owner != "root" || s.Created.IsZero() {
		t.Errorf("state %+v, PID file %q", s, raw)
	}
	b.ok("start", id)
	b.await(id, "running")
	b.ok("pause", id)
	b.await(id, "paused")
	b.ok("resume", id)
	var pids []int
	if err := json.Unmarshal([]byte(b.ok("ps", "--format", "json", id)), &pids); err != nil || !reflect.DeepEqual(pids, []int{s.PID}) {
		t.Errorf("ps %v %v", pids, err)
	}
	if out := b.ok("ps", id, "-eo", "pid,args"); !strings.Contains(out, "sleep 1000") || strings.Count(out, "\n") != 2 {
		t.Errorf("ps prints %q", out)
	}
	var list []map[string]any
	if err := json.Unmarshal([]byte(b.ok("list", "--format", "json")), &list); err != nil || len(list) != 1 || list[0]["id"] != id || list[0]["status"] != "running" {
		t.Errorf("list %v %v", list, err)
	}
	if out := b.ok("list"); !strings.HasPrefix(out, "ID ") || !strings.Contains(out, id) {
		t.Errorf("list prints %q", out)
	}
	if _, _, code := b.run("delete", id); code != 1 {
		t.Errorf("delete of a running container: %d", code)
	}
	b.ok("kill", id, "9")
	b.await(id, "stopped")
	if s := b.state(id); s.PID != 0 {
		t.Errorf("stopped container has PID %d", s.PID)
	}
	if out := b.ok("ps", "-f", "json", id); out != "[]\n" {
		t.Errorf("ps of a stopped container: %q", out)
	}
	b.ok("delete", id)
	if out := b.ok("list", "-q"); out != "" {
		t.Errorf("left: %q", out)
	}
}

func TestDeleteSeveral(t *testing.T) {
	b := newBench(t)
	one, two := b.sleeper(), b.sleeper()
	b.ok("delete", one, two, "--force")
	if out := b.ok("list", "-q"); out != "" {
		t.Errorf("left: %q", out)
	}
	if _, _, code := b.run("--root", filepath.Join(b.dir, "nonesuch"), "list"); code != 1 {
		t.Errorf("list of a missing --root: %d", code)
	}
}

func TestRunAndExec(t *testing.T) {
	b := newBench(t)
	id := fmt.Sprintf("sbt-cli-run-%d", os.Getpid())
	if stdout, stderr, code := b.run("run", "-b", b.bundle("echo out; echo err >&2; exit 7"), id); code != 7 || stdout != "out\n" || stderr != "err\n" {
		t.Errorf("run: %d %q %q", code, stdout, stderr)
	}
	if out := b.ok("run", "-b", b.bundle("test -t 1 && echo terminal", terminalOn), id); out != "terminal\n" {
		t.Errorf("with a terminal: %q", out)
	}
	id = b.sleeper()
	if stdout, stderr, code := b.run("exec", "-e", "A=1", "--cwd", "/bin", "-u", "5:6", id, "sh", "-c", "echo $A $PWD $(id -u):$(id -g); exit 3"); code != 3 || stdout != "1 /bin 5:6\n" {
		t.Errorf("exec: %d %q %q", code, stdout, stderr)
	}
	if out := b.ok("exec", "-t", id, "sh", "-c", "test -t 0 && echo terminal"); out != "terminal\n" {
		t.Errorf("exec -t: %q", out)
	}
	c := b.command("exec", "--preserve-fds", "1", id, "cat", "/proc/self/fd/3")
	fd, err := unix.MemfdCreate("preserved", 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "preserved")
	defer f.Close()
	if _, err := f.WriteString("kept"); err != nil {
		t.Fatal(err)
	}
	c.ExtraFiles = []*os.File{f}
	if stdout, stderr, code := b.start(c); stdout != "kept" {
		t.Errorf("--preserve-fds: %d %q %q", code, stdout, stderr)
	}
	process := filepath.Join(t.TempDir(), "process.json")
	if err := os.WriteFile(process, []byte(`{"args":["echo","from file"],"cwd":"/","env":["PATH=/bin"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := b.ok("exec", "--process", process, id); out != "from file\n" {
		t.Errorf("exec --process: %q", out)
	}
}

// The terminal of a detached container goes to the console socket.
func TestConsoleSocket(t *testing.T) {
	b := newBench(t)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	id := fmt.Sprintf("sbt-cli-tty-%d", os.Getpid())
	b.ok("create", "-b", b.bundle("echo hello; exec sleep 1000", terminalOn), "--console-socket", socket, id)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		t.Fatal(msgs, err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || string(buf[:n]) != "/dev/pts/ptmx" {
		t.Fatalf("%q %v", buf[:n], err)
	}
	master := os.NewFile(uintptr(fds[0]), "ptmx")
	defer master.Close()
	b.ok("start", id)
	if line, err := bufio.NewReader(master).ReadString('\n'); err != nil || line != "hello\r\n" {
		t.Errorf("%q %v", line, err)
	}
}

// Statistics have the names under which tools look for them.
func TestEvents(t *testing.T) {
	b := newBench(t)
	id := b.sleeper()
	check := func(line string) {
		t.Helper()
		var e struct {
			Type, ID string
			Data     map[string]map[string]any
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		usage, _ := e.Data["cpu"]["usage"].(map[string]any)
		if total, _ := usage["total"].(float64); e.Type != "stats" || e.ID != id || total <= 0 {
			t.Errorf("event %s", line)
		}
		for _, part := range []string{"memory", "pids", "blkio", "hugetlb"} {
			if e.Data[part] == nil {
				t.Errorf("no %s in %s", part, line)
			}
		}
	}
	check(b.ok("events", "--stats", id))
	c := b.command("events", "--interval", "20ms", id)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range 2 {
		if !lines.Scan() {
			t.Fatal("no event")
		}
		check(lines.Text())
	}
	b.ok("kill", id, "KILL")
	for lines.Scan() {
		continue
	}
	if err := c.Wait(); err != nil { // it ends with the container
		t.Error(err)
	}
}

func TestUpdate(t *testing.T) {
	b := newBench(t)
	id := b.sleeper()
	c := b.command("update", "-r", "-", id)
	c.Stdin = strings.NewReader(`{"pids":{"limit":50}}`)
	if _, stderr, code := b.start(c); code != 0 {
		t.Errorf("update -r -: %d %q", code, stderr)
	}
	b.ok("update", id, "--pids-limit", "60", "--memory", "67108864")
	if os.Getenv("SANDBOX_VM") == "" {
		return // the host may have cgroup v1
	}
	var e struct {
		Data struct {
			Pids   struct{ Limit int }
			Memory struct{ Usage struct{ Limit int } }
		}
	}
	if err := json.Unmarshal([]byte(b.ok("events", "--stats", id)), &e); err != nil || e.Data.Pids.Limit != 60 || e.Data.Memory.Usage.Limit != 64<<20 {
		t.Errorf("%+v %v", e, err)
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]unix.Signal{
		"9": unix.SIGKILL, "KILL": unix.SIGKILL, "SIGTERM": unix.SIGTERM, "term": unix.SIGTERM, "0": 0, "RTMIN": 34, "SIGRTMIN+2": 36, "RTMAX-1": 63,
	} {
		if got, err := parseSignal(s); err != nil || got != want {
			t.Errorf("%s: %d %v", s, got, err)
		}
	}
	for _, s := range []string{"", "NONESUCH", "-1", "65", "RTMIN+40"} {
		if got, err := parseSignal(s); err == nil {
			t.Errorf("%s: %d", s, got)
		}
	}
}
