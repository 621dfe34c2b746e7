package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Oldest kernel that has every system call the runtime makes: mount_setattr(2)
// came last, with 5.12; before it clone3 into a cgroup (5.7), openat2 (5.6).
const (
	kernelMajor = 5
	kernelMinor = 12
)

func kernelChecks() []check {
	return []check{
		{
			name: "kernel", why: "the runtime builds mounts with mount_setattr (Linux 5.12), resolves paths with openat2 (5.6) and clones into cgroups with clone3 (5.7)",
			look: lookKernel, fix: "install a kernel of 5.12 or later: Debian 12 and Ubuntu 22.04 have one",
		},
		{
			name: "architecture", why: "the container's first process is put together from machine code, which is written for x86-64 and 64-bit ARM",
			look: func(context.Context, *Host) finding {
				if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
					return failf("%s", runtime.GOARCH)
				}
				return okf("%s", runtime.GOARCH)
			}, fix: "use a machine, or a virtual machine, with an x86-64 or 64-bit ARM CPU",
		},
		{
			name: "root", why: "namespaces, cgroups, mounts and network links of the host are root's to make",
			look: func(_ context.Context, h *Host) finding {
				if h.Real && os.Geteuid() != 0 {
					return finding{status: Warn, found: fmt.Sprintf("user %d: some probes cannot be made", os.Geteuid()), fix: "sudo sandbox doctor"}
				}
				return okf("yes")
			},
		},
		{
			name: "overlayfs", why: "a container's root file system is the image's layers, read-only, under one that it can write",
			look: lookOverlay, fix: "modprobe overlay; where the state folder's file system cannot carry it, use one that can (ext4, xfs, btrfs, tmpfs) with --state-dir",
			repair: modprobe("overlay"),
		},
		{
			name: "seccomp", why: "system calls that containers have no use for are refused by a filter",
			look: func(_ context.Context, h *Host) finding {
				actions := read(h.Proc, "sys/kernel/seccomp/actions_avail")
				switch {
				case actions == "":
					return warnf("this kernel has no seccomp filters: containers run without one")
				case !strings.Contains(actions, "errno"):
					return warnf("the filters lack the action errno: %s", actions)
				}
				return okf("filters (%s)", strings.Join(strings.Fields(actions), ", "))
			}, fix: "use a kernel with CONFIG_SECCOMP_FILTER",
		},
	}
}

func lookKernel(_ context.Context, h *Host) finding {
	release := read(h.Proc, "sys/kernel/osrelease")
	major, minor, err := parseRelease(release)
	if err != nil {
		return failf("%v", err)
	}
	if major < kernelMajor || major == kernelMajor && minor < kernelMinor {
		return failf("Linux %s is older than %d.%d", release, kernelMajor, kernelMinor)
	}
	if !h.Real {
		return okf("Linux %s", release)
	}
	var missing []string
	for _, call := range newCalls {
		if !hasCall(call.number, call.args) {
			missing = append(missing, call.name)
		}
	}
	if len(missing) > 0 {
		// A new kernel without them means that someone filters system calls.
		return finding{
			status: Fail, found: fmt.Sprintf("Linux %s, but without %s", release, join(missing)),
			fix: "something refuses these system calls: inside a container, run it without its seccomp filter",
		}
	}
	return okf("Linux %s, with mount_setattr, openat2, clone3", release)
}

// parseRelease reads the first two numbers of uname's release.
func parseRelease(release string) (major, minor int, err error) {
	first, rest, _ := strings.Cut(release, ".")
	digits := func(s string) string {
		return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
	}
	major, err1 := strconv.Atoi(digits(first))
	minor, err2 := strconv.Atoi(digits(rest))
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("the kernel's release %q is no version", release)
	}
	return major, minor, nil
}

