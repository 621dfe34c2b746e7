package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// The tests in this file need the controllers: scripts/vm-test has them.

// apply applies r and wants no warning.
func apply(t *testing.T, cg *Cgroup, r *specs.LinuxResources) {
	t.Helper()
	if warnings, err := cg.Apply(r, nil); err != nil || len(warnings) > 0 {
		t.Fatalf("warnings %q, error %v", warnings, err)
	}
}

func stats(t *testing.T, cg *Cgroup) *Stats {
	t.Helper()
	s, err := cg.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestApplyWritesWhatItExplains(t *testing.T) {
	cg := newCgroup(t, Accounting)
	r := smallContainer()
	r.CPU.Shares = ptr(uint64(2048))
	r.Memory.Reservation = ptr(int64(16 << 20))
	r.Unified = map[string]string{"memory.high": "50331648", "memory.oom.group": "1"}
	var rec recorder
	warnings, err := cg.Apply(r, rec.trace())
	if err != nil || len(warnings) > 0 {
		t.Fatalf("warnings %q, error %v", warnings, err)
	}
	want := []string{
		"cpu.weight=" + fmt.Sprint(WeightFromShares(2048)), "cpu.max=50000 100000", "memory.max=67108864",
		"memory.low=16777216", "pids.max=20", "memory.high=50331648", "memory.oom.group=1",
	}
	got := slices.DeleteFunc(rec.writes(), func(w string) bool { return w == "memory.swap.max=0" }) // not every kernel has swap
	if !slices.Equal(got, want) {
		t.Errorf("writes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, ev := range rec.events {
		if value := content(t, cg, ev.Target); value != ev.Value {
			t.Errorf("%s is %q, was reported as %q", ev.Target, value, ev.Value)
		}
		if ev.Source == "" || ev.Why == "" {
			t.Errorf("event %+v lacks its source or reason", ev)
		}
	}
}

func TestMemoryMaxKills(t *testing.T) {
	cg := newCgroup(t, Memory)
	apply(t, cg, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))}})
	p := spawn(t, cg, "eat", "64")
	ctx, cancel := context.WithCancel(timeout(t))
	watched := make(chan error, 1)
	var killed uint64
	go func() {
		watched <- cg.WatchOOM(ctx, func(total uint64) { killed = total; cancel() })
	}()
	_ = p.begin.Close()
	_ = p.Wait()
	if s := p.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != unix.SIGKILL {
		t.Errorf("the process ended with %v, want SIGKILL", p.ProcessState)
	}
	if err := <-watched; !errors.Is(err, context.Canceled) || killed != 1 {
		t.Errorf("WatchOOM has seen %d kills and ends with %v; want 1 and context.Canceled", killed, err)
	}
	if kills, err := cg.OOMKills(); kills != 1 || err != nil {
		t.Errorf("OOM kills %d, error %v; want 1", kills, err)
	}
	m := stats(t, cg).Memory
	if m == nil || m.Events.OOMKill != 1 || m.Events.Max == 0 || m.Max != 32<<20 {
		t.Errorf("statistics %+v, want one kill below 32 MiB", m)
	}
}

func TestMemoryUpdate(t *testing.T) {
	cg := newCgroup(t, Memory)
	p := spawn(t, cg, "eat", "40")
	_ = p.begin.Close()
	p.expect(t, "eaten")
	limit := func(n int64) *specs.LinuxMemory { return &specs.LinuxMemory{Limit: ptr(n)} }

	// As `update` does it: the cgroup is opened, not made.
	cg, err := Open(cg.root, cg.name)
	if err != nil {
		t.Fatal(err)
	}
	defer cg.Close()
	apply(t, cg, &specs.LinuxResources{Memory: limit(100 << 20)})

	low := limit(8 << 20)
	low.CheckBeforeUpdate = ptr(true)
	if _, err := cg.Apply(&specs.LinuxResources{Memory: low}, nil); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a limit below what is in use, checked: error %v, want EBUSY", err)
	}
	if got := content(t, cg, "memory.max"); got != "104857600" {
		t.Errorf("memory.max is %s after it was refused", got)
	}
	low.CheckBeforeUpdate = nil
	warnings, err := cg.Apply(&specs.LinuxResources{Memory: low}, nil)
	if err != nil || len(warnings) != 1 || !strings.HasPrefix(warnings[0], "memory.max=8388608 is less than the ") {
		t.Errorf("a limit below what is in use: warnings %q, error %v", warnings, err)
	}
	_ = p.Wait()
	if kills, err := cg.OOMKills(); kills == 0 || err != nil {
		t.Errorf("OOM kills %d, error %v; the limit has no effect", kills, err)
	}

	if cg.has("memory.swap.max") { // the sum alone, over the limit that is there
		apply(t, cg, &specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(int64(12 << 20))}})
		if got := content(t, cg, "memory.swap.max"); got != "4194304" {
			t.Errorf("memory.swap.max is %s, want 4194304", got)
		}
	}
	apply(t, cg, &specs.LinuxResources{Memory: limit(-1)})
	if _, err := cg.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(int64(1 << 20))}}, nil); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a sum with unlimited memory: error %v, want EINVAL", err)
	}
}

