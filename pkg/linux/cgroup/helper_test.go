package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// TestMain is also the process that the tests put into cgroups.
func TestMain(m *testing.M) {
	if task := os.Getenv("SBT_TASK"); task != "" {
		perform(task, os.Args[1:])
		return
	}
	os.Exit(m.Run())
}

// perform does a task in a cgroup. It begins when the parent says so by closing
// standard input, and prints what came of it.
func perform(task string, args []string) {
	number := func(i int) int {
		n, err := strconv.Atoi(args[i])
		if err != nil {
			panic(err)
		}
		return n
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	switch task {
	case "sleep":
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Hour)
	case "burn": // for so many milliseconds of wall-clock time
		for end := time.Now().Add(time.Duration(number(0)) * time.Millisecond); time.Now().Before(end); {
		}
	case "eat": // so many MiB
		memory, err := unix.Mmap(-1, 0, number(0)<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			panic(err)
		}
		for i := 0; i < len(memory); i += os.Getpagesize() {
			memory[i] = 1
		}
		fmt.Println("eaten")
		time.Sleep(time.Hour)
	case "fork": // until it is refused, but no more than so many
		for i := range number(0) {
			if err := exec.Command("sleep", "3600").Start(); err != nil {
				fmt.Println("refused after", i, errors.Is(err, unix.EAGAIN))
				return
			}
		}
		fmt.Println("never refused")
	case "write": // so many KiB, past the page cache
		f, err := os.OpenFile(args[0], os.O_CREATE|os.O_WRONLY|unix.O_DIRECT, 0o600)
		if err != nil {
			panic(err)
		}
		block, err := unix.Mmap(-1, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
		if err != nil {
			panic(err)
		}
		for range number(1) / 64 {
			if _, err := f.Write(block); err != nil {
				panic(err)
			}
		}
	}
}

// process is a task in a cgroup.
type process struct {
	*exec.Cmd
	out   io.Reader
	begin io.Closer
}

// spawn starts a task in the cgroup; it waits for begin.
func spawn(t testing.TB, cg *Cgroup, task string, args ...string) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{"SBT_TASK=" + task, "PATH=" + os.Getenv("PATH"), "GOMAXPROCS=1"}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cg.FD()}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: cmd, out: out, begin: in}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p.expect(t, "ready")
	return p
}

// expect reads a line that begins so.
func (p *process) expect(t testing.TB, want string) string {
	t.Helper()
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := p.out.Read(b); err != nil || b[0] == '\n' {
			break
		}
	}
	if !strings.HasPrefix(string(line), want) {
		t.Fatalf("the process says %q, want %q", line, want)
	}
	return string(line)
}

var serial atomic.Int64

// newCgroup makes a cgroup with the controllers in need, and skips the test where
// the host lacks one.
func newCgroup(t testing.TB, need Controllers) *Cgroup {
	t.Helper()
	root := mount(t)
	available, err := Available(root)
	if err != nil {
		t.Fatal(err)
	}
	if missing := need &^ available; missing != 0 {
		t.Skipf("this host lacks the cgroup v2 controllers %q (scripts/vm-test has %q)", missing, Accounting)
	}
	return newCgroupAt(t, root, testName(), need)
}

func testName() string {
	return fmt.Sprintf("/sbt-cgroup-%d/%d", os.Getpid(), serial.Add(1))
}

func newCgroupAt(t testing.TB, root, name string, need Controllers) *Cgroup {
	t.Helper()
	cg, err := Create(root, name, need, nil)
	if err != nil {
		t.Fatal(err)
	}
	removeAfter(t, root, name)
	t.Cleanup(func() { _ = cg.Close() })
	return cg
}

// removeAfter removes a cgroup, and the parent that testName gave it if it is
// empty then, when the test ends.
func removeAfter(t testing.TB, root, name string) {
	t.Cleanup(func() {
		cg, err := Open(root, name)
		if errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(path.Join(root, path.Dir(name)))
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer cg.Close()
		if populated, _ := cg.Populated(); populated {
			if err := cg.Kill(context.Background(), nil); err != nil {
				t.Error(err)
			}
		}
		if err := cg.Delete(context.Background(), nil); err != nil {
			t.Error(err)
		}
		_ = os.Remove(path.Join(root, path.Dir(name)))
	})
}

func mount(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make cgroups")
	}
	root, err := Mount()
	if err != nil {
		t.Skip(err)
	}
	return root
}

// content reads a file of the cgroup with nothing of this package.
func content(t testing.TB, cg *Cgroup, file string) string {
	t.Helper()
	b, err := os.ReadFile(path.Join(cg.Path(), file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// recorder keeps the events that it is told.
type recorder struct{ events []explain.Event }

func (r *recorder) trace() *explain.Tracer {
	return explain.New("runtime", os.Getpid(), func(ev explain.Event) { r.events = append(r.events, ev) })
}

// writes returns the values written to the cgroup's own files, as "file=value".
func (r *recorder) writes() []string {
	var list []string
	for _, ev := range r.events {
		if ev.Op == "write" && !strings.HasPrefix(ev.Target, "/") {
			list = append(list, ev.Target+"="+ev.Value)
		}
	}
	return list
}

func ptr[T any](v T) *T { return &v }

// timeout is a context for what takes milliseconds on an idle machine.
func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