// newCalls are system calls with arguments that a kernel which has them refuses
// with something else than ENOSYS, and that have no effect. All six arguments
// are given, so that none is left to chance.
var newCalls = []struct {
	name   string
	number uintptr
	args   [6]uintptr
}{
	{"mount_setattr", unix.SYS_MOUNT_SETATTR, [6]uintptr{^uintptr(0), 0, 0, 0, 0, 0}},
	{"openat2", unix.SYS_OPENAT2, [6]uintptr{^uintptr(0), 0, 0, 0, 0, 0}},
	{"clone3", unix.SYS_CLONE3, [6]uintptr{0, 0, 0, 0, 0, 0}}, // EINVAL: the size of its arguments is zero
	{"move_mount", unix.SYS_MOVE_MOUNT, [6]uintptr{^uintptr(0), 0, ^uintptr(0), 0, ^uintptr(0), 0}},
	{"fsopen", unix.SYS_FSOPEN, [6]uintptr{0, ^uintptr(0), 0, 0, 0, 0}},
	{"pidfd_send_signal", unix.SYS_PIDFD_SEND_SIGNAL, [6]uintptr{^uintptr(0), 0, 0, ^uintptr(0), 0, 0}},
}

func hasCall(number uintptr, a [6]uintptr) bool {
	_, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	return errno != unix.ENOSYS
}

func lookOverlay(_ context.Context, h *Host) finding {
	known := hasFilesystem(h, "overlay")
	if !h.Real || os.Geteuid() != 0 {
		if !known {
			return warnf("not loaded; to try it takes root")
		}
		return okf("the kernel has it")
	}
	// Not the state folder itself: looking must not make it.
	dir := existing(h.StateDir)
	err := inNamespaces(unix.CLONE_NEWNS, func() error { return tryOverlay(dir) })
	switch {
	case errors.Is(err, unix.ENODEV):
		return failf("the kernel does not know it")
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
		return finding{status: Fail, found: fmt.Sprintf("cannot write to %s: %v", dir, err), fix: "choose another folder with --state-dir"}
	case err != nil:
		return failf("%v", err)
	}
	return okf("mounted on %s (%s)", dir, filesystemOf(dir))
}

// tryOverlay mounts an overlay over a folder in dir, in this thread's own mount
// namespace, and takes both away again. The private propagation comes first:
// the mount must not reach the host's namespace.
func tryOverlay(dir string) (err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, ".sandbox-doctor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	paths := map[string]string{}
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		paths[name] = filepath.Join(tmp, name)
		if err := os.Mkdir(paths[name], 0o700); err != nil {
			return err
		}
	}
	options := "lowerdir=" + paths["lower"] + ",upperdir=" + paths["upper"] + ",workdir=" + paths["work"]
	if err := unix.Mount("overlay", paths["merged"], "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay on %s (%s): %w", dir, filesystemOf(dir), err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(paths["merged"], unix.MNT_DETACH)) }()
	// Some file systems mount as an upper layer and then cannot be written.
	return os.WriteFile(filepath.Join(paths["merged"], "file"), nil, 0o600)
}

// existing is path, or the nearest folder above it that is there.
func existing(path string) string {
	for path != "/" && path != "." {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

func hasFilesystem(h *Host, name string) bool {
	for line := range strings.Lines(read(h.Proc, "filesystems") + "\n") {
		if fields := strings.Fields(line); len(fields) > 0 && fields[len(fields)-1] == name {
			return true
		}
	}
	return false
}

// filesystemOf names the file system that dir is on.
func filesystemOf(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "unknown"
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.F2FS_SUPER_MAGIC: "f2fs", 0x2fc12fc1: "zfs",
		0x00c0ffee: "hostfs", unix.V9FS_MAGIC: "9p", unix.FUSE_SUPER_MAGIC: "fuse",
	}
	if name := names[int64(st.Type)]; name != "" { //nolint:unconvert // its type differs by architecture
		return name
	}
	return fmt.Sprintf("type %#x", st.Type)
}

// inNamespaces runs do on a thread of its own that has left for new namespaces.
// The thread ends with do, and with it all that it made in them.
func inNamespaces(flags int, do func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread must not run anything else afterwards, and
		// the Go runtime ends it with its goroutine.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread cannot be ended, and what it is in is
			// what /proc/self shows. While it is held here, another goroutine
			// gets another thread.
			defer runtime.UnlockOSThread()
			done <- inNamespaces(flags, do)
			return
		}
		// The working folder is shared between threads, which a new mount
		// namespace does not allow (unshare(2)).
		if err := unix.Unshare(flags | unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
			return
		}
		done <- do()
	}()
	return <-done
}
