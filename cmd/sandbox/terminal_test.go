package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal whose other side is a command's.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd

	mu  sync.Mutex
	out bytes.Buffer
}

// onTerminal starts a command on a terminal of 40 rows and 100 columns.
func onTerminal(t *testing.T, name string, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0),
		unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 100}))
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	term := &terminal{t: t, master: master, cmd: exec.Command(name, args...)}
	term.cmd.Stdin, term.cmd.Stdout, term.cmd.Stderr = slave, slave, slave
	term.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := term.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			term.mu.Lock()
			term.out.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return // EIO: nobody has the other side open any more
			}
		}
	}()
	return term
}

func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.out.String()
}

func (term *terminal) typeKeys(keys string) {
	if _, err := term.master.WriteString(keys); err != nil {
		term.t.Error(err)
	}
}

// expect waits for a text on the screen.
func (term *terminal) expect(text string) {
	term.t.Helper()
	for range 1000 {
		if strings.Contains(term.text(), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	term.t.Fatalf("%q does not appear on the terminal: %q", text, term.text())
}

func (term *terminal) resize(rows, cols uint16) {
	err := unix.IoctlSetWinsize(int(term.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	if err != nil {
		term.t.Error(err)
	}
}

// wait returns the command's exit code.
func (term *terminal) wait() int {
	term.t.Helper()
	done := make(chan struct{})
	go func() { _ = term.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = term.cmd.Process.Kill()
		term.t.Fatalf("the command does not end; its terminal shows %q", term.text())
	}
	return term.cmd.ProcessState.ExitCode()
}

// TestTerminal is `run -it` as a person uses it.
func TestTerminal(t *testing.T) {
	needReal(t)
	dir, err := os.MkdirTemp("", "sbt")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, run := dir+"/lib", dir+"/run"
	defer purge(t, root, run)
	t.Setenv("SANDBOX_ROOT", root)
	t.Setenv("SANDBOX_RUN", run)
	t.Setenv("SANDBOX_REGISTRY", "off")
	t.Setenv("TERM", "xterm")
	up := onTerminal(t, "sandbox", "up", "--only", "internals")
	if code := up.wait(); code != 0 {
		t.Fatalf("up exits with %d: %s", code, up.text())
	}
	up.expect("\x1b[32m✓\x1b[0m internals") // in colour, on a terminal

	t.Run("shell", func(t *testing.T) {
		term := onTerminal(t, "sandbox", "run", "--rm", "-it", "toolbox", "sh")
		term.expect("# ")
		term.typeKeys("stty size\r")
		term.expect("40 100")
		term.resize(50, 120)
		time.Sleep(200 * time.Millisecond)
		term.typeKeys("stty size\r")
		term.expect("50 120")
		// Ctrl-C reaches the foreground process, not the client.
		term.typeKeys("sleep 100\r")
		time.Sleep(300 * time.Millisecond)
		term.typeKeys("\x03")
		term.typeKeys("echo still $((40+2))\r")
		term.expect("still 42")
		term.typeKeys("exit 5\r")
		if code := term.wait(); code != 5 {
			t.Errorf("exit code %d", code)
		}
	})

	t.Run("detach and attach", func(t *testing.T) {
		term := onTerminal(t, "sandbox", "run", "-it", "--name", "kept", "toolbox", "sh")
		term.expect("# ")
		term.typeKeys("x=kept-value\r")
		term.typeKeys("\x10\x11") // ctrl-p ctrl-q
		if code := term.wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		term.expect("detached; kept goes on")
		again := onTerminal(t, "sandbox", "attach", "kept")
		time.Sleep(300 * time.Millisecond)
		again.typeKeys("echo it is $x\r")
		again.expect("it is kept-value")
		again.typeKeys("exit\r")
		if code := again.wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})

	t.Run("exec", func(t *testing.T) {
		if out, err := exec.Command("sandbox", "run", "-d", "--name", "host", "toolbox", "sleep", "1000").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		term := onTerminal(t, "sandbox", "exec", "-it", "host", "sh")
		term.expect("# ")
		term.typeKeys("tty; stty size\r")
		term.expect("/dev/pts/")
		term.expect("40 100")
		term.typeKeys("exit 3\r")
		if code := term.wait(); code != 3 {
			t.Errorf("exit code %d", code)
		}
	})

	t.Run("interrupted", func(t *testing.T) {
		// Without -t, Ctrl-C is a signal that is passed on.
		term := onTerminal(t, "sandbox", "run", "--rm", "toolbox", "sh", "-c", "trap 'echo caught; exit 8' INT; echo ready; while :; do sleep 0.1; done")
		term.expect("ready")
		term.typeKeys("\x03")
		if code := term.wait(); code != 8 {
			t.Errorf("exit code %d", code)
		}
		term.expect("caught")
	})

	t.Run("build", func(t *testing.T) {
		context := t.TempDir()
		dockerfile := "FROM toolbox\nRUN echo warming up; sleep 1; echo 'almost there'; sleep 1\nRUN echo the reason; exit 4\n"
		if err := os.WriteFile(context+"/Dockerfile", []byte(dockerfile), 0o644); err != nil {
			t.Fatal(err)
		}
		term := onTerminal(t, "sandbox", "build", "-t", "live", context)
		term.expect("RUN echo warming up")
		term.expect("almost there") // beside the step, while it runs
		term.expect("the reason")   // because it failed
		if code := term.wait(); code != 1 {
			t.Errorf("exit code %d", code)
		}
		term.expect("exit code 4")
		// What has ended is there once, and what it said is not.
		screen := term.text()
		if n := strings.Count(screen, "✓"); n != 1 {
			t.Errorf("%d steps have ended well: %q", n, screen)
		}
		// Ctrl-C stops what runs, and only then ends.
		if err := os.WriteFile(context+"/Dockerfile", []byte("FROM toolbox\nRUN echo ready; sleep 1000\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		term = onTerminal(t, "sandbox", "build", "-t", "live", context)
		term.expect("ready")
		term.typeKeys("\x03")
		if code := term.wait(); code != 130 {
			t.Errorf("exit code %d: %q", code, term.text())
		}
		term.expect("interrupted: stopping")
		if out, err := exec.Command("sandbox", "ps", "-aq").CombinedOutput(); err != nil || strings.Contains(string(out), "build") {
			t.Errorf("after the interrupt: %v: %s", err, out)
		}
	})

	t.Run("status", func(t *testing.T) {
		// The table stays in its place: each is drawn over the last, and never
		// longer than the terminal.
		term := onTerminal(t, "sandbox", "status", "--watch")
		term.expect("version devel")
		term.expect("\x1b[1A\x1b[J")
		term.resize(8, 80)
		term.expect("for which this terminal has no room")
		term.resize(40, 80)
		term.typeKeys("\x03")
		if code := term.wait(); code != 130 {
			t.Errorf("exit code %d: %q", code, term.text())
		}
	})

	t.Run("up interrupted", func(t *testing.T) {
		// It may be too quick for our fingers, but not every time.
		for range 5 {
			if out, err := exec.Command("sandbox", "down").CombinedOutput(); err != nil {
				t.Fatalf("down: %v: %s", err, out)
			}
			term := onTerminal(t, "sandbox", "up", "--only", "internals")
			term.expect("internals")
			term.typeKeys("\x03")
			code := term.wait()
			if code == 0 {
				continue
			}
			if code != 130 {
				t.Errorf("exit code %d: %s", code, term.text())
			}
			term.expect("up was aborted")
			again := onTerminal(t, "sandbox", "up", "--only", "internals")
			if code := again.wait(); code != 0 {
				t.Errorf("up after an interrupted one exits with %d: %s", code, again.text())
			}
			return
		}
		t.Error("up was never interrupted")
	})
}
