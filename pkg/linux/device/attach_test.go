package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// TestMain is also the process inside the cgroup: it tries what its arguments say
// and prints, for each, whether the kernel allows it.
func TestMain(m *testing.M) {
	if os.Getenv("SBT_TRY") == "" {
		os.Exit(m.Run())
	}
	dir, attempts := os.Args[1], os.Args[2:]
	for i, attempt := range attempts {
		fmt.Println(try(filepath.Join(dir, strconv.Itoa(i)), attempt))
	}
}

// try makes the attempt, such as "open w c 1:3" or "mknod c 1:3", with a node of
// its own that the parent has made, or the name of one to make.
func try(node, attempt string) string {
	var err error
	if kind, ok := strings.CutPrefix(attempt, "mknod "); ok {
		err = makeNode(node, kind)
	} else {
		flags := map[byte]int{'r': unix.O_RDONLY, 'w': unix.O_WRONLY, '+': unix.O_RDWR}[attempt[len("open ")]]
		var fd int
		if fd, err = unix.Open(node, flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0); err == nil {
			_ = unix.Close(fd)
		}
	}
	switch err {
	case nil, unix.ENXIO: // allowed, though there is no such device
		return "yes"
	case unix.EPERM:
		return "no"
	}
	return err.Error()
}

func makeNode(path, device string) error {
	var kind byte
	var major, minor uint32
	if _, err := fmt.Sscanf(device, "%c %d:%d", &kind, &major, &minor); err != nil {
		return err
	}
	mode := uint32(unix.S_IFCHR)
	if kind == 'b' {
		mode = unix.S_IFBLK
	}
	return unix.Mknod(path, mode|0o600, int(unix.Mkdev(major, minor)))
}

// attempt lets a process in the cgroup try, and returns its answers.
func attempt(t *testing.T, cg *cgroup.Cgroup, attempts ...string) []string {
	t.Helper()
	dir := t.TempDir()
	for i, a := range attempts {
		if device, ok := strings.CutPrefix(a, "open "); ok {
			if err := makeNode(filepath.Join(dir, strconv.Itoa(i)), device[len("r "):]); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd := exec.Command("/proc/self/exe", append([]string{dir}, attempts...)...)
	cmd.Env = []string{"SBT_TRY=1"}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cg.FD()}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

func newCgroup(t *testing.T) *cgroup.Cgroup {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to attach programs to cgroups")
	}
	root, err := cgroup.Mount()
	if err != nil {
		t.Skip(err)
	}
	cg, err := cgroup.Create(root, fmt.Sprintf("sbt-device-%d", os.Getpid()), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cg.Delete(context.Background(), nil); err != nil {
			t.Error(err)
		}
		_ = cg.Close()
	})
	return cg
}

