package overlay_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/overlay"
	"golang.org/x/sys/unix"
)

// area returns a folder on a file system that can hold upper layers: the
// virtual machine's disk, or the host's temporary folder.
func area(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	parent := ""
	if os.Getenv("SANDBOX_VM") != "" {
		parent = "/mnt/disk"
	}
	dir, err := os.MkdirTemp(parent, "sbt-overlay-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		if strings.Contains(string(mounts), dir) {
			t.Errorf("mounts left below %s", dir)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// tree makes files in a new directory: "name/" is a directory, "name" a file
// that holds its layer's name.
func tree(t *testing.T, dir string, names ...string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, filepath.Base(dir))
	}
	return dir
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

type stack struct {
	target, upper, work string
	lower               []string
}

func newStack(t *testing.T, dir string, m overlay.Mapping, lower ...string) stack {
	t.Helper()
	s := stack{filepath.Join(dir, "merged"), filepath.Join(dir, "upper"), filepath.Join(dir, "work"), lower}
	if err := os.MkdirAll(s.target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := overlay.Prepare(lower, s.upper, s.work, m); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s stack) mount(t *testing.T) {
	t.Helper()
	if err := overlay.Mount(s.target, s.lower, s.upper, s.work, overlay.Options{}, nil); err != nil {
		t.Fatal(err)
	}
	s.unmountLater(t)
}

func (s stack) unmountLater(t *testing.T) {
	t.Cleanup(func() {
		if err := overlay.Unmount(s.target, nil); err != nil {
			t.Error(err)
		}
		if err := overlay.Discard(s.upper, s.work); err != nil {
			t.Error(err)
		}
		if exists(s.upper) || exists(s.work) {
			t.Error("Discard left something")
		}
	})
}

func TestCopyUpWhiteoutOpaque(t *testing.T) {
	dir := area(t)
	base := tree(t, filepath.Join(dir, "base"), "same", "keep", "gone", "d/a", "d/b")
	top := tree(t, filepath.Join(dir, "top"), "same")
	if err := os.Chmod(top, 0o711); err != nil {
		t.Fatal(err)
	}
	s := newStack(t, dir, overlay.Mapping{}, top, base)
	s.mount(t)

	if got := read(t, filepath.Join(s.target, "same")); got != "top" {
		t.Errorf("a file in both layers is that of %q, want the top one's", got)
	}
	if info, err := os.Stat(s.target); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("root has mode %v (%v), want that of the top layer", info.Mode(), err)
	}

	// Copy-up: a change goes to upper, the layer keeps its file.
	write(t, filepath.Join(s.target, "keep"), "changed")
	if read(t, filepath.Join(base, "keep")) != "base" || read(t, filepath.Join(s.upper, "keep")) != "changed" {
		t.Error("a change of a lower file was not copied up")
	}

	// Whiteout: a removal leaves a device 0:0.
	if err := os.Remove(filepath.Join(s.target, "gone")); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(s.upper, "gone"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 || !exists(filepath.Join(base, "gone")) {
		t.Errorf("removed file is %o, device %d in upper; want a whiteout", st.Mode, st.Rdev)
	}

	// Opaque: a directory made anew hides the old one's content.
	if err := os.RemoveAll(filepath.Join(s.target, "d")); err != nil {
		t.Fatal(err)
	}
	tree(t, filepath.Join(s.target, "d"), "new")
	if exists(filepath.Join(s.target, "d/a")) {
		t.Error("content of a removed directory shines through")
	}
	value := make([]byte, 8)
	n, err := unix.Getxattr(filepath.Join(s.upper, "d"), "trusted.overlay.opaque", value)
	if err != nil || string(value[:n]) != "y" {
		t.Errorf("directory made anew: opaque is %q (%v), want y", value[:max(n, 0)], err)
	}
}

func TestSharedLowerInode(t *testing.T) {
	dir := area(t)
	lower := tree(t, filepath.Join(dir, "lower"), "lib.so")
	var inodes []uint64
	for _, name := range []string{"one", "two"} {
		s := newStack(t, tree(t, filepath.Join(dir, name)), overlay.Mapping{}, lower)
		s.mount(t)
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(s.target, "lib.so"), &st); err != nil {
			t.Fatal(err)
		}
		inodes = append(inodes, st.Ino)
	}
	if inodes[0] != inodes[1] {
		t.Errorf("two overlays over one layer see inodes %v, want the same", inodes)
	}
}

func TestManyLayers(t *testing.T) {
	for _, count := range []int{1, 2, 40, 128, 200} {
		for _, name := range []string{"", strings.Repeat("long-", 45)} {
			t.Run(fmt.Sprintf("%d/%d", count, len(name)), func(t *testing.T) {
				dir := area(t)
				if len(name) > 0 {
					dir = tree(t, filepath.Join(dir, name, name)) // longer than fsconfig's 256 bytes
				}
				var lower []string
				for i := range count {
					lower = append(lower, tree(t, filepath.Join(dir, fmt.Sprint("layer", i)), "top", fmt.Sprint("file", i)))
				}
				s := newStack(t, dir, overlay.Mapping{}, lower...)
				s.mount(t)
				if got := read(t, filepath.Join(s.target, "top")); got != "layer0" {
					t.Errorf("file of every layer is that of %s, want layer0", got)
				}
				for i := range count {
					if got := read(t, filepath.Join(s.target, fmt.Sprint("file", i))); got != fmt.Sprint("layer", i) {
						t.Fatalf("file%d is of %s", i, got)
					}
				}
			})
		}
	}
}

func TestTooManyLayers(t *testing.T) {
	dir := area(t)
	lower := make([]string, overlay.MaxLower+1)
	for i := range lower {
		lower[i] = dir
	}
	err := overlay.Mount(dir, lower, "", "", overlay.Options{}, nil)
	if err == nil || !strings.Contains(err.Error(), "501 lower layers") {
		t.Errorf("501 layers: %v", err)
	}
}

func TestPathsWithSeparators(t *testing.T) {
	for _, name := range []string{"a:b", "a,b", `a\b`, `a\:b,c`, "a=b", "a b", "ä"} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, filepath.Join(area(t), name))
			s := newStack(t, dir, overlay.Mapping{},
				tree(t, filepath.Join(dir, "top"), "f"), tree(t, filepath.Join(dir, "base"), "f", "g"))
			s.mount(t)
			if read(t, filepath.Join(s.target, "f")) != "top" || read(t, filepath.Join(s.target, "g")) != "base" {
				t.Error("layers are not where they should be")
			}
			write(t, filepath.Join(s.target, "new"), "x")
			if !exists(filepath.Join(s.upper, "new")) {
				t.Error("upper is not where it should be")
			}
		})
	}
}

