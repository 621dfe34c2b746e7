package mount_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/linux/mount"
	"golang.org/x/sys/unix"
)

func userNamespace(t testing.TB) *os.File {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mapping the IDs of others needs root")
	}
	m := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 300000, Size: 1000}, {ContainerID: 1000, HostID: 1000, Size: 1}}
	ns, err := mount.UserNamespace(m, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func TestUserNamespace(t *testing.T) {
	ns := userNamespace(t)
	have, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := ns.Stat(); err != nil || os.SameFile(info, have) {
		t.Errorf("no new namespace: %v", err)
	}
	// The process that it was made with is gone.
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("a child is left: %v", err)
	}
}

func TestUserNamespaceRefusesBadMapping(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mapping the IDs of others needs root")
	}
	m := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1, Size: 10}, {ContainerID: 5, HostID: 100, Size: 10}}
	if _, err := mount.UserNamespace(m, m); err == nil || !strings.HasPrefix(err.Error(), "make user namespace: ") {
		t.Errorf("overlapping mappings: %v", err)
	}
}

func TestIDMapUnsupported(t *testing.T) {
	ns := userNamespace(t)
	tree, err := unix.OpenTree(unix.AT_FDCWD, "/proc", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tree)
	if err := mount.IDMap(tree, ns, false); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "does not support ID-mapped") {
		t.Errorf("proc: %v", err)
	}
}

func BenchmarkUserNamespace(b *testing.B) {
	for b.Loop() {
		userNamespace(b).Close()
	}
}