func attachOrSkip(t *testing.T, cg *cgroup.Cgroup, rules []specs.LinuxDeviceCgroup, trace *explain.Tracer) {
	t.Helper()
	err := Attach(cg.FD(), rules, trace)
	if errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// programs returns the IDs of the device programs attached to the cgroup itself.
func programs(t *testing.T, cg *cgroup.Cgroup) int {
	t.Helper()
	fds, err := attached(cg.FD())
	if err != nil {
		t.Fatal(err)
	}
	closeAll(fds)
	return len(fds)
}

func TestAttachRestrictsProcesses(t *testing.T) {
	cg := newCgroup(t)
	rules := append([]specs.LinuxDeviceCgroup{
		denyAll,
		ruleFor(true, "b", -1, -1, "m"),
		ruleFor(true, "c", 10, -1, "r"),
		ruleFor(true, "c", 10, -1, "w"), // together with the one above: rw
		ruleFor(true, "c", 4, -1, "rwm"),
		ruleFor(false, "c", 4, 64, "w"),
	}, DefaultAllowed()...)
	attachOrSkip(t, cg, rules, nil)
	attempts := []string{
		"open + c 1:3", "open r c 1:5", "open + c 1:7", "mknod c 1:3", // default devices
		"open r c 1:1", "open r c 1:11", "mknod c 1:1", // mem, kmsg
		"open r b 7:0", "mknod b 7:0", // loop0
		"open r c 10:229", "open w c 10:229", "open + c 10:229", "mknod c 10:229", // fuse
		"open r c 4:64", "open w c 4:64", "open + c 4:64", "mknod c 4:64",
		"open r b 1:3", // a block device with the numbers of /dev/null
	}
	got := attempt(t, cg, attempts...)
	for i, a := range attempts {
		// The kernel must agree with what the rules mean.
		var q request
		device := strings.Fields(a)
		if q.kind = block; device[len(device)-2] == "c" {
			q.kind = char
		}
		fmt.Sscanf(device[len(device)-1], "%d:%d", &q.major, &q.minor)
		q.access = map[string]uint32{"mknod": mknod, "open r": read, "open w": write, "open +": read | write}[strings.TrimSuffix(a[:6], " ")]
		if q.access == 0 {
			q.access = mknod
		}
		want := "no"
		if decide(rules, q) {
			want = "yes"
		}
		if answer := got[i]; answer != want && !(want == "yes" && answer != "no") {
			t.Errorf("%s: %s, want %s", a, answer, want)
		}
	}
}

func TestAttachReplaces(t *testing.T) {
	cg := newCgroup(t)
	attempts := []string{"open r c 1:3", "open r c 1:5"}
	onlyNull := []specs.LinuxDeviceCgroup{denyAll, ruleFor(true, "c", 1, 3, "rwm")}
	onlyZero := []specs.LinuxDeviceCgroup{denyAll, ruleFor(true, "c", 1, 5, "rwm")}
	for _, step := range []struct {
		rules    []specs.LinuxDeviceCgroup
		want     string
		programs int
	}{
		{onlyNull, "yes no", 1},
		{onlyZero, "no yes", 1},
		{nil, "yes yes", 0}, // an update that lifts all rules
		{nil, "yes yes", 0},
		{onlyNull, "yes no", 1},
	} {
		attachOrSkip(t, cg, step.rules, nil)
		if got := strings.Join(attempt(t, cg, attempts...), " "); got != step.want {
			t.Errorf("rules %v: %v: %s, want %s", step.rules, attempts, got, step.want)
		}
		if n := programs(t, cg); n != step.programs {
			t.Errorf("rules %v: %d programs are attached, want %d", step.rules, n, step.programs)
		}
	}
}

// A program of somebody else, such as systemd's, keeps its say.
func TestAttachLeavesOthersAlone(t *testing.T) {
	cg := newCgroup(t)
	onlyNull := []specs.LinuxDeviceCgroup{denyAll, ruleFor(true, "c", 1, 3, "rwm")}
	attachOrSkip(t, cg, onlyNull, nil)
	program, err := Compile(onlyNull)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := progLoad(program, "other")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(foreign)
	if _, err := attach(cg.FD(), foreign, nil, nil); err != nil {
		t.Fatal(err)
	}
	for _, rules := range [][]specs.LinuxDeviceCgroup{nil, {denyAll, ruleFor(true, "c", 1, 5, "rwm")}} {
		if err := Attach(cg.FD(), rules, nil); err != nil {
			t.Fatal(err)
		}
		if got := attempt(t, cg, "open r c 1:5"); got[0] != "no" {
			t.Errorf("rules %v: what another program refuses is allowed", rules)
		}
	}
}

func TestAttachExplains(t *testing.T) {
	cg := newCgroup(t)
	var events []string
	trace := explain.New("runtime", os.Getpid(), func(ev explain.Event) {
		if ev.Source != "linux.resources.devices" || ev.Why == "" || ev.Op != "bpf" {
			t.Errorf("event %+v lacks its source or reason", ev)
		}
		events = append(events, ev.Target+" "+ev.Value)
	})
	rules := []specs.LinuxDeviceCgroup{denyAll, ruleFor(true, "c", 136, -1, "rw"), ruleFor(true, "b", 8, 1, "r")}
	attachOrSkip(t, cg, rules, trace)
	if err := Attach(cg.FD(), rules[:2], trace); err != nil {
		t.Fatal(err)
	}
	if err := Attach(cg.FD(), nil, trace); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"BPF_PROG_LOAD BPF_PROG_TYPE_CGROUP_DEVICE 21 instructions: deny a *:* rwm, allow c 136:* rw, allow b 8:1 r",
		"BPF_PROG_ATTACH BPF_CGROUP_DEVICE BPF_F_ALLOW_MULTI",
		"BPF_PROG_LOAD BPF_PROG_TYPE_CGROUP_DEVICE 17 instructions: deny a *:* rwm, allow c 136:* rw",
		"BPF_PROG_ATTACH BPF_CGROUP_DEVICE BPF_F_ALLOW_MULTI|BPF_F_REPLACE",
		"BPF_PROG_DETACH BPF_CGROUP_DEVICE",
	}
	if !slices.Equal(events, want) {
		t.Errorf("events:\n%s\nwant:\n%s", strings.Join(events, "\n"), strings.Join(want, "\n"))
	}
}

// The verifier walks every path: many rules must not make it give up.
func TestAttachManyRules(t *testing.T) {
	cg := newCgroup(t)
	rules := []specs.LinuxDeviceCgroup{denyAll}
	for i := range int64(600) {
		rules = append(rules, ruleFor(i%3 != 0, []string{"b", "c", "a"}[i%3], i, i*7, []string{"r", "rw", "wm", "rwm"}[i%4]))
	}
	attachOrSkip(t, cg, rules, nil)
	if got := attempt(t, cg, "open r c 1:3"); got[0] != "no" {
		t.Error("a device without a rule is allowed")
	}
}

func TestAttachWithoutCapability(t *testing.T) {
	cg := newCgroup(t)
	attachOrSkip(t, cg, nil, nil)
	// Capabilities belong to a thread; this one is not used again.
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Error(err)
		}
		done <- Attach(cg.FD(), []specs.LinuxDeviceCgroup{denyAll}, nil)
	}()
	err := <-done
	if !errors.Is(err, ErrUnsupported) || !errors.Is(err, unix.EPERM) || !strings.Contains(fmt.Sprint(err), "CAP_BPF") {
		t.Errorf("error %v, want ErrUnsupported that names CAP_BPF", err)
	}
}

func TestAttachToNoCgroup(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := Attach(int(dir.Fd()), []specs.LinuxDeviceCgroup{denyAll}, nil); err == nil || errors.Is(err, ErrUnsupported) {
		t.Errorf("error %v, want one that is no warning", err)
	}
}

func BenchmarkAttach(b *testing.B) {
	root, err := cgroup.Mount()
	if err != nil {
		b.Skip(err)
	}
	rules := append([]specs.LinuxDeviceCgroup{denyAll}, DefaultAllowed()...)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		cg, err := cgroup.Create(root, "sbt-device-bench", 0, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := Attach(cg.FD(), rules, nil); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := cg.Delete(context.Background(), nil); err != nil {
			b.Fatal(err)
		}
		_ = cg.Close()
		b.StartTimer()
	}
}
