package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/client"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

// tempDirs returns roots with a path short enough for a socket (108 bytes,
// unix(7)), which other users may enter.
func tempDirs(t *testing.T) state.Dirs {
	t.Helper()
	root, err := os.MkdirTemp("", "sbt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	return state.Dirs{Root: filepath.Join(root, "lib"), Run: filepath.Join(root, "run")}
}

// daemonTest is a daemon that serves on a socket of its own.
type daemonTest struct {
	*client.Client
	t      *testing.T
	dirs   state.Dirs
	engine *fakeEngine
	config Config
	stop   context.CancelFunc
	ended  chan error
}

// start runs a daemon until the test ends; change its configuration by opts.
func start(t *testing.T, opts ...func(*Config)) *daemonTest {
	t.Helper()
	engine := newFakeEngine()
	graph, err := stack.New()
	if err != nil {
		t.Fatal(err)
	}
	d := &daemonTest{t: t, engine: engine, config: Config{
		Dirs: tempDirs(t), Engine: engine, Stack: graph,
		Log:     testLog(t),
		Version: api.Version{Version: "test"},
		Images:  &fakeImages{},
	}}
	for _, opt := range opts {
		opt(&d.config)
	}
	d.dirs = d.config.Dirs
	d.Client = client.New(d.dirs.Socket())
	d.run()
	t.Cleanup(func() {
		d.end()
		d.Client.Close()
		checkGoroutines(t)
	})
	return d
}

// testLog writes to the test's log until the test ends.
func testLog(t *testing.T) *zap.Logger {
	if !testing.Verbose() {
		return zap.NewNop()
	}
	return zaptest.NewLogger(t)
}

func (d *daemonTest) run() {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d.stop, d.ended = cancel, make(chan error, 1)
	go func() { d.ended <- New(d.config).Run(ctx) }()
	eventually(d.t, "the daemon answers", func() bool {
		select {
		case err := <-d.ended:
			d.t.Fatalf("daemon: %v", err)
		default:
		}
		_, err := d.Version(ctx)
		return err == nil
	})
}

// end stops the daemon gracefully, if it still runs.
func (d *daemonTest) end() {
	d.t.Helper()
	d.stop()
	select {
	case err := <-d.ended:
		if err != nil {
			d.t.Errorf("daemon: %v", err)
		}
		d.ended <- nil
	case <-time.After(15 * time.Second):
		d.t.Fatalf("daemon does not stop:\n%s", stacks())
	}
	if _, err := os.Stat(d.dirs.Socket()); !errors.Is(err, fs.ErrNotExist) {
		d.t.Errorf("socket after the daemon's end: %v", err)
	}
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// checkGoroutines fails if one of the daemon's is left.
func checkGoroutines(t *testing.T) {
	t.Helper()
	var left string
	for range 100 {
		left = ""
		for _, g := range strings.Split(stacks(), "\n\n") {
			if strings.Contains(g, "pkg/daemon.(") && !strings.Contains(g, "pkg/daemon.Test") && !strings.Contains(g, "fake_test.go") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("goroutines are left:\n%s", left)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 { // a disk that is busy with other work makes fsync take seconds
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not within 30 s: %s\n%s", what, stacks())
}

func wantClass(t *testing.T, err error, class, text string) {
	t.Helper()
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		t.Fatalf("error is %v (%T), want an api.Error of class %s", err, err, class)
	}
	if e.Class != class || !strings.Contains(e.Message, text) {
		t.Errorf("error is %s: %q, want %s with %q", e.Class, e.Message, class, text)
	}
}

func TestNotRunning(t *testing.T) {
	dirs := tempDirs(t)
	_, err := client.New(dirs.Socket()).Version(t.Context())
	if !errors.Is(err, client.ErrNotRunning) || !strings.Contains(err.Error(), "not running at "+dirs.Socket()) {
		t.Errorf("no socket: %v", err)
	}
	if e, ok := errors.AsType[*client.ConnectError](err); !ok || !strings.Contains(e.Hint, "sandbox up") {
		t.Errorf("hint: %+v", e)
	}
}

func TestTwoDaemons(t *testing.T) {
	d := start(t)
	second := New(d.config)
	err := second.Run(t.Context())
	want := fmt.Sprintf("another sandbox daemon is running (PID %d)", os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("the second daemon's error is %v, want %s", err, want)
	}
	if _, err := d.Version(t.Context()); err != nil {
		t.Errorf("the first daemon after the second has tried: %v", err)
	}
}

func TestStaleSocket(t *testing.T) {
	dirs := tempDirs(t)
	if err := os.MkdirAll(dirs.Run, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dirs.Socket(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close() // as a killed daemon leaves it
	if _, err := client.New(dirs.Socket()).Version(t.Context()); !errors.Is(err, client.ErrNotRunning) {
		t.Errorf("a socket that nobody listens on: %v", err)
	}
	d := start(t, func(c *Config) { c.Dirs = dirs })
	fi, err := os.Stat(d.dirs.Socket())
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("without a group the socket's mode is %v", fi.Mode())
	}
}

func TestSocketInTheWay(t *testing.T) {
	dirs := tempDirs(t)
	if err := state.WriteFile(dirs.Socket(), []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := New(Config{Dirs: dirs, Engine: newFakeEngine(), Log: zap.NewNop()})
	if err := d.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("error is %v", err)
	}
	if b, err := os.ReadFile(dirs.Socket()); string(b) != "precious" {
		t.Errorf("file in the way: %q, %v", b, err)
	}
}

func TestNotify(t *testing.T) {
	dirs := tempDirs(t)
	if err := os.MkdirAll(dirs.Run, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dirs.Run, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	d := start(t, func(c *Config) { c.Dirs = dirs })
	read := func() string {
		buf := make([]byte, 64)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	if got := read(); got != "READY=1" {
		t.Errorf("first: %q", got)
	}
	if v, ok := os.LookupEnv("NOTIFY_SOCKET"); ok {
		t.Errorf("children would inherit NOTIFY_SOCKET=%s", v)
	}
	d.end()
	if got := read(); got != "STOPPING=1" {
		t.Errorf("second: %q", got)
	}
}

func TestSIGTERM(t *testing.T) {
	d := start(t)
	c, err := d.CreateContainer(t.Context(), api.ContainerSpec{Image: "sleep"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.StartContainer(t.Context(), c.ID, nil); err != nil {
		t.Fatal(err)
	}
	// Streams and waits under way must not hold the daemon up.
	waited := make(chan error, 3)
	go func() { _, err := d.WaitContainer(context.Background(), c.ID); waited <- err }()
	go func() {
		waited <- d.Logs(context.Background(), c.ID, client.LogOptions{Follow: true, Tail: 0}, func(api.LogLine) error { return nil })
	}()
	session, err := d.Attach(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	go func() { waited <- session.CopyOutput(io.Discard, io.Discard) }()
	time.Sleep(50 * time.Millisecond)
	begin := time.Now()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-d.ended; err != nil {
		t.Errorf("daemon: %v", err)
	}
	d.ended <- nil
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
	for range 3 {
		<-waited
	}
	if got, _ := d.engine.Inspect(t.Context(), c.ID); got.Status != api.StatusRunning {
		t.Errorf("the container is %s after the daemon's end", got.Status)
	}
}

func TestRestart(t *testing.T) {
	d := start(t)
	ctx := t.Context()
	var ids []string
	for _, rm := range []bool{true, false} {
		c, err := d.CreateContainer(ctx, api.ContainerSpec{Image: "sleep", AutoRemove: rm}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.StartContainer(ctx, c.ID, nil); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
	}
	d.end()
	// One ends while no daemon runs, the other after the next has started.
	quick, err := d.engine.Create(ctx, api.ContainerSpec{Image: "exit:5", AutoRemove: true}, nil)
	if err == nil {
		err = d.engine.Start(ctx, quick.ID, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.run()
	eventually(t, "a container that ended without a daemon is removed", func() bool {
		_, err := d.engine.Inspect(ctx, quick.ID)
		return err != nil
	})
	if exit, err := d.WaitContainer(ctx, quick.ID); err != nil || exit.Code != 5 {
		t.Errorf("its exit: %+v, %v", exit, err)
	}
	for _, id := range ids {
		if err := d.KillContainer(ctx, id, "KILL"); err != nil {
			t.Fatal(err)
		}
		if exit, err := d.WaitContainer(ctx, id); err != nil || exit.Code != 137 {
			t.Errorf("exit: %+v, %v", exit, err)
		}
	}
	all, err := d.ListContainers(ctx)
	if err != nil || len(all) != 1 || all[0].ID != ids[1] {
		t.Errorf("left: %+v, %v", all, err)
	}
}
