package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMountIsCgroup2(t *testing.T) {
	root := mount(t)
	if b, err := os.ReadFile(path.Join(root, "cgroup.controllers")); err != nil {
		t.Errorf("%s has no cgroup.controllers: %v", root, err)
	} else {
		t.Logf("%s: controllers %q", root, b)
	}
}

func TestParseMountinfo(t *testing.T) {
	const mountinfo = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:1 master:2 - cgroup2 cgroup2 rw
42 31 0:38 / /mnt/with\040space\134 rw - cgroup2 none rw
43 31 0:39 / /mnt/cgroup2\040 rw - ext4 /dev/cgroup2 rw
garbage - cgroup2
`
	got := cgroup2Mounts([]byte(mountinfo))
	want := []string{"/sys/fs/cgroup/unified", `/mnt/with space\`}
	if !slices.Equal(got, want) {
		t.Errorf("mounts %q, want %q", got, want)
	}
}

func TestPathsStayBelowTheRoot(t *testing.T) {
	root := mount(t)
	for _, name := range []string{"..", "/..", "/../x", "sbt/../../x", "/sbt/..", "a/b/../../../etc"} {
		if cg, err := Create(root, name, 0, nil); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Create %q: %v, error %v; want it refused", name, cg, err)
		}
		if cg, err := Open(root, name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Open %q: %v, error %v; want it refused", name, cg, err)
		}
	}
	for _, name := range []string{"", "/", "//", "/./"} {
		if _, err := Create(root, name, 0, nil); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Create %q: error %v; want it refused", name, err)
		}
	}
	// A file of a cgroup is no cgroup, and a plain folder is no root.
	if _, err := Create(root, "cgroup.procs", 0, nil); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("Create cgroup.procs: error %v, want ENOTDIR", err)
	}
	dir := t.TempDir()
	if _, err := Create(dir, "/x", 0, nil); err == nil {
		t.Error("Create makes a plain folder")
	}
	if _, err := os.Stat(path.Join(dir, "x")); err == nil {
		t.Error("a folder is left behind")
	}
}

func TestSymbolicLinksAreNotFollowed(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc", path.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := openDir(fd, "link"); err != unix.ENOTDIR && err != unix.ELOOP {
		t.Errorf("open a link: %v, want it refused", err)
	}
}

func TestCreateMakesEachLevel(t *testing.T) {
	root := mount(t)
	var r recorder
	name := testName()
	cg, err := Create(root, " "+name+"//./deep/", 0, r.trace())
	if err != nil {
		t.Fatal(err)
	}
	defer cg.Close()
	top := path.Join(root, " "+path.Dir(name))
	defer os.Remove(path.Dir(top))
	defer func() {
		if err := cg.Delete(timeout(t), nil); err != nil {
			t.Error(err)
		}
		for dir := path.Dir(cg.Path()); dir != root; dir = path.Dir(dir) {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	}()
	var made []string
	for _, ev := range r.events {
		if ev.Op == "mkdir" {
			made = append(made, ev.Target)
		}
	}
	if len(made) != 4 || made[3] != cg.Path() {
		t.Errorf("directories made: %q; want four, the last %s", made, cg.Path())
	}
	if again, err := Create(root, cg.Name(), 0, nil); err != nil {
		t.Errorf("Create of a cgroup that exists: %v", err)
	} else {
		_ = again.Close()
	}
}

func TestCreateUndoesWhatItMade(t *testing.T) {
	root := mount(t)
	name := testName()
	// The kernel refuses a line feed in a name.
	_, err := Create(root, name+"/a/bad\nname", 0, nil)
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("error %v, want EINVAL", err)
	}
	if _, err := os.Stat(path.Join(root, path.Dir(name))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left behind (%v)", path.Dir(name), err)
	}
}

func TestOpenMissing(t *testing.T) {
	if _, err := Open(mount(t), "/sbt-there-is-no-such-cgroup/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}

func TestAddMovesAProcess(t *testing.T) {
	from, to := newCgroup(t, 0), newCgroup(t, 0)
	p := spawn(t, from, "sleep")
	if err := to.Add(p.Process.Pid, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.Process.Pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), "0::"+to.Name()+"\n") {
		t.Errorf("/proc/PID/cgroup:\n%s\nwant %s", b, to.Name())
	}
	if populated, err := from.Populated(); populated || err != nil {
		t.Errorf("the cgroup it left is populated: %t, %v", populated, err)
	}
	if err := to.Add(1<<22+1, nil); !errors.Is(err, unix.ESRCH) {
		t.Errorf("add a process that does not exist: %v, want ESRCH", err)
	}
}

func TestPIDs(t *testing.T) {
	cg := newCgroup(t, 0)
	below := newCgroupAt(t, cg.root, cg.Name()+"/a/b", 0)
	first, second := spawn(t, cg, "sleep").Process.Pid, spawn(t, below, "sleep").Process.Pid
	if pids, err := cg.PIDs(false); err != nil || !slices.Equal(pids, []int{first}) {
		t.Errorf("processes %v, error %v; want %d", pids, err, first)
	}
	if pids, err := cg.PIDs(true); err != nil || !slices.Equal(pids, []int{first, second}) {
		t.Errorf("processes below too %v, error %v; want %d and %d", pids, err, first, second)
	}
	if populated, err := cg.Populated(); !populated || err != nil {
		t.Errorf("populated: %t, %v", populated, err)
	}
}

// state returns the letter of /proc/PID/stat, and "" when the process is gone.
func state(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))[0]
}

func TestFreezeAndThaw(t *testing.T) {
	cg := newCgroup(t, 0)
	p := spawn(t, cg, "burn", "60000")
	_ = p.begin.Close()
	var r recorder
	if err := cg.Freeze(timeout(t), r.trace()); err != nil {
		t.Fatal(err)
	}
	if frozen, err := cg.Frozen(); !frozen || err != nil {
		t.Errorf("frozen: %t, %v", frozen, err)
	}
	used := func() time.Duration {
		s, err := cg.Stats()
		if err != nil {
			t.Fatal(err)
		}
		return s.CPU.Usage
	}
	before := used()
	time.Sleep(50 * time.Millisecond)
	if after := used(); after != before {
		t.Errorf("a frozen process has used %s of CPU time", after-before)
	}
	if err := cg.Thaw(r.trace()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); used() == before; {
		if time.Now().After(end) {
			t.Fatal("a thawed process does not run")
		}
	}
	if got, want := r.writes(), []string{"cgroup.freeze=1", "cgroup.freeze=0"}; !slices.Equal(got, want) {
		t.Errorf("writes %q, want %q", got, want)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	cg := newCgroup(t, 0)
	spawn(t, cg, "sleep")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := cg.WaitEmpty(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want context.DeadlineExceeded", err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if err := cg.WaitEmpty(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestKill(t *testing.T) {
	for name, kill := range map[string]func(*Cgroup) error{
		"cgroup.kill": func(cg *Cgroup) error { return cg.Kill(context.Background(), nil) },
		"one by one":  func(cg *Cgroup) error { return cg.killEach(context.Background(), nil) },
		"while it freezes": func(cg *Cgroup) error {
			if err := cg.Freeze(context.Background(), nil); err != nil {
				return err
			}
			return cg.Kill(context.Background(), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cg := newCgroup(t, 0)
			below := newCgroupAt(t, cg.root, cg.Name()+"/below", 0)
			processes := []*process{spawn(t, cg, "sleep"), spawn(t, below, "sleep"), spawn(t, below, "fork", "20")}
			_ = processes[2].begin.Close()
			if err := kill(cg); err != nil {
				t.Fatal(err)
			}
			if err := cg.WaitEmpty(timeout(t)); err != nil {
				t.Fatal(err)
			}
			for _, p := range processes[:2] {
				_ = p.Wait()
				if s := p.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != unix.SIGKILL {
					t.Errorf("process %d: %v, want SIGKILL", p.Process.Pid, p.ProcessState)
				}
			}
		})
	}
}

func TestDeleteRemovesAllBelow(t *testing.T) {
	cg := newCgroup(t, 0)
	for _, below := range []string{"/a/b/c", "/a/d", "/e"} {
		child, err := Create(cg.root, cg.Name()+below, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = child.Close()
	}
	var r recorder
	if err := cg.Delete(timeout(t), r.trace()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cg.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cgroup is there still: %v", err)
	}
	if len(r.events) != 6 || r.events[5].Target != cg.Path() {
		t.Errorf("events %+v; want six, the last for %s", r.events, cg.Path())
	}
	if err := cg.Delete(timeout(t), nil); err != nil {
		t.Errorf("delete it again: %v", err)
	}
	if _, err := cg.Populated(); !isMissing(err) {
		t.Errorf("read a file of it: %v", err)
	}
}

// A container can nest cgroups deeper than a path goes (PATH_MAX).
func TestDeleteAnyDepth(t *testing.T) {
	cg := newCgroup(t, 0)
	dir, err := openDir(cg.fd, ".")
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("n", 250)
	for range 50 {
		if err := unix.Mkdirat(dir, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := openDir(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(dir)
		dir = next
	}
	_ = unix.Close(dir)
	if err := cg.Delete(timeout(t), nil); err != nil {
		t.Fatal(err)
	}
}

func TestDeleteWaitsForDyingProcesses(t *testing.T) {
	cg := newCgroup(t, 0)
	for range 10 {
		spawn(t, cg, "sleep")
	}
	if err := cg.Kill(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if err := cg.Delete(timeout(t), nil); err != nil {
		t.Error(err)
	}
}

func TestDeleteKillsNothing(t *testing.T) {
	cg := newCgroup(t, 0)
	p := spawn(t, cg, "sleep")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	err := cg.Delete(ctx, nil)
	if !errors.Is(err, unix.EBUSY) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want EBUSY and context.DeadlineExceeded", err)
	}
	if err == nil || !strings.Contains(err.Error(), strconv.Itoa(p.Process.Pid)) {
		t.Errorf("error %v does not name process %d", err, p.Process.Pid)
	}
	if s := state(p.Process.Pid); s == "" || s == "Z" {
		t.Error("the process was killed")
	}
}

func TestDelegate(t *testing.T) {
	cg := newCgroup(t, 0)
	if err := cg.Delegate(1234, 5678, nil); err != nil {
		t.Fatal(err)
	}
	owner := func(file string) uint32 {
		info, err := os.Stat(path.Join(cg.Path(), file))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Uid
	}
	for file, want := range map[string]uint32{".": 1234, "cgroup.procs": 1234, "cgroup.subtree_control": 1234, "cgroup.freeze": 0, "cgroup.kill": 0} {
		if got := owner(file); got != want {
			t.Errorf("%s belongs to user %d, want %d", file, got, want)
		}
	}
}

func BenchmarkCreateApplyDelete(b *testing.B) {
	root := mount(b)
	available, err := Available(root)
	if err != nil {
		b.Fatal(err)
	}
	need := Accounting & available
	parent := newCgroupAt(b, root, testName(), need) // stays, so that controllers stay enabled
	r := smallContainer()
	if need != Accounting {
		r.Memory, r.CPU, r.Pids = nil, nil, nil
	}
	b.ReportAllocs()
	for b.Loop() {
		cg, err := Create(root, path.Dir(parent.Name())+"/bench", need, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := cg.Apply(r, nil); err != nil {
			b.Fatal(err)
		}
		if err := cg.Delete(context.Background(), nil); err != nil {
			b.Fatal(err)
		}
		_ = cg.Close()
	}
}

// BenchmarkMkdirRmdir is what of BenchmarkCreateApplyDelete is the kernel's part.
func BenchmarkMkdirRmdir(b *testing.B) {
	parent := newCgroup(b, 0)
	dir := path.Join(parent.Path(), "bench")
	for b.Loop() {
		if err := errors.Join(unix.Mkdir(dir, 0o755), unix.Rmdir(dir)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStats(b *testing.B) {
	cg := newCgroup(b, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cg.Stats(); err != nil {
			b.Fatal(err)
		}
	}
}
