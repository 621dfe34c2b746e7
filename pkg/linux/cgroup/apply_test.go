package cgroup

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// smallContainer is what `run -m 64m --cpus 0.5 --pids-limit 20` asks for.
func smallContainer() *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20))},
		CPU:    &specs.LinuxCPU{Quota: ptr(int64(50_000)), Period: ptr(uint64(100_000))},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(20))},
	}
}

// planned returns what Apply would write to a new cgroup, on any host.
func planned(t *testing.T, r *specs.LinuxResources) ([]setting, []string, error) {
	t.Helper()
	p, err := newPlan(&Cgroup{fd: -1, fresh: true}, r)
	return p.settings, p.warnings, err
}

func TestPlan(t *testing.T) {
	disk := func(rate uint64) []specs.LinuxThrottleDevice {
		return []specs.LinuxThrottleDevice{{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 8, Minor: 16}, Rate: rate}}
	}
	for name, test := range map[string]struct {
		resources specs.LinuxResources
		want      string // file=value of each write, in order
		source    string // of the first
		warning   string
	}{
		"nothing": {},
		"small container": {
			resources: *smallContainer(),
			want:      "cpu.max=50000 100000; memory.swap.max=0; memory.max=67108864; pids.max=20",
			source:    "linux.resources.cpu.quota",
		},
		"no limits": {
			resources: specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(-1)), Reservation: ptr(int64(-1))},
				CPU:    &specs.LinuxCPU{Quota: ptr(int64(-1))},
				Pids:   &specs.LinuxPids{Limit: ptr(int64(-1))},
			},
			want: "cpu.max=max 100000; memory.swap.max=max; memory.max=max; memory.low=max; pids.max=max",
		},
		"zero is unset": {
			resources: specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: ptr(int64(0)), Swap: ptr(int64(0)), Reservation: ptr(int64(0))},
				CPU:    &specs.LinuxCPU{Quota: ptr(int64(0)), Period: ptr(uint64(0)), Shares: ptr(uint64(0))},
			},
		},
		"no pids but the first": {
			resources: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}},
			want:      "pids.max=1",
		},
		"unlimited memory is unlimited swap": {
			resources: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}},
			want:      "memory.swap.max=max; memory.max=max",
			source:    "linux.resources.memory.limit",
		},
		"swap is what exceeds memory": {
			resources: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(150)), Reservation: ptr(int64(50))}},
			want:      "memory.swap.max=50; memory.max=100; memory.low=50",
			source:    "linux.resources.memory.swap",
		},
		"memory of cgroup v1": {
			resources: specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: ptr(uint64(0)), DisableOOMKiller: ptr(true), Kernel: ptr(int64(1)), KernelTCP: ptr(int64(1))}}, //nolint:staticcheck // deprecated, not gone
			warning:   "linux.resources.memory.disableOOMKiller is not applied: cgroup v2 has no such parameter; processes of the container are killed",
		},
		"cpu period alone": {
			resources: specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr(uint64(50_000))}},
			want:      "cpu.max=max 50000",
			source:    "linux.resources.cpu.period",
		},
		"cpu burst below a new quota": {
			resources: specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(50_000)), Burst: ptr(uint64(20_000))}},
			want:      "cpu.max.burst=20000; cpu.max=50000 100000",
		},
		"cpu weight and set": {
			resources: specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024)), Cpus: "0-1,3", Mems: "0"}},
			want:      "cpu.weight=100; cpuset.cpus=0-1,3; cpuset.mems=0",
			source:    "linux.resources.cpu.shares",
		},
		"cpu idle excludes a weight": {
			resources: specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(2)), Idle: ptr(int64(1))}},
			want:      "cpu.idle=1",
			warning:   "cpu.weight=1 is not applied: cpu.idle=1",
		},
		"cpu real-time": {
			resources: specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: ptr(int64(1))}},
			warning:   "linux.resources.cpu.realtimeRuntime",
		},
		"io": {
			resources: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
				Weight: ptr(uint16(10)), LeafWeight: ptr(uint16(10)),
				WeightDevice:            []specs.LinuxWeightDevice{{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 8}, Weight: ptr(uint16(1000))}},
				ThrottleReadBpsDevice:   disk(1),
				ThrottleWriteBpsDevice:  disk(2),
				ThrottleReadIOPSDevice:  disk(3),
				ThrottleWriteIOPSDevice: disk(0),
			}},
			want:    "io.weight=1; io.weight=8:0 10000; io.max=8:16 rbps=1; io.max=8:16 wbps=2; io.max=8:16 riops=3; io.max=8:16 wiops=max",
			source:  "linux.resources.blockIO.weight",
			warning: "linux.resources.blockIO.leafWeight",
		},
		"huge pages": {
			resources: specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}},
			want:      "hugetlb.2MB.max=4194304; hugetlb.2MB.rsvd.max=4194304",
			source:    "linux.resources.hugepageLimits",
		},
		"rdma": {
			resources: specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{
				"mlx5_1": {HcaHandles: ptr(uint32(3)), HcaObjects: ptr(uint32(4))}, "mlx4_0": {HcaObjects: ptr(uint32(5))},
			}},
			want: "rdma.max=mlx4_0 hca_object=5; rdma.max=mlx5_1 hca_handle=3 hca_object=4",
		},
		"network": {
			resources: specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1))}},
			warning:   "linux.resources.network is not applied",
		},
		"unified": {
			resources: specs.LinuxResources{
				Memory:  &specs.LinuxMemory{Limit: ptr(int64(1))},
				Unified: map[string]string{"memory.max": "2", "memory.high": "1", "io.max": "8:0 rbps=1\n8:16 wbps=2\n"},
			},
			want: "memory.max=1; io.max=8:0 rbps=1; io.max=8:16 wbps=2; memory.high=1; memory.max=2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			settings, warnings, err := planned(t, &test.resources)
			if err != nil {
				t.Fatal(err)
			}
			var writes []string
			for _, s := range settings {
				writes = append(writes, s.file+"="+s.value)
				if s.why == "" || s.without == "" || !strings.HasPrefix(s.source, "linux.resources.") {
					t.Errorf("%+v lacks a text", s)
				}
			}
			if got := strings.Join(writes, "; "); got != test.want {
				t.Errorf("writes:\n%s\nwant:\n%s", got, test.want)
			}
			if test.source != "" && settings[0].source != test.source {
				t.Errorf("source %s, want %s", settings[0].source, test.source)
			}
			if all := strings.Join(warnings, "\n"); !strings.Contains(all, test.warning) || (test.warning == "") != (all == "") {
				t.Errorf("warnings:\n%s\nwant:\n%s", all, test.warning)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	unified := func(file string) specs.LinuxResources {
		return specs.LinuxResources{Unified: map[string]string{file: "1"}}
	}
	for name, test := range map[string]struct {
		resources specs.LinuxResources
		want      error
	}{
		"swap below memory": {
			specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(2)), Swap: ptr(int64(1))}}, unix.EINVAL,
		},
		"a page size that is a path": {
			specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../../x"}}}, fs.ErrInvalid,
		},
		"no page size":           {specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{}}}, fs.ErrInvalid},
		"an rdma device of two":  {specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"a b": {}}}, fs.ErrInvalid},
		"unified: a path":        {unified("../memory.max"), fs.ErrInvalid},
		"unified: an absolute":   {unified("/etc/passwd.x"), fs.ErrInvalid},
		"unified: dots":          {unified(".."), fs.ErrInvalid},
		"unified: no controller": {unified("memory"), fs.ErrInvalid},
		"unified: nothing":       {unified(""), fs.ErrInvalid},
		"unified: processes":     {unified("cgroup.procs"), fs.ErrInvalid},
		"unified: kill":          {unified("cgroup.kill"), fs.ErrInvalid},
	} {
		if _, _, err := planned(t, &test.resources); !errors.Is(err, test.want) {
			t.Errorf("%s: error %v, want %v", name, err, test.want)
		}
	}
}

