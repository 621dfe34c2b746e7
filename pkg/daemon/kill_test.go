package daemon

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/client"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// TestMain is also the daemon that TestKill9 kills: a step of its up leaves a
// file when it begins, and ends when the file "go" is there.
func TestMain(m *testing.M) {
	hiddenCommands()
	if root := os.Getenv("SBT_DAEMON"); root != "" {
		killable(root)
		return
	}
	os.Exit(m.Run())
}

func killable(root string) {
	dirs := state.Dirs{Root: filepath.Join(root, "lib"), Run: filepath.Join(root, "run")}
	slow := stack.Step{Name: "slow", Do: func(ctx context.Context, p stack.Progress) error {
		if err := os.WriteFile(filepath.Join(root, "begun"), nil, 0o600); err != nil {
			return err
		}
		for {
			if _, err := os.Stat(filepath.Join(root, "go")); err == nil {
				p.Note("went on")
				return nil
			}
			select {
			case <-ctx.Done():
				// Hang, as if undoing took long: the abort is killed in the middle.
				time.Sleep(time.Minute)
			case <-time.After(time.Millisecond):
			}
		}
	}}
	g, err := stack.New(&testStage{name: "a", up: []stack.Step{quick("one"), slow, quick("three")}, down: []stack.Step{slow}})
	if err == nil {
		err = New(Config{Dirs: dirs, Engine: newFakeEngine(), Stack: g, Log: zap.NewNop()}).Run(context.Background())
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestKill9(t *testing.T) {
	type daemon struct {
		*client.Client
		cmd *exec.Cmd
	}
	setup := func(t *testing.T) (root string, dirs state.Dirs, spawn func() daemon) {
		dirs = tempDirs(t)
		root = filepath.Dir(dirs.Root)
		return root, dirs, func() daemon {
			d := daemon{client.New(dirs.Socket()), exec.Command(os.Args[0])}
			d.cmd.Env = append(os.Environ(), "SBT_DAEMON="+root)
			d.cmd.Stdout, d.cmd.Stderr = os.Stderr, os.Stderr
			if err := d.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { d.Close(); _ = d.cmd.Process.Kill(); _ = d.cmd.Wait() })
			eventually(t, "the daemon answers", func() bool { _, err := d.Version(t.Context()); return err == nil })
			return d
		}
	}
	kill := func(d daemon) {
		_ = d.cmd.Process.Signal(syscall.SIGKILL)
		_ = d.cmd.Wait()
	}
	begun := func(t *testing.T, root string) {
		path := filepath.Join(root, "begun")
		eventually(t, "the step begins", func() bool { return os.Remove(path) == nil })
	}
	for _, kind := range []string{api.ChangeUp, api.ChangeDown} {
		t.Run(kind+" is resumed", func(t *testing.T) {
			root, _, spawn := setup(t)
			d := spawn()
			var ref api.ChangeRef
			var err error
			if kind == api.ChangeUp {
				ref, err = d.Up(t.Context(), api.UpOptions{})
			} else {
				ref, err = d.Down(t.Context(), api.DownOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
			begun(t, root)
			kill(d)
			d = spawn()
			begun(t, root)
			if err := os.WriteFile(filepath.Join(root, "go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := d.FollowChange(t.Context(), ref.ID, nil)
			if err != nil || c.Status != api.Done {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
	t.Run("not for ever", func(t *testing.T) {
		root, _, spawn := setup(t)
		d := spawn()
		ref, err := d.Up(t.Context(), api.UpOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			begun(t, root)
			kill(d)
			d = spawn()
		}
		c, err := d.Change(t.Context(), ref.ID)
		if err != nil || c.Status != api.Failed || !strings.Contains(c.Error.Message, "died in the middle of it 4 times") {
			t.Errorf("%+v %+v, %v", c, c.Error, err)
		}
		if s := statuses(c); s != "one:done slow:aborted three:skipped" {
			t.Error(s)
		}
	})
	t.Run("an abort stays one", func(t *testing.T) {
		root, dirs, spawn := setup(t)
		d := spawn()
		ref, err := d.Up(t.Context(), api.UpOptions{})
		if err != nil {
			t.Fatal(err)
		}
		begun(t, root)
		go func() { _, _ = d.AbortChange(context.Background(), ref.ID, false) }()
		eventually(t, "the abort is on disk", func() bool {
			b, err := os.ReadFile(dirs.Change(ref.ID))
			return err == nil && strings.Contains(string(b), `"aborting":true`)
		})
		kill(d)
		d = spawn()
		c, err := d.Change(t.Context(), ref.ID)
		if err != nil || c.Status != api.Aborted || statuses(c) != "one:done slow:aborted three:skipped" {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("a second daemon names the first", func(t *testing.T) {
		root, _, spawn := setup(t)
		d := spawn()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SBT_DAEMON="+root)
		out, err := cmd.Output()
		want := fmt.Sprintf("another sandbox daemon is running (PID %d)\n", d.cmd.Process.Pid)
		if err == nil || string(out) != want {
			t.Errorf("%q, %v; want %q", out, err, want)
		}
	})
}

// TestLockOfDeadDaemon: a child that a killed daemon was just starting may hold
// its lock for a moment; whoever starts the next one waits for that.
func TestLockOfDeadDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.lock")
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(dead.Process.Pid)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	child, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(child.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = child.Close() })
	f, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
