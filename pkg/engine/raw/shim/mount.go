package shim

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/overlay"
)

// mountRootfs mounts the container's root file system at bundle/rootfs, in
// this process's own mount namespace: the host sees nothing of it, and it ends
// with this process however that ends.
func (s *shim) mountRootfs(trace *explain.Tracer) error {
	ev := explain.Event{
		Op: "mount", Target: "/", Value: "MS_REC|MS_SLAVE", Source: "root.path",
		Why: "what is mounted here does not show on the host; what the host mounts still shows here",
	}
	err := trace.Do(ev, func() error {
		return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	})
	if err != nil {
		return fmt.Errorf("mount / MS_REC|MS_SLAVE: %w", err)
	}
	files := s.opts.Files
	if err := os.Mkdir(files.Rootfs(), 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	opts := overlay.Options{Source: "root.path"}
	if m := s.opts.Mapping; len(m.UIDs) > 0 {
		return overlay.MountIDMapped(files.Rootfs(), s.opts.LowerDirs, s.opts.UpperDir, s.opts.WorkDir, m, opts, trace)
	}
	return overlay.Mount(files.Rootfs(), s.opts.LowerDirs, s.opts.UpperDir, s.opts.WorkDir, opts, trace)
}

func (s *shim) unmountRootfs() error { return overlay.Unmount(s.opts.Files.Rootfs(), nil) }
