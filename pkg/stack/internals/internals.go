// Package internals is the stage that runs containers with the project's own
// parts: runtime, network and built-in image, proved by a container.
package internals

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"golang.org/x/sys/unix"
)

// Name of the stage.
const Name = "internals"

// runtimeMode is for all to run and nobody to write.
const runtimeMode fs.FileMode = 0o555

// stopGrace is how long `down` lets a container end by itself.
const stopGrace = 10 * time.Second

// Config is what the stage is made of.
type Config struct {
	Dirs   state.Dirs
	Engine engine.Engine // raw
	// Preflight looks at the host; a finding with status fail ends the stage.
	Preflight func(ctx context.Context) ([]api.Finding, error)
	// Runtime opens the embedded sandbox-runtime.
	Runtime func() (fs.File, error)
	Network Part // the bridge and its firewall rules
	Image   Part // the built-in image; its Remove is not called
	// Toolbox is the name of the image, which has sh and cat.
	Toolbox string
	// Purge removes what the engine keeps when it has no containers, such as
	// the cgroup that they were in.
	Purge func(ctx context.Context) error
}

// Part is something that another package makes.
type Part struct {
	// Ensure converges and says in a few words what it found or did. It may tell
	// p more.
	Ensure func(ctx context.Context, p stack.Progress) (note string, err error)
	Remove func(ctx context.Context) error
	// Status looks without changing anything.
	Status func(ctx context.Context) (api.StatusItem, error)
}

// Stage implements stack.Stage.
type Stage struct{ Config }

// New returns the stage.
func New(cfg Config) *Stage { return &Stage{cfg} }

func (s *Stage) Name() string    { return Name }
func (s *Stage) Needs() []string { return nil }

func (s *Stage) Up(api.UpOptions) []stack.Step {
	return []stack.Step{
		{Name: "preflight", Do: s.preflight},
		{Name: "state folders", Do: s.folders},
		{Name: "runtime", Do: s.runtime},
		{Name: "network", Do: ensure(s.Network)},
		{Name: "toolbox image", Do: ensure(s.Image)},
		{Name: "self-test", Do: s.selfTest, Undo: s.removeSelfTests},
	}
}

func (s *Stage) Down(opts api.DownOptions) []stack.Step {
	steps := []stack.Step{
		{Name: "containers", Do: s.removeContainers},
		{Name: "network", Do: func(ctx context.Context, p stack.Progress) error { return s.Network.Remove(ctx) }},
	}
	if opts.Purge {
		steps = append(steps, stack.Step{Name: "state folders", Do: s.purge})
	}
	return steps
}

// ensure makes a step of a part.
func ensure(part Part) func(context.Context, stack.Progress) error {
	return func(ctx context.Context, p stack.Progress) error {
		note, err := part.Ensure(ctx, p)
		if err == nil {
			p.Note("%s", note)
		}
		return err
	}
}

// preflight ends with what the host lacks. Warnings are for doctor to show:
// the containers that they concern will say so, too.
func (s *Stage) preflight(ctx context.Context, p stack.Progress) error {
	findings, err := s.Preflight(ctx)
	if err != nil {
		return err
	}
	var failed []api.Finding
	warnings := 0
	for _, f := range findings {
		switch f.Status {
		case "fail":
			failed = append(failed, f)
		case "warn":
			warnings++
		}
	}
	if len(failed) > 0 {
		return &notReadyError{failed}
	}
	if warnings > 0 {
		p.Note("%d checks, %d with a warning: see `sandbox doctor`", len(findings), warnings)
	} else {
		p.Note("%d checks", len(findings))
	}
	return nil
}

// notReadyError says what the host lacks.
type notReadyError struct{ failed []api.Finding }

func (e *notReadyError) Error() string {
	var parts []string
	for _, f := range e.failed {
		parts = append(parts, fmt.Sprintf("%s: %s (%s)", f.Check, f.Found, f.Why))
	}
	return "the host is not ready: " + strings.Join(parts, "; ")
}

func (e *notReadyError) Unwrap() error { return errdefs.ErrFailedPrecondition }

func (e *notReadyError) Hint() string {
	if len(e.failed) == 1 && e.failed[0].Fix != "" {
		return e.failed[0].Fix
	}
	return "`sandbox doctor` lists every check with its fix; `sudo sandbox doctor --fix` makes what it can"
}

