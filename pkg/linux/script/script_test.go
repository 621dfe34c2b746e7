package script

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// start runs s with stdout captured and returns its results, output and status.
func start(t *testing.T, s *Script) (*Results, string, unix.WaitStatus) {
	t.Helper()
	rf, err := os.Create(filepath.Join(t.TempDir(), "results"))
	if err != nil {
		t.Fatal(err)
	}
	defer rf.Close()
	res, err := CreateResults(rf, s.Len())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Close() })
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	p, err := s.Start([]*os.File{nil, pw, os.Stderr, rf}, 3, &syscall.SysProcAttr{})
	_ = pw.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	out, err := io.ReadAll(pr)
	if err != nil {
		t.Fatal(err)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(p.PID, &ws, 0, nil); err != nil {
		t.Fatal(err)
	}
	return res, string(out), ws
}

func write(s *Script, text string) Op {
	return Op{Nr: unix.SYS_WRITE, Args: []Arg{Int(1), s.String(text), Int(len(text))}, Event: explain.Event{Op: "write"}}
}

func exit(code int) Op { return Op{Nr: unix.SYS_EXIT_GROUP, Args: []Arg{Int(code)}} }

func TestBranches(t *testing.T) {
	s := New(false)
	missing, end := s.NewLabel(), s.NewLabel()
	s.Do(Op{Nr: unix.SYS_FACCESSAT, Args: []Arg{Int(unix.AT_FDCWD), s.String("/does/not/exist"), Int(0)}, Err: missing})
	s.Do(write(s, "found"))
	s.Place(missing)
	op := write(s, "missing")
	op.OK = end
	s.Do(op)
	s.Do(write(s, "skipped"))
	s.Place(end)
	s.Do(Op{Nr: unix.SYS_MKDIRAT, Args: []Arg{Int(unix.AT_FDCWD), s.String("/proc"), Int(0)}, Accept: unix.EEXIST})
	s.Do(exit(7))
	res, out, ws := start(t, s)
	if out != "missing" || ws.ExitStatus() != 7 {
		t.Fatalf("output %q, status %d", out, ws.ExitStatus())
	}
	if res.Failed() != -1 || res.Errno(0) != unix.ENOENT || res.Ran(1) || !res.Ran(2) || res.Errno(4) != unix.EEXIST {
		t.Fatalf("failed %d, errno %v, ran %v %v", res.Failed(), res.Errno(0), res.Ran(1), res.Ran(2))
	}
}

func TestVariables(t *testing.T) {
	s := New(true)
	fd := s.NewVar(0)
	buf := s.Bytes(make([]byte, 64))
	n := s.NewVar(0)
	s.Do(Op{Nr: unix.SYS_OPENAT, Args: []Arg{Int(unix.AT_FDCWD), s.String("/proc/self/comm"), Int(0)}, Out: fd})
	s.Do(Op{Nr: unix.SYS_READ, Args: []Arg{fd.Get(), buf, Int(64)}, Out: n})
	text := s.NewVar(0)
	s.Do(Op{Nr: NoCall, Args: []Arg{buf}, Out: text})
	s.Do(Op{Nr: unix.SYS_WRITE, Args: []Arg{Int(1), text.Get(), n.Get()}, Event: explain.Event{Op: "write", Target: "stdout"}})
	s.Do(exit(0))
	res, out, _ := start(t, s)
	if out == "" || out[len(out)-1] != '\n' {
		t.Fatalf("output %q", out)
	}
	var events []explain.Event
	s.Report(res, 0, s.Len(), 42, explain.New("x", 1, func(e explain.Event) { events = append(events, e) }))
	if len(events) != 1 || events[0].PID != 42 || events[0].Actor != "init" || events[0].Duration <= 0 {
		t.Fatalf("events %+v", events)
	}
}

func TestFatal(t *testing.T) {
	s := New(false)
	s.Do(write(s, "a"))
	s.Do(Op{Nr: unix.SYS_CHDIR, Args: []Arg{s.String("/does/not/exist")}, Event: explain.Event{Op: "chdir", Target: "/does/not/exist"}})
	s.Do(write(s, "b"))
	res, out, ws := start(t, s)
	if out != "a" || ws.ExitStatus() != 1 || res.Failed() != 1 {
		t.Fatalf("output %q, status %d, failed %d", out, ws.ExitStatus(), res.Failed())
	}
	err := res.Error(1, s.Op(1).Event)
	if !errors.Is(err, unix.ENOENT) || err.Error() != "chdir /does/not/exist: no such file or directory" {
		t.Fatal(err)
	}
}

func TestExec(t *testing.T) {
	s := New(false)
	s.Do(Op{Nr: unix.SYS_EXECVE, Args: []Arg{s.String("/bin/sh"), s.Strings([]string{"sh", "-c", "echo $0 $X"}), s.Strings([]string{"X=y"})}})
	if _, out, ws := start(t, s); out != "sh y\n" || ws.ExitStatus() != 0 {
		t.Fatalf("output %q, status %d", out, ws.ExitStatus())
	}
}

// The image that a container could reach by /proc/PID/exe can't be written.
func TestSealed(t *testing.T) {
	f, err := seal([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("y"), 0); !errors.Is(err, unix.EPERM) {
		t.Fatalf("write: %v", err)
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Fatalf("truncate: %v", err)
	}
}

func TestUnplacedLabel(t *testing.T) {
	s := New(false)
	op := exit(0)
	op.Err = s.NewLabel()
	s.Do(op)
	if _, err := s.image(3); err == nil {
		t.Fatal("want an error")
	}
}

// The committed interpreters are what their sources assemble to.
func TestInterpreterSource(t *testing.T) {
	for arch, prefix := range map[string]string{"amd64": "x86_64-linux-gnu-", "arm64": "aarch64-linux-gnu-"} {
		t.Run(arch, func(t *testing.T) {
			if _, err := exec.LookPath(prefix + "as"); err != nil {
				t.Skip("no " + prefix + "as on this host")
			}
			dir := t.TempDir()
			obj, bin := filepath.Join(dir, "o"), filepath.Join(dir, "bin")
			for _, c := range [][]string{
				{prefix + "as", "-o", obj, "interp/" + arch + ".S"},
				{prefix + "objcopy", "-O", "binary", "-j", ".text", obj, bin},
			} {
				if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %v\n%s", c, err, out)
				}
			}
			got, err := os.ReadFile(bin)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile("interp/" + arch + ".bin")
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatal("interp/" + arch + ".bin is stale: run go generate ./pkg/linux/script")
			}
		})
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		s := New(false)
		for range 150 {
			s.Do(Op{Nr: unix.SYS_GETPPID})
		}
		s.Do(exit(0))
		rf, err := os.CreateTemp(b.TempDir(), "")
		if err != nil {
			b.Fatal(err)
		}
		res, err := CreateResults(rf, s.Len())
		if err != nil {
			b.Fatal(err)
		}
		p, err := s.Start([]*os.File{nil, nil, nil, rf}, 3, &syscall.SysProcAttr{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := unix.Wait4(p.PID, nil, 0, nil); err != nil {
			b.Fatal(err)
		}
		_ = p.Close()
		_ = res.Close()
		_ = rf.Close()
	}
}