func TestCPUMaxThrottles(t *testing.T) {
	cg := newCgroup(t, CPU)
	apply(t, cg, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(10_000))}})
	p := spawn(t, cg, "burn", "1500")
	before := stats(t, cg).CPU.Usage
	_ = p.begin.Close()
	_ = p.Wait()
	s := stats(t, cg).CPU
	if s.Throttling == nil || s.Throttling.Throttled < 5 || s.Throttling.Time < 500*time.Millisecond {
		t.Errorf("throttling %+v; want several periods", s.Throttling)
	}
	if used := s.Usage - before; used > 500*time.Millisecond {
		t.Errorf("%s of CPU time in 1.5 s, want about 0.15 s", used)
	}
	if s.Quota != 10_000 || s.Period != 100_000 || s.Weight != 100 {
		t.Errorf("statistics %+v, want the limits as they were written", s)
	}
}

func TestCPUUpdate(t *testing.T) {
	cg := newCgroup(t, CPU)
	if !cg.has("cpu.max.burst") {
		t.Skip("this kernel has no cpu.max.burst (Linux 5.14)")
	}
	cpu := func(quota int64, burst uint64) *specs.LinuxResources {
		return &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Burst: &burst}}
	}
	// In either direction there is an order in which the kernel refuses.
	for _, step := range []struct {
		quota int64
		burst uint64
	}{{50_000, 20_000}, {100_000, 90_000}, {10_000, 5_000}, {200_000, 100_000}, {-1, 0}, {1_000, 1_000}} {
		apply(t, cg, cpu(step.quota, step.burst))
		want := fmt.Sprint(step.quota, " 100000")
		if step.quota < 0 {
			want = "max 100000"
		}
		if got := content(t, cg, "cpu.max"); got != want {
			t.Errorf("cpu.max is %q, want %q", got, want)
		}
		if got := content(t, cg, "cpu.max.burst"); got != fmt.Sprint(step.burst) {
			t.Errorf("cpu.max.burst is %s, want %d", got, step.burst)
		}
	}
	apply(t, cg, &specs.LinuxResources{CPU: &specs.LinuxCPU{Burst: ptr(uint64(0)), Period: ptr(uint64(50_000))}})
	if got := content(t, cg, "cpu.max"); got != "1000 50000" {
		t.Errorf("cpu.max is %q after a new period alone, want the old quota", got)
	}
	if cg.has("cpu.idle") {
		apply(t, cg, &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1))}})
		apply(t, cg, &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(0)), Shares: ptr(uint64(4096))}})
		if got, want := content(t, cg, "cpu.weight"), fmt.Sprint(WeightFromShares(4096)); got != want {
			t.Errorf("cpu.weight is %s after idle, want %s", got, want)
		}
	}
}

func TestPIDsMaxRefusesForks(t *testing.T) {
	cg := newCgroup(t, PIDs)
	apply(t, cg, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(30))}})
	p := spawn(t, cg, "fork", "100")
	_ = p.begin.Close()
	line := p.expect(t, "refused after")
	if !strings.HasSuffix(line, "true") {
		t.Errorf("%s: want EAGAIN", line)
	}
	s := stats(t, cg).PIDs
	if s == nil || s.Max != 30 || s.Current > 30 || s.Refused == 0 {
		t.Errorf("statistics %+v, want at most 30 and a refused fork", s)
	}
}

func TestPIDsZeroLetsTheFirstStart(t *testing.T) {
	cg := newCgroup(t, PIDs)
	apply(t, cg, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}})
	child, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{
		Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cg.FD()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if state, err := child.Wait(); err != nil || !state.Success() {
		t.Errorf("%v, %v", state, err)
	}
}

