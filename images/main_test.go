// Package images_test builds every recipe of this folder for real, runs what
// came of it in three engines, and builds it a second time.
package images_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/embedded"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/network"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
	"github.com/sandboxlabs/sandbox/pkg/recipe/sbom"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// suite is what the tests share: a store that is kept from run to run, so that
// nothing is compiled twice, and all that builds into it.
type suite struct {
	Dirs      state.Dirs
	Store     *image.Store
	Engine    *raw.Engine
	Builder   *build.Builder
	Catalogue *recipe.Catalogue
	cgroup    string // below which containers have theirs
}

// processors returns how long processors have worked for this suite's
// containers, those of builds among them.
func (s *suite) processors(t *testing.T) time.Duration {
	t.Helper()
	root, err := cgroup.Mount()
	if err != nil {
		t.Fatal(err)
	}
	c, err := cgroup.Open(root, s.cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		return 0 // there was no container yet
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stats, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return stats.CPU.Usage
}

func openSuite(t *testing.T) *suite {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	root, err := dockertest.Kept()
	if err != nil {
		t.Skip(err)
	}
	return openSuiteIn(t, root)
}

func openSuiteIn(t *testing.T, root string) *suite {
	t.Helper()
	// One engine at a time sweeps and works in it.
	lock, err := lockFolder(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() })
	run, err := os.MkdirTemp("", "sbi")
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{Dirs: state.Dirs{Root: root, Run: run}, cgroup: "/" + filepath.Base(run)}
	if err := extract(embedded.Runtime, s.Dirs.RuntimeBinary()); err != nil {
		t.Skip(err)
	}
	if s.Store, err = image.Open(s.Dirs); err != nil {
		t.Fatal(err)
	}
	toolbox, err := embedded.Open(embedded.Toolbox)
	if err != nil {
		t.Skip(err)
	}
	_, err = s.Store.EnsureBuiltin(t.Context(), toolbox)
	if err := errors.Join(err, toolbox.Close()); err != nil {
		t.Fatal(err)
	}
	log := zap.NewNop()
	if testing.Verbose() {
		log = zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	}
	// The host's own network: builds download.
	links, err := network.New(network.Config{Dirs: s.Dirs, Log: log, Bridge: "sbtimages0"})
	if err != nil {
		t.Fatal(err)
	}
	s.Builder = &build.Builder{Store: s.Store, Dirs: s.Dirs, Host: build.HostFromEnv(), Log: log}
	s.Engine = raw.New(raw.Config{
		Dirs: s.Dirs, Images: s.Store, Network: links, Log: log, CgroupParent: s.cgroup, Keep: s.Builder.Keep,
	})
	s.Builder.Engine = s.Engine
	if err := s.Engine.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := errors.Join(s.Engine.Purge(ctx), s.Engine.Close(), links.Down(ctx, nil), links.Close())
		s.Builder.Close()
		s.Store.Close()
		if err := errors.Join(err, os.RemoveAll(run)); err != nil {
			t.Error(err)
		}
	})
	if s.Catalogue, err = recipe.LoadAll("."); err != nil {
		t.Fatal(err)
	}
	return s
}

// maker returns what builds the recipes, with everything that `sandbox image
// build` does.
func (s *suite) maker() *recipe.Maker {
	return &recipe.Maker{
		Catalogue: s.Catalogue, Dirs: s.Dirs, Build: s.Builder.FromRecipe, Engine: s.Engine, Env: s.Builder.Host.Env,
		Describe: sbom.Describer(s.Store, s.Engine),
	}
}

// extract copies a file that travels inside of the program.
func extract(name, to string) error {
	from, err := embedded.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	b, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	return state.WriteFile(to, b, 0o755)
}

// lockFolder waits until nobody else uses the folder; closing the file gives it
// back.
func lockFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return f, unix.Flock(int(f.Fd()), unix.LOCK_EX)
}

// alone reports whether only some of a test's subtests are asked for.
func alone() bool {
	return strings.Contains(flag.Lookup("test.run").Value.String(), "/")
}