func TestReadOnly(t *testing.T) {
	for _, count := range []int{1, 2} {
		dir := area(t)
		target := tree(t, filepath.Join(dir, "merged"))
		var lower []string
		for i := range count {
			lower = append(lower, tree(t, filepath.Join(dir, fmt.Sprint("layer", i)), "f"))
		}
		if err := overlay.Mount(target, lower, "", "", overlay.Options{}, nil); err != nil {
			t.Fatal(err)
		}
		if read(t, filepath.Join(target, "f")) != "layer0" {
			t.Error("wrong layer on top")
		}
		if err := os.WriteFile(filepath.Join(target, "g"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("write without upper: %v, want EROFS", err)
		}
		for range 2 { // the second time there is nothing to unmount
			if err := overlay.Unmount(target, nil); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestVolatile(t *testing.T) {
	dir := area(t)
	s := newStack(t, dir, overlay.Mapping{}, tree(t, filepath.Join(dir, "lower"), "f"))
	opts := overlay.Options{Volatile: true}
	if err := overlay.Mount(s.target, s.lower, s.upper, s.work, opts, nil); err != nil {
		t.Fatal(err)
	}
	s.unmountLater(t)
	if err := overlay.Unmount(s.target, nil); err != nil {
		t.Fatal(err)
	}
	err := overlay.Mount(s.target, s.lower, s.upper, s.work, opts, nil)
	if err == nil || !strings.Contains(err.Error(), "volatile") {
		t.Errorf("a volatile upper mounted again: %v", err)
	}
}

func TestEvent(t *testing.T) {
	dir := area(t)
	s := newStack(t, dir, overlay.Mapping{}, tree(t, filepath.Join(dir, "top"), "f"), tree(t, filepath.Join(dir, "base"), "f"))
	var events []explain.Event
	trace := explain.New("shim", 1, func(e explain.Event) { events = append(events, e) })
	if err := overlay.Mount(s.target, s.lower, s.upper, s.work, overlay.Options{Source: "root.path"}, trace); err != nil {
		t.Fatal(err)
	}
	s.unmountLater(t)
	want := fmt.Sprintf("overlay lowerdir=%[1]s/top:%[1]s/base,upperdir=%[1]s/upper,workdir=%[1]s/work,index=off,metacopy=off,redirect_dir=off", dir)
	if len(events) != 1 || events[0].Op != "mount" || events[0].Target != s.target || events[0].Value != want || events[0].Source != "root.path" {
		t.Errorf("events: %+v", events)
	}
}

func TestErrorsSayWhy(t *testing.T) {
	dir := area(t)
	lower := tree(t, filepath.Join(dir, "lower"), "f")
	s := newStack(t, dir, overlay.Mapping{}, lower)
	s.mount(t)
	inner := tree(t, filepath.Join(s.target, "inner/target"))
	file := filepath.Join(lower, "f")
	shm := tree(t, "/dev/shm/sbt-overlay")
	t.Cleanup(func() { os.RemoveAll(shm) })

	for _, c := range []struct {
		name, lower, upper, work, want string
	}{
		{"upper on overlay", lower, filepath.Join(s.target, "inner/u"), filepath.Join(s.target, "inner/w"), "is on overlayfs itself"},
		{"missing lower", filepath.Join(dir, "none"), s.upper, s.work, "none: no such file"},
		{"file as lower", file, s.upper, s.work, "lower/f is not a directory"},
		{"different mounts", lower, filepath.Join(dir, "u"), filepath.Join(shm, "w"), "different mounts"},
		{"work in upper", lower, filepath.Join(dir, "u"), filepath.Join(dir, "u/w"), "within"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, d := range []string{c.upper, c.work} {
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			err := overlay.Mount(inner, []string{c.lower}, c.upper, c.work, overlay.Options{}, nil)
			if err == nil {
				_ = overlay.Unmount(inner, nil)
				t.Fatal("mounted")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "mount overlay "+inner) {
				t.Errorf("got %q, want it to say %q", err, c.want)
			}
		})
	}
}

func TestIDMapped(t *testing.T) {
	dir := area(t)
	base := tree(t, filepath.Join(dir, "base"), "root", "learner")
	if err := os.Chown(filepath.Join(base, "learner"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	top := tree(t, filepath.Join(dir, "top"), "t")
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 200000, Size: 65536}}
	m := overlay.Mapping{UIDs: maps, GIDs: maps}
	s := newStack(t, dir, m, top, base)

	var events []explain.Event
	trace := explain.New("shim", 1, func(e explain.Event) { events = append(events, e) })
	if err := overlay.MountIDMapped(s.target, s.lower, s.upper, s.work, m, overlay.Options{}, trace); err != nil {
		t.Fatal(err)
	}
	s.unmountLater(t)

	for name, want := range map[string]uint32{".": 200000, "root": 200000, "learner": 201000, "t": 200000} {
		if uid := owner(t, filepath.Join(s.target, name)); uid != want {
			t.Errorf("%s appears owned by %d, want %d", name, uid, want)
		}
	}
	if uid := owner(t, filepath.Join(base, "learner")); uid != 1000 {
		t.Errorf("the layer's file is now owned by %d", uid)
	}
	// Copy-up keeps the appearance.
	write(t, filepath.Join(s.target, "learner"), "changed")
	for _, path := range []string{filepath.Join(s.target, "learner"), filepath.Join(s.upper, "learner")} {
		if uid := owner(t, path); uid != 201000 {
			t.Errorf("%s after copy-up is owned by %d, want 201000", path, uid)
		}
	}
	if len(events) != 3 || events[0].Op != "mount_setattr" || events[2].Op != "mount" || events[2].Error != "" {
		t.Errorf("events: %+v", events)
	}
	mounts := read(t, "/proc/self/mountinfo")
	if n := strings.Count(mounts, " "+dir+"/merged"); n != 1 {
		t.Errorf("%d mounts on and below the target, want 1:\n%s", n, mounts)
	}

	// The same layers, unmapped, at the same time.
	other := newStack(t, tree(t, filepath.Join(dir, "plain")), overlay.Mapping{}, top, base)
	other.mount(t)
	if uid := owner(t, filepath.Join(other.target, "learner")); uid != 1000 {
		t.Errorf("without mapping the file appears owned by %d", uid)
	}
}

func TestIDMappedFailureLeavesNothing(t *testing.T) {
	dir := area(t)
	s := newStack(t, dir, overlay.Mapping{}, tree(t, filepath.Join(dir, "lower"), "f"))
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 200000, Size: 10}}
	err := overlay.MountIDMapped(s.target, s.lower, filepath.Join(dir, "none"), s.work,
		overlay.Mapping{UIDs: maps, GIDs: maps}, overlay.Options{}, nil)
	if err == nil || !strings.Contains(err.Error(), "none: no such file") {
		t.Errorf("got %v", err)
	}
	// area's cleanup looks for mounts.
}

func TestPrepareRefusesUnmappedOwner(t *testing.T) {
	dir := area(t)
	lower := tree(t, filepath.Join(dir, "lower"))
	if err := os.Chown(lower, 5000, 0); err != nil {
		t.Fatal(err)
	}
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 200000, Size: 1000}}
	err := overlay.Prepare([]string{lower}, filepath.Join(dir, "u"), filepath.Join(dir, "w"), overlay.Mapping{UIDs: maps, GIDs: maps})
	if err == nil || !strings.Contains(err.Error(), "5000 is not in") {
		t.Errorf("got %v", err)
	}
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

// BenchmarkMount mounts and unmounts what a container gets. Unmounting syncs
// the upper file system unless it is volatile.
func BenchmarkMount(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("mounting needs root")
	}
	for name, opts := range map[string]overlay.Options{"synced": {}, "volatile": {Volatile: true}} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			lower := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")}
			target := filepath.Join(dir, "merged")
			for _, d := range append(lower, target) {
				if err := os.Mkdir(d, 0o755); err != nil {
					b.Fatal(err)
				}
			}
			upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
			for b.Loop() {
				if err := errors.Join(
					overlay.Prepare(lower, upper, work, overlay.Mapping{}),
					overlay.Mount(target, lower, upper, work, opts, nil),
					overlay.Unmount(target, nil),
					overlay.Discard(upper, work),
				); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestRename: an upper folder is whole by itself, also on kernels that redirect
// renamed folders to where they were.
func TestRename(t *testing.T) {
	const parameter = "/sys/module/overlay/parameters/redirect_dir"
	if before, err := os.ReadFile(parameter); err == nil && os.WriteFile(parameter, []byte("Y"), 0) == nil {
		t.Cleanup(func() { _ = os.WriteFile(parameter, before, 0) })
	}
	dir := area(t)
	s := newStack(t, dir, overlay.Mapping{}, tree(t, filepath.Join(dir, "base"), "old/file"))
	s.mount(t)
	defer func() {
		if err := overlay.Unmount(s.target, nil); err != nil {
			t.Error(err)
		}
	}()
	err := os.Rename(filepath.Join(s.target, "old"), filepath.Join(s.target, "new"))
	if !errors.Is(err, unix.EXDEV) {
		t.Errorf("rename: %v", err)
	}
}