func TestIOMaxThrottles(t *testing.T) {
	const disk = "/mnt/disk" // made by scripts/vm-init
	var st, above unix.Stat_t
	if unix.Stat(disk, &st) != nil || unix.Stat(path.Dir(disk), &above) != nil || st.Dev == above.Dev || unix.Major(st.Dev) == 0 {
		t.Skip("there is no disk to write to at " + disk + ": run scripts/vm-test")
	}
	cg := newCgroup(t, IO)
	device := specs.LinuxBlockIODevice{Major: int64(unix.Major(st.Dev)), Minor: int64(unix.Minor(st.Dev))}
	r := &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
		ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: device, Rate: 1 << 20}},
	}}
	apply(t, cg, r)
	file := path.Join(disk, fmt.Sprintf("sbt-%d", os.Getpid()))
	defer os.Remove(file)
	p := spawn(t, cg, "write", file, "2048")
	start := time.Now()
	_ = p.begin.Close()
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 1500*time.Millisecond {
		t.Errorf("2 MiB at 1 MiB/s took %s", took)
	}
	io := stats(t, cg).IO
	i := slices.IndexFunc(io, func(s IOStats) bool {
		return s.Major == unix.Major(st.Dev) && s.Minor == unix.Minor(st.Dev)
	})
	if i < 0 || io[i].WriteBytes < 2<<20 || io[i].WriteIOs == 0 {
		t.Errorf("statistics %+v, want 2 MiB written to %v", io, device)
	}
	// Other keys of the device stay as they are; zero ends a limit.
	r.BlockIO.ThrottleReadIOPSDevice = []specs.LinuxThrottleDevice{{LinuxBlockIODevice: device, Rate: 7}}
	r.BlockIO.ThrottleWriteBpsDevice[0].Rate = 0
	apply(t, cg, r)
	if got := content(t, cg, "io.max"); !strings.Contains(got, "wbps=max riops=7") {
		t.Errorf("io.max is %q", got)
	}
	r.BlockIO.ThrottleWriteBpsDevice[0].LinuxBlockIODevice = specs.LinuxBlockIODevice{Major: 240, Minor: 99}
	if _, err := cg.Apply(r, nil); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "240:99") {
		t.Errorf("a disk that does not exist: error %v, want ENODEV and its number", err)
	}
}

func TestIOWeight(t *testing.T) {
	cg := newCgroup(t, IO)
	file, want := "io.weight", "default 4950"
	if cg.has("io.bfq.weight") {
		file, want = "io.bfq.weight", "default 500"
	}
	warnings, err := cg.Apply(&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(500))}}, nil)
	switch {
	case err != nil:
		t.Error(err)
	case !cg.has(file): // a kernel without CONFIG_BLK_CGROUP_IOCOST and BFQ
		want = "io.weight=4950 is not applied: this kernel has no io.weight; the container competes for disks at the normal weight"
		if !slices.Equal(warnings, []string{want}) {
			t.Errorf("warnings %q, want %q", warnings, want)
		}
	case content(t, cg, file) != want:
		t.Errorf("%s is %q, want %q", file, content(t, cg, file), want)
	}
}

func TestCPUSet(t *testing.T) {
	cg := newCgroup(t, CPUSet)
	apply(t, cg, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Mems: "0"}})
	if got := content(t, cg, "cpuset.cpus.effective"); got != "0" {
		t.Errorf("cpuset.cpus.effective is %s, want 0", got)
	}
	warnings, err := cg.Apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0,4095"}}, nil)
	if err == nil && len(warnings) != 1 || err != nil && !errors.Is(err, unix.ERANGE) {
		t.Errorf("a CPU that does not exist: warnings %q, error %v", warnings, err)
	}
}

// An update may need a controller that the container was made without.
func TestApplyEnablesControllers(t *testing.T) {
	cg := newCgroup(t, PIDs)
	name := cg.Name() + "/below"
	_ = newCgroupAt(t, cg.root, name, 0)
	below, err := Open(cg.root, name)
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	var r recorder
	if _, err := below.Apply(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(9))}}, r.trace()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, below, "pids.max"); got != "9" {
		t.Errorf("pids.max is %s, want 9", got)
	}
	if ev := r.events[0]; ev.Target != path.Join(cg.Path(), "cgroup.subtree_control") || ev.Value != "+pids" {
		t.Errorf("event %+v, want the controller enabled in %s", ev, cg.Path())
	}
}