// folders makes the folders that hold everything else. Only root may enter
// those with the contents of containers and images.
func (s *Stage) folders(ctx context.Context, p stack.Progress) error {
	made := 0
	for _, dir := range []struct {
		path string
		mode fs.FileMode
	}{
		{s.Dirs.Root, 0o711},
		{s.Dirs.Images(), 0o700},
		{s.Dirs.Layers(), 0o711}, // a container in a user namespace reaches its layers as another user
		{s.Dirs.Containers(), 0o711},
		{filepath.Dir(s.Dirs.RuntimeBinary()), 0o755},
		{filepath.Dir(s.Dirs.Leases()), 0o700},
		{filepath.Dir(s.Dirs.Stage("")), 0o700},
		{s.Dirs.Run, 0o755},
		{s.Dirs.RunContainers(), 0o711},
		{s.Dirs.RuntimeRoot(), 0o700},
	} {
		switch fi, err := os.Lstat(dir.path); {
		case err == nil && !fi.IsDir():
			return fmt.Errorf("%s is in the way: it is not a folder: %w", dir.path, errdefs.ErrFailedPrecondition)
		case errors.Is(err, fs.ErrNotExist):
			if err := os.MkdirAll(dir.path, dir.mode); err != nil {
				return err
			}
			made++
		case err != nil:
			return err
		}
		// The umask may have taken bits off, and state.WriteFile makes missing
		// parents for root only.
		if err := os.Chmod(dir.path, dir.mode); err != nil {
			return err
		}
	}
	if made == 0 {
		p.Note("already there")
	} else {
		p.Note("made under %s and %s", s.Dirs.Root, s.Dirs.Run)
	}
	return nil
}

// runtime extracts the embedded runtime. A running container's shim keeps the
// old file: it is replaced by rename, never written to.
func (s *Stage) runtime(ctx context.Context, p stack.Progress) error {
	path := s.Dirs.RuntimeBinary()
	same, err := s.runtimeIsCurrent(path)
	if err != nil {
		return err
	}
	if same {
		p.Note("already there")
	} else {
		f, err := s.Runtime()
		if err != nil {
			return err
		}
		defer f.Close()
		binary, err := io.ReadAll(f)
		if err != nil {
			return fmt.Errorf("read the embedded runtime: %w", err)
		}
		if err := state.WriteFile(path, binary, runtimeMode); err != nil {
			return fmt.Errorf("extract the runtime: %w", err)
		}
		p.Note("%s, %.1f MB", path, float64(len(binary))/1e6)
	}
	var fsys unix.Statfs_t
	if err := unix.Statfs(path, &fsys); err != nil {
		return fmt.Errorf("statfs %s: %w", path, err)
	}
	if fsys.Flags&unix.ST_NOEXEC != 0 {
		return fmt.Errorf("the file system of %s is mounted noexec, so the runtime cannot run: %w", path, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// runtimeIsCurrent compares the extracted runtime with the embedded one, piece
// by piece: the daemon should not hold two of them in memory.
func (s *Stage) runtimeIsCurrent(path string) (bool, error) {
	have, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer have.Close()
	if fi, err := have.Stat(); err != nil || fi.Mode() != runtimeMode {
		return false, err
	}
	want, err := s.Runtime()
	if err != nil {
		return false, err
	}
	defer want.Close()
	var a, b [32 << 10]byte
	for {
		n, errA := io.ReadFull(have, a[:])
		m, errB := io.ReadFull(want, b[:])
		if !bytes.Equal(a[:n], b[:m]) {
			return false, nil
		}
		switch {
		case errA == nil && errB == nil:
		case ended(errA) && ended(errB):
			return true, nil
		default:
			return false, fmt.Errorf("compare %s with the embedded runtime: %w", path, errors.Join(errA, errB))
		}
	}
}

// ended reports whether io.ReadFull came to the end of a file.
func ended(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }

// removeContainers stops and removes all containers, side by side.
func (s *Stage) removeContainers(ctx context.Context, p stack.Progress) error {
	all, err := s.Engine.List(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, len(all))
	var removed atomic.Int32
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() {
			if c.Status == api.StatusRunning || c.Status == api.StatusPaused {
				// A container that does not stop is removed by force.
				if err := s.Engine.Stop(ctx, c.ID, stopGrace); ctx.Err() != nil {
					errs[i] = err
					return
				}
			}
			if err := s.Engine.Remove(ctx, c.ID, true); err != nil && !errdefs.IsNotFound(err) {
				errs[i] = fmt.Errorf("remove container %s: %w", c.Name, err)
				return
			}
			p.Note("%d of %d removed", removed.Add(1), len(all))
		})
	}
	wg.Wait()
	p.Note("%d removed", removed.Load())
	return errors.Join(errs...)
}

func (s *Stage) Status(ctx context.Context) ([]api.StatusItem, error) {
	items := []api.StatusItem{
		{What: "state", Where: s.Dirs.Root, State: present(s.Dirs.Containers())},
		{What: "runtime", Where: s.Dirs.RuntimeBinary(), State: present(s.Dirs.RuntimeBinary())},
	}
	var errs []error
	for _, part := range []Part{s.Network, s.Image} {
		item, err := part.Status(ctx)
		if err != nil {
			errs = append(errs, err)
			item.State = stack.StateDegraded
		}
		items = append(items, item)
	}
	all, err := s.Engine.List(ctx)
	if err != nil {
		errs = append(errs, err)
	} else if len(all) > 0 {
		running := 0
		for _, c := range all {
			if c.Status == api.StatusRunning || c.Status == api.StatusPaused {
				running++
			}
		}
		items[1].Note = fmt.Sprintf("%d containers, %d running", len(all), running)
	}
	return items, errors.Join(errs...)
}

func present(path string) string {
	if _, err := os.Stat(path); err != nil {
		return stack.StateDown
	}
	return stack.StateUp
}
