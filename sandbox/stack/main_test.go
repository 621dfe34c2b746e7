// Package stack_test brings up the whole stack with the program itself, from
// the images that the recipes' tests have built, in namespaces without a way
// out: with a Docker engine of its own, and no registry in reach.
package stack_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// programsVar is the folder with the program, which TestMain has built outside.
const programsVar = "SANDBOX_TEST_PROGRAMS"

func TestMain(m *testing.M) {
	code, err := build(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func build(m *testing.M) (int, error) {
	dir := os.Getenv(programsVar)
	if dir == "" && os.Geteuid() == 0 {
		var err error
		if dir, err = os.MkdirTemp("", "sbp"); err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		cmd := exec.Command("go", "build", "-o", dir+"/", "./cmd/sandbox")
		cmd.Dir = "../.."
		if out, err := cmd.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("go build: %w\n%s", err, out)
		}
		if err := os.Setenv(programsVar, dir); err != nil {
			return 1, err
		}
	}
	return dockertest.MainWithNodes(m), nil
}

// sandbox is one of its own: state, daemon and user.
type sandbox struct {
	t           *testing.T
	root, run   string
	home        string
	environment []string
	daemon      *exec.Cmd
	ended       chan error
	log         *os.File
}

// kubeconfig is the user's.
func (s *sandbox) kubeconfig() string { return filepath.Join(s.home, "config") }

// newSandbox has the images of the recipes in its store, and its daemon runs.
func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	from, err := dockertest.Kept()
	if err != nil {
		t.Skip(err)
	}
	if _, err := os.Stat(filepath.Join(from, "images", "index.json")); err != nil {
		t.Skipf("the images of the recipes are not built: go test ./images -run TestRecipes (%v)", err)
	}
	// On the same file system, so that its blobs need no room.
	s := bareSandbox(t, filepath.Dir(from), dockertest.Host(t))
	if err := link(filepath.Join(from, "images"), filepath.Join(s.root, "images")); err != nil {
		t.Fatal(err)
	}
	if err := s.providers(); err != nil {
		t.Fatal(err)
	}
	s.start()
	return s
}

// providers has Terraform find the mirror of providers that the tests of the
// images use, if there is one, where it looks by itself.
func (s *sandbox) providers() error {
	mirror, err := dockertest.Providers()
	if err != nil {
		return nil //nolint:nilerr // verify says that there is no provider
	}
	dir := filepath.Join(s.home, ".terraform.d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Symlink(mirror, filepath.Join(dir, "plugins"))
}

// bareSandbox has nothing but its names, in a new folder below parent.
func bareSandbox(t *testing.T, parent, docker string) *sandbox {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "stack")
	if err != nil {
		t.Fatal(err)
	}
	s := &sandbox{t: t, root: filepath.Join(dir, "state"), run: t.TempDir(), home: t.TempDir()}
	s.environment = append(os.Environ(), "DOCKER_HOST="+docker, "HOME="+s.home, "KUBECONFIG="+s.kubeconfig(), "SANDBOX_RUN="+s.run, "SANDBOX_ROOT="+s.root)
	if s.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("the end of the daemon's log:\n%s", tail(s.log.Name(), 40))
		}
		_ = s.log.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

// link copies a store: blobs, which nobody changes, are linked, and what is
// replaced is copied.
func link(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			return os.MkdirAll(target, 0o700)
		case strings.HasPrefix(rel, "blobs/"):
			return os.Link(path, target)
		case e.Name() == "lock":
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, b, 0o600)
	})
}

// start starts the daemon and waits until it answers.
func (s *sandbox) start() {
	s.t.Helper()
	s.daemon = s.command(context.Background(), "daemon")
	s.daemon.Stdout, s.daemon.Stderr = s.log, s.log
	s.daemon.Cancel = nil
	if err := s.daemon.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.ended = make(chan error, 1)
	go func() { s.ended <- s.daemon.Wait() }()
	for range 600 {
		if out, err := s.command(s.t.Context(), "status", "--json").Output(); err == nil {
			var status api.StackStatus
			if err := json.Unmarshal(out, &status); err != nil || status.PID != s.daemon.Process.Pid {
				s.t.Fatalf("the daemon that answers is %d, not %d (%v)", status.PID, s.daemon.Process.Pid, err)
			}
			return
		}
		select {
		case err := <-s.ended:
			s.t.Fatalf("the daemon: %v\n%s", err, tail(s.log.Name(), 20))
		case <-time.After(50 * time.Millisecond):
		}
	}
	s.t.Fatal("the daemon does not answer")
}

// kill ends the daemon at once, if it has not ended yet.
func (s *sandbox) kill() {
	if s.daemon == nil {
		return
	}
	_ = s.daemon.Process.Kill()
	<-s.ended
	s.daemon = nil
}

func (s *sandbox) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(os.Getenv(programsVar), "sandbox"), args...)
	cmd.Env = s.environment
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	return cmd
}

// tail is the end of a file.
func tail(name string, lines int) string {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return tailOf(string(b), lines)
}

func tailOf(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