// In a container the root of what we see is a cgroup with processes: ours.
func TestRootWithProcessesIsTidied(t *testing.T) {
	outer := newCgroup(t, Memory|PIDs)
	first, second := spawn(t, outer, "sleep").Process.Pid, spawn(t, outer, "sleep").Process.Pid
	var r recorder
	cg, err := Create(outer.Path(), "/sandbox/x", Memory|PIDs, r.trace())
	if err != nil {
		t.Fatal(err)
	}
	defer cg.Close()
	apply(t, cg, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}, Pids: &specs.LinuxPids{Limit: ptr(int64(9))}})
	p := spawn(t, cg, "sleep") // it can be joined
	if pids, err := cg.PIDs(false); err != nil || !slices.Equal(pids, []int{p.Process.Pid}) {
		t.Errorf("processes %v, error %v", pids, err)
	}
	leaf, err := Open(outer.Path(), leaf)
	if err != nil {
		t.Fatal(err)
	}
	defer leaf.Close()
	if pids, err := leaf.PIDs(false); err != nil || !slices.Equal(pids, []int{first, second}) {
		t.Errorf("processes in the leaf %v, error %v; want %d and %d", pids, err, first, second)
	}
	moved := slices.ContainsFunc(r.events, func(ev explain.Event) bool {
		return ev.Op == "write" && ev.Target == path.Join(leaf.Path(), "cgroup.procs") && ev.Value == fmt.Sprint(first)
	})
	if !moved {
		t.Errorf("events %+v do not tell of the move", r.events)
	}
}

// Other cgroups with processes are somebody else's.
func TestParentWithProcessesIsLeftAlone(t *testing.T) {
	parent := newCgroup(t, Memory|PIDs)
	pid := spawn(t, parent, "sleep").Process.Pid
	cg := newCgroupAt(t, parent.root, parent.Name()+"/x", Memory|PIDs)
	if pids, err := parent.PIDs(false); err != nil || !slices.Equal(pids, []int{pid}) {
		t.Errorf("processes %v, error %v; want %d where it was", pids, err, pid)
	}
	warnings, err := cg.Apply(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(9))}}, nil)
	want := "pids.max=9 is not applied: the pids controller cannot be enabled: processes live in " + parent.Path()
	if err != nil || len(warnings) != 1 || !strings.HasPrefix(warnings[0], want) {
		t.Errorf("warnings %q, error %v; want %q", warnings, err, want)
	}
	spawn(t, cg, "sleep") // it can be joined
}

func TestCreateInThreadedSubtree(t *testing.T) {
	parent := newCgroup(t, 0)
	if err := os.WriteFile(path.Join(parent.Path(), "cgroup.type"), []byte("threaded"), 0); err != nil {
		t.Fatal(err)
	}
	_, err := Create(parent.root, parent.Name()+"/x", 0, nil)
	if !errors.Is(err, ErrThreaded) || !strings.Contains(err.Error(), "domain invalid") {
		t.Errorf("error %v, want ErrThreaded", err)
	}
	if _, err := os.Stat(path.Join(parent.Path(), "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cgroup is left behind: %v", err)
	}
}

func TestStatsWithoutControllers(t *testing.T) {
	cg := newCgroup(t, 0)
	s := stats(t, cg)
	if s.Memory != nil || s.PIDs != nil || s.CPU.Throttling != nil || s.IO != nil {
		t.Errorf("statistics %+v of controllers that are not enabled", s)
	}
	if _, err := cg.OOMKills(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OOMKills: error %v, want fs.ErrNotExist", err)
	}
	if err := cg.WatchOOM(timeout(t), func(uint64) {}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("WatchOOM: error %v, want fs.ErrNotExist", err)
	}
}

func TestParseFormats(t *testing.T) {
	if n := parseNumber([]byte("max\n")); n != Unlimited {
		t.Errorf("max is %d", n)
	}
	if n := parseNumber([]byte("18446744073709551614\n")); n != 18446744073709551614 {
		t.Errorf("a large number is %d", n)
	}
	if f := parsePercent([]byte("12.07")); f != 12.07 {
		t.Errorf("12.07 is %v", f)
	}
	if n := lookup([]byte("low 1\noom_kill 3\noom_group_kill 4\n"), "oom_kill"); n != 3 {
		t.Errorf("oom_kill is %d, want 3", n)
	}
	for _, damaged := range []string{"", "\n", "oom_kill", "oom_kill\n", " ", "\x00"} {
		if n := lookup([]byte(damaged), "oom_kill"); n != 0 {
			t.Errorf("oom_kill in %q is %d", damaged, n)
		}
	}
}
