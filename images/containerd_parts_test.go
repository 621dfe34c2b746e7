package images_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// mounts are those that the test asks for, and the files that every container
// finds.
func (c *ctrContainer) mounts(spec api.ContainerSpec) ([]specs.Mount, error) {
	hosts := filepath.Join(c.dir, "hosts")
	content := fmt.Sprintf("127.0.0.1\tlocalhost\n::1\tlocalhost\n%s\t%s\n", c.ip, filepath.Base(c.dir))
	if err := os.WriteFile(hosts, []byte(content), 0o644); err != nil { // whoever the image runs as reads it
		return nil, err
	}
	mounts := []specs.Mount{{Type: "bind", Source: hosts, Destination: "/etc/hosts", Options: []string{"rbind", "rw"}}}
	for _, m := range spec.Mounts {
		options := m.Options
		switch m.Type {
		case "bind":
			options = append([]string{"rbind"}, options...)
		case "tmpfs":
			m.Source = "tmpfs"
			options = append([]string{"nosuid", "nodev", "noexec"}, options...)
		default:
			return nil, fmt.Errorf("mount of type %s: %w", m.Type, errdefs.ErrNotImplemented)
		}
		mounts = append(mounts, specs.Mount{Type: m.Type, Source: m.Source, Destination: m.Target, Options: options})
	}
	// What lies in another is mounted after it.
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int {
		return len(filepath.Clean(a.Destination)) - len(filepath.Clean(b.Destination))
	})
	return mounts, nil
}

// withVolumes mounts a folder for each volume that the image declares and the
// test does not mount, filled with what the image has there, as Docker does.
func (c *ctrContainer) withVolumes(ctx context.Context, e *client.Client, volumes []string, mounted []api.Mount) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, info *containers.Container, s *specs.Spec) error {
		volumes = slices.DeleteFunc(volumes, func(v string) bool {
			return slices.ContainsFunc(mounted, func(m api.Mount) bool { return filepath.Clean(m.Target) == filepath.Clean(v) })
		})
		if len(volumes) == 0 {
			return nil
		}
		layers, err := e.SnapshotService(info.Snapshotter).Mounts(ctx, info.SnapshotKey)
		if err != nil {
			return err
		}
		var mounts []specs.Mount
		err = mount.WithReadonlyTempMount(ctx, layers, func(root string) error {
			for i, v := range volumes {
				source := filepath.Join(c.dir, fmt.Sprint("volume", i))
				if err := os.Mkdir(source, 0o755); err != nil {
					return err
				}
				mounts = append(mounts, specs.Mount{Type: "bind", Source: source, Destination: v, Options: []string{"rbind", "rw"}})
				from, err := securejoin.SecureJoin(root, v)
				if err != nil {
					return err
				}
				if _, err := os.Lstat(from); err != nil {
					continue // the runtime makes the mount point
				}
				if out, err := exec.CommandContext(ctx, "cp", "-aT", from, source).CombinedOutput(); err != nil {
					return fmt.Errorf("fill volume %s: %w: %s", v, err, out)
				}
			}
			return nil
		})
		// The test's own mounts may lie in volumes.
		s.Mounts = slices.Insert(s.Mounts, len(s.Mounts)-len(mounted)-1, mounts...)
		return err
	}
}

// withoutRlimits leaves the daemon's limits, as Docker and Kubernetes do.
func withoutRlimits(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
	s.Process.Rlimits = nil
	return nil
}

// ctrProcess is one process of a container and what it writes, framed as Docker
// frames it; see engine.Session.
type ctrProcess struct {
	mu     sync.Mutex
	more   *sync.Cond
	frames bytes.Buffer
	ended  bool // nothing more is written, or read

	exited chan struct{}
	code   int // once exited
	err    error
}

func newProcess() *ctrProcess {
	p := &ctrProcess{exited: make(chan struct{})}
	p.more = sync.NewCond(&p.mu)
	return p
}

// io connects the process through FIFOs in dir.
func (p *ctrProcess) io(dir string) cio.Creator {
	return cio.NewCreator(cio.WithStreams(nil, frameWriter{p, 1}, frameWriter{p, 2}), cio.WithFIFODir(filepath.Join(dir, "fifo")))
}

// follow waits for the process in the background. It must be called before the
// process is started.
func (p *ctrProcess) follow(ctx context.Context, process client.Process) error {
	exits, err := process.Wait(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	go func() {
		exit := <-exits
		process.IO().Wait() // all that it has written is here
		p.end()
		p.code, p.err = int(exit.ExitCode()), exit.Error()
		close(p.exited)
	}()
	return nil
}

func (p *ctrProcess) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.more.Broadcast()
}

// Wait returns the process's exit code.
func (p *ctrProcess) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.exited:
		return p.code, p.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Read implements io.Reader.
func (p *ctrProcess) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.frames.Len() == 0 && !p.ended {
		p.more.Wait()
	}
	return p.frames.Read(b) // io.EOF when it is empty
}

// frameWriter frames one stream of a process.
type frameWriter struct {
	p      *ctrProcess
	stream byte
}

// Write implements io.Writer.
func (w frameWriter) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	if !w.p.ended {
		header := [8]byte{0: w.stream}
		binary.BigEndian.PutUint32(header[4:], uint32(len(b)))
		w.p.frames.Write(header[:])
		w.p.frames.Write(b)
		w.p.more.Broadcast()
	}
	return len(b), nil
}

// ctrSession is a process as its user sees it.
type ctrSession struct {
	*ctrProcess
	remove func() error // of a process of exec
}

// Close lets go of the process, and ends one of exec.
func (s *ctrSession) Close() error {
	s.end()
	if s.remove != nil {
		return s.remove()
	}
	return nil
}

func (*ctrSession) Write([]byte) (int, error)   { return 0, io.ErrClosedPipe }
func (*ctrSession) CloseWrite() error           { return nil }
func (*ctrSession) Resize(uint16, uint16) error { return errdefs.ErrNotImplemented }
func (*ctrSession) Signal(string) error         { return errdefs.ErrNotImplemented }

func cmpSlices(a, b []string) []string {
	if a != nil {
		return a
	}
	return b
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