func TestWeightFromShares(t *testing.T) {
	// The values that runc 1.3.2 and crun 1.23 come to.
	for shares, want := range map[uint64]uint64{0: 1, 1: 1, 2: 1, 1024: 100, 2000: 170, 262144: 10000, 1 << 40: 10000} {
		if got := WeightFromShares(shares); got != want {
			t.Errorf("%d shares: weight %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for shares := uint64(2); shares <= 262144; shares++ {
		weight := WeightFromShares(shares)
		if weight < last || weight < 1 || weight > 10000 {
			t.Fatalf("%d shares: weight %d after %d", shares, weight, last)
		}
		last = weight
	}
}

func TestNeeded(t *testing.T) {
	r := smallContainer()
	r.CPU.Cpus = "0"
	r.Unified = map[string]string{"io.max": "", "hugetlb.2MB.max": "", "cgroup.max.depth": ""}
	if got, want := Needed(r).String(), "cpuset cpu io memory hugetlb pids"; got != want {
		t.Errorf("needed %q, want %q", got, want)
	}
	if got := Needed(nil) | Needed(&specs.LinuxResources{Memory: &specs.LinuxMemory{}}); got != 0 {
		t.Errorf("needed %q, want none", got)
	}
}

// On a hybrid host a container starts without its limits, and is told so.
func TestMissingControllersAreWarnings(t *testing.T) {
	root := mount(t)
	available, err := Available(root)
	if err != nil {
		t.Fatal(err)
	}
	if available&Accounting != 0 {
		t.Skip("this host has controllers in cgroup v2; the test is for one where cgroup v1 holds them")
	}
	r := smallContainer()
	r.Memory.Reservation = ptr(int64(1 << 20))
	r.BlockIO = &specs.LinuxBlockIO{Weight: ptr(uint16(500))}
	r.Unified = map[string]string{"memory.high": "1000000"}
	cg := newCgroupAt(t, root, testName(), Needed(r))
	var rec recorder
	warnings, err := cg.Apply(r, rec.trace())
	if err != nil {
		t.Fatal(err)
	}
	if len(rec.events) != 0 {
		t.Errorf("events %+v; want none, since nothing was written", rec.events)
	}
	want := []string{
		"cpu.max=50000 100000 is not applied: this host has no cpu controller in cgroup v2 (it is bound to cgroup v1); the container can use all CPUs",
		"memory.swap.max=0 is not applied: this host has no memory controller in cgroup v2 (it is bound to cgroup v1); the container can use all swap space",
		"memory.max=67108864 is not applied: this host has no memory controller in cgroup v2 (it is bound to cgroup v1); the container can use all memory",
		"memory.low=1048576 is not applied: this host has no memory controller in cgroup v2 (it is bound to cgroup v1); none of the container's memory is protected when the host runs short",
		"pids.max=20 is not applied: this host has no pids controller in cgroup v2 (it is bound to cgroup v1); a fork bomb in the container can use up the host's process IDs",
		"io.weight=4950 is not applied: this host has no io controller in cgroup v2 (it is bound to cgroup v1); the container competes for disks at the normal weight",
		"memory.high=1000000 is not applied: this host has no memory controller in cgroup v2 (it is bound to cgroup v1); the container is not slowed down before it runs out of memory",
	}
	if !slices.Equal(warnings, want) {
		t.Errorf("warnings:\n%s\nwant:\n%s", strings.Join(warnings, "\n"), strings.Join(want, "\n"))
	}
}

func TestApplyUnknownFiles(t *testing.T) {
	cg := newCgroup(t, 0)
	for file, want := range map[string]error{
		"cgroup.there-is-no-such-file": fs.ErrNotExist,
		"nocontroller.max":             fs.ErrNotExist,
		"cgroup.controllers":           fs.ErrPermission, // read-only
	} {
		_, err := cg.Apply(&specs.LinuxResources{Unified: map[string]string{file: "1"}}, nil)
		if err == nil || !errors.Is(err, want) && !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: error %v, want %v and the name", file, err, want)
		}
	}
	if _, err := cg.Apply(&specs.LinuxResources{Unified: map[string]string{"cgroup.max.depth": "3"}}, nil); err != nil {
		t.Error(err)
	}
	if got := content(t, cg, "cgroup.max.depth"); got != "3" {
		t.Errorf("cgroup.max.depth is %q, want 3", got)
	}
}

func TestApplyHugetlb(t *testing.T) {
	cg := newCgroup(t, HugeTLB)
	var r recorder
	limits := []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 6 << 20}}
	if warnings, err := cg.Apply(&specs.LinuxResources{HugepageLimits: limits}, r.trace()); err != nil || len(warnings) != 0 {
		t.Fatalf("warnings %q, error %v", warnings, err)
	}
	for _, file := range []string{"hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"} {
		if got := content(t, cg, file); got != "6291456" {
			t.Errorf("%s is %s, want 6291456", file, got)
		}
	}
	stats, err := cg.Stats()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(stats.HugeTLB, func(s HugeTLBStats) bool { return s.PageSize == "2MB" })
	if i < 0 || stats.HugeTLB[i].Max != 6<<20 {
		t.Errorf("statistics %+v, want 2MB with its limit", stats.HugeTLB)
	}
	limits[0].Pagesize = "3MB"
	if warnings, err := cg.Apply(&specs.LinuxResources{HugepageLimits: limits}, nil); err != nil ||
		!strings.Contains(strings.Join(warnings, ""), "this kernel has no hugetlb.3MB.max") {
		t.Errorf("a size that does not exist: warnings %q, error %v", warnings, err)
	}
}
