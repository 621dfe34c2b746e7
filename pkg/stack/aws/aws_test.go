package aws

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/state"
	awsfiles "github.com/sandboxlabs/sandbox/sandbox/stack/aws"
)

// TestExtract: the add-on is written once, and another one elsewhere, so that
// the container is made anew for it. What images/localstack_test.go needs
// Docker for is not repeated here.
func TestExtract(t *testing.T) {
	root := t.TempDir()
	s := New(Config{Dirs: state.Dirs{Root: root}, Init: awsfiles.Init()})
	first, err := s.extract()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"start.d/keep.py", "keep/__init__.py", "keep/journal.py"} {
		if _, err := os.Stat(filepath.Join(first, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(first, "keep/test_journal.py")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("tests are in it: %v", err)
	}
	damaged := filepath.Join(first, "start.d/keep.py")
	if err := os.Truncate(damaged, 3); err != nil {
		t.Fatal(err)
	}
	if again, err := s.extract(); err != nil || again != first {
		t.Errorf("%s, %v", again, err)
	}
	if fi, err := os.Stat(damaged); err != nil || fi.Size() < 10 {
		t.Errorf("not repaired: %v, %v", fi, err)
	}
	s.Init = fstest.MapFS{"start.d/keep.py": {Data: []byte("pass\n")}}
	other, err := s.extract()
	if err != nil || other == first {
		t.Errorf("%s, %v", other, err)
	}
	if _, err := os.Stat(first); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old one is there: %v", err)
	}
	if err := s.removeFiles(); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(root + "/stages/*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestService(t *testing.T) {
	s := New(Config{Dirs: state.Dirs{Root: t.TempDir()}})
	moved := s.service(api.Settings{Ports: map[string]uint16{ServiceName: 5566}}, "/init")
	if moved.Ports[0] != (docker.Port{Host: 5566, Container: 4566}) || !strings.Contains(strings.Join(moved.Env, " "), "LOCALSTACK_HOST=localhost:5566") {
		t.Errorf("%+v", moved)
	}
	if e := Endpoint(api.Settings{}); e != "http://127.0.0.1:4566" {
		t.Error(e)
	}
	if needs := s.Needs(); len(needs) != 1 || needs[0] != docker.Name {
		t.Error(needs)
	}
}

// TestNobodyAnswers: every call says what to do about it.
func TestNobodyAnswers(t *testing.T) {
	c := Cloud{Endpoint: "http://127.0.0.1:1", Region: DefaultRegion}
	for name, call := range map[string]func(context.Context) error{
		"health": func(ctx context.Context) error { _, err := c.Health(ctx); return err },
		"kept":   func(ctx context.Context) error { return kept(ctx, c, stack.Progress{}) },
		"bucket": func(ctx context.Context) error { _, err := c.EnsureBucket(ctx, "b"); return err },
		"table":  func(ctx context.Context) error { _, err := c.EnsureTable(ctx, "t"); return err },
		"list":   func(ctx context.Context) error { _, err := c.List(ctx); return err },
	} {
		err := call(t.Context())
		var hint interface{ Hint() string }
		if !errdefs.IsUnavailable(err) || !errors.As(err, &hint) || hint.Hint() != "sudo sandbox up --only aws" {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.Endpoint = "no URL\n"
	if _, err := c.EnsureBucket(t.Context(), "b"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
}
