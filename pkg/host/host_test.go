package host

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// fixture is a machine made of files.
func fixture(t *testing.T, files map[string]string) *Host {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	at := func(dir string) string { return filepath.Join(root, dir) }
	return &Host{Proc: at("proc"), Sys: at("sys"), Etc: at("etc"), Run: at("run"), StateDir: t.TempDir()}
}

func lookFor(t *testing.T, h *Host, name string) api.Finding {
	t.Helper()
	findings, err := h.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(findings, func(f api.Finding) bool { return f.Check == name })
	if i < 0 {
		t.Fatalf("there is no check %q", name)
	}
	return findings[i]
}

const v1Controllers = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t2\t1\t1\nmemory\t3\t1\t1\npids\t4\t1\t1\nblkio\t5\t1\t1\ncpuset\t6\t1\t1\n"

// mounted is mountinfo of a machine with these cgroup file systems.
func mounted(lines ...string) string {
	return "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n" + strings.Join(lines, "\n") + "\n"
}

const (
	mountV2     = "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
	mountHybrid = "31 22 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
	mountCPU    = "32 22 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu"
	mountMemory = "33 22 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
	mountBlkio  = "34 22 0:30 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio"
)

func TestFixtures(t *testing.T) {
	for _, c := range []struct {
		name, check, status string
		found               string // a part
		fix                 string // a part
		files               map[string]string
	}{
		{"recent", "kernel", OK, "Linux 6.1.0-18-amd64", "", map[string]string{"proc/sys/kernel/osrelease": "6.1.0-18-amd64\n"}},
		{"just enough", "kernel", OK, "5.12", "", map[string]string{"proc/sys/kernel/osrelease": "5.12.0\n"}},
		{"too old", "kernel", Fail, "older than 5.12", "install a kernel", map[string]string{"proc/sys/kernel/osrelease": "5.10.0-28-amd64\n"}},
		{"nonsense", "kernel", Fail, "no version", "", map[string]string{"proc/sys/kernel/osrelease": "banana\n"}},

		{"pure", "cgroup version", OK, "version 2 at /sys/fs/cgroup", "", map[string]string{"proc/self/mountinfo": mounted(mountV2)}},
		{"hybrid", "cgroup version", Warn, "hybrid: version 2 at /sys/fs/cgroup/unified", "unified_cgroup_hierarchy", map[string]string{
			"proc/self/mountinfo": mounted(mountHybrid, mountCPU, mountMemory), "proc/cgroups": v1Controllers,
		}},
		{"old", "cgroup version", Fail, "version 1 only", "unified_cgroup_hierarchy", map[string]string{
			"proc/self/mountinfo": mounted(mountCPU), "proc/cgroups": v1Controllers,
		}},
		{"none", "cgroup version", Fail, "no cgroup file system", "mount -t cgroup2", map[string]string{"proc/self/mountinfo": mounted()}},
		{"all", "cgroup controllers", OK, "cpuset cpu io memory", "", map[string]string{
			"proc/self/mountinfo": mounted(mountV2), "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids\n",
		}},
		{"bound", "cgroup controllers", Warn, "cpuset pids in version 2; cpu, io and memory bound to version 1", "", map[string]string{
			"proc/self/mountinfo": mounted(mountHybrid, mountCPU, mountMemory, mountBlkio), "proc/cgroups": v1Controllers,
			"sys/fs/cgroup/unified/cgroup.controllers": "cpuset pids\n",
		}},
		{"not delegated", "cgroup controllers", Warn, "cpu and cpuset not in this kernel, or not delegated", "", map[string]string{
			"proc/self/mountinfo": mounted(mountV2), "sys/fs/cgroup/cgroup.controllers": "io memory pids\n",
		}},
		{"swap", "swap accounting", OK, "yes", "", map[string]string{
			"proc/self/mountinfo": mounted(mountV2), "sys/fs/cgroup/cgroup.controllers": "memory\n",
			"sys/fs/cgroup/init.scope/memory.max": "max\n", "sys/fs/cgroup/init.scope/memory.swap.max": "max\n",
		}},
		{"no swap", "swap accounting", Warn, "memory.swap.max is missing", "swapaccount=1", map[string]string{
			"proc/self/mountinfo": mounted(mountV2), "sys/fs/cgroup/cgroup.controllers": "memory\n", "sys/fs/cgroup/init.scope/memory.max": "max\n",
		}},

		{"namespace", "pid namespace", OK, "", "", map[string]string{"proc/self/ns/pid": ""}},
		{"no namespace", "pid namespace", Fail, "this kernel has none", "", nil},
		{"no time namespace", "time namespace", Warn, "this kernel has none", "", nil},
		{"free", "user namespaces", OK, "at most 100", "", map[string]string{"proc/sys/user/max_user_namespaces": "100\n"}},
		{"forbidden", "user namespaces", Warn, "is 0", "max_user_namespaces=15000", map[string]string{"proc/sys/user/max_user_namespaces": "0\n"}},
		{"AppArmor", "user namespaces", Warn, "AppArmor", "apparmor_restrict_unprivileged_userns=0", map[string]string{
			"proc/sys/user/max_user_namespaces": "100\n", "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
		}},
		{"Debian", "user namespaces", Warn, "only root", "unprivileged_userns_clone=1", map[string]string{
			"proc/sys/user/max_user_namespaces": "100\n", "proc/sys/kernel/unprivileged_userns_clone": "0\n",
		}},

		{"all", "capabilities", OK, "all that matter", "", map[string]string{"proc/self/status": "Name:\tx\nCapBnd:\t000001ffffffffff\n"}},
		{"without one", "capabilities", Warn, "missing CAP_SYS_RESOURCE", "", map[string]string{"proc/self/status": "CapBnd:\t000001fffeffffff\n"}},
		{"a container", "capabilities", Fail, "CAP_SYS_ADMIN", "", map[string]string{"proc/self/status": "CapBnd:\t00000000a80425fb\n"}},

		{"no filters", "seccomp", Warn, "no seccomp filters", "", nil},
		{"enough", "inotify watches", OK, "600000", "", map[string]string{"proc/sys/fs/inotify/max_user_watches": "600000\n"}},
		{"few", "inotify watches", Warn, "8192, less than 524288", "fs.inotify.max_user_watches=524288", map[string]string{"proc/sys/fs/inotify/max_user_watches": "8192\n"}},
		{"much", "memory", OK, "8GiB, 6GiB available", "", map[string]string{"proc/meminfo": "MemTotal:        8388608 kB\nMemFree: 1 kB\nMemAvailable:    6291456 kB\n"}},
		{"little", "memory", Warn, "100MiB available", "", map[string]string{"proc/meminfo": "MemTotal:        8388608 kB\nMemAvailable:    102400 kB\n"}},
		{"small", "memory", Warn, "1GiB", "", map[string]string{"proc/meminfo": "MemTotal:        1048576 kB\nMemAvailable:    902400 kB\n"}},
		{"off", "IP forwarding", Warn, "off", "net.ipv4.ip_forward=1", map[string]string{"proc/sys/net/ipv4/ip_forward": "0\n"}},

		{"free", "ports", OK, "free: 3001 9090 9093 4566", "", nil},
		{"taken", "ports", Warn, "9090 (Prometheus) by", "", map[string]string{
			"proc/net/tcp": "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
				"   0: 0100007F:2382 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n" +
				"   1: 0100007F:0BB9 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n",
		}},

		{"group", "group sandbox", OK, "members: ann,bob", "", map[string]string{"etc/group": "root:x:0:\nsandbox:x:999:ann,bob\n"}},
		{"no group", "group sandbox", Warn, "missing", "groupadd", map[string]string{"etc/group": "root:x:0:\nsandboxes:x:999:\n"}},
		{"systemd", "systemd", OK, "unit", "", map[string]string{"run/systemd/system/x": ""}},
		{"no systemd", "systemd", OK, "bash is", "", map[string]string{"proc/1/comm": "bash\n"}},
		{"no Docker", "Docker", Warn, "not installed", "doctor --fix", nil},
	} {
		t.Run(c.check+"/"+c.name, func(t *testing.T) {
			f := lookFor(t, fixture(t, c.files), c.check)
			if f.Status != c.status || !strings.Contains(f.Found, c.found) || !strings.Contains(f.Fix, c.fix) || f.Why == "" {
				t.Errorf("finding is %+v, want %s with %q and the fix %q", f, c.status, c.found, c.fix)
			}
			if f.Status == OK && f.Fix != "" {
				t.Errorf("a fix for what is in order: %q", f.Fix)
			}
		})
	}
}

// TestThisHost looks at the real one: quickly, and without leaving anything.
func TestThisHost(t *testing.T) {
	before := snapshot(t)
	h := This(filepath.Join(t.TempDir(), "not", "there"))
	begin := time.Now()
	findings, err := h.Check(t.Context())
	took := time.Since(begin)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Logf("%-4s %s: %s", f.Status, f.Check, f.Found)
		if f.Why == "" || f.Found == "" || f.Status != OK && f.Fix == "" {
			t.Errorf("the finding says too little: %+v", f)
		}
	}
	// Far above what it takes, also with other tests beside it: a probe that
	// waits for something would show.
	if limit := 2 * time.Second; took > limit && os.Getenv("SANDBOX_VM") == "" {
		t.Errorf("took %v, more than %v", took, limit)
	}
	t.Logf("%d checks in %v", len(findings), took)
	if after := snapshot(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if exists(h.StateDir) {
		t.Error("looking has made the state folder")
	}
}

// snapshot is what a probe could leave: links, mounts, namespaces that this
// process's first thread is in.
func snapshot(t *testing.T) string {
	t.Helper()
	var out []string
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name, "sb") {
			out = append(out, l.Name)
		}
	}
	for line := range strings.Lines(read("/proc", "self/mountinfo")) {
		if strings.Contains(line, "sandbox-doctor") {
			out = append(out, line)
		}
	}
	for _, ns := range namespaces {
		link, err := os.Readlink("/proc/self/ns/" + ns.file)
		if err != nil {
			t.Log(err)
		}
		out = append(out, link)
	}
	return strings.Join(out, "\n")
}

func TestDocker(t *testing.T) {
	h := fixture(t, map[string]string{"run/x": ""})
	// A unix socket's path is short.
	dir, err := os.MkdirTemp("", "sbt")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	h.Run = dir
	l, err := net.Listen("unix", filepath.Join(dir, "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"Version":"28.0.1"}`)) })
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"Driver":"overlay2","CgroupDriver":"systemd","CgroupVersion":"2"}`))
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(l) }()
	f := lookFor(t, h, "Docker")
	if want := "28.0.1 (storage driver overlay2, cgroup driver systemd, cgroup version 2)"; f.Status != OK || f.Found != want {
		t.Errorf("found %+v, want %s", f, want)
	}
	_ = server.Close()
	// The socket file goes with the listener; one that is left answers nobody.
	if err := os.WriteFile(filepath.Join(dir, "docker.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f := lookFor(t, h, "Docker"); f.Status != Warn {
		t.Errorf("a dead socket is %+v", f)
	}
}

func TestFix(t *testing.T) {
	h := fixture(t, map[string]string{
		"proc/sys/fs/inotify/max_user_watches": "8192\n", "proc/sys/fs/inotify/max_user_instances": "128\n",
		"proc/sys/net/ipv4/ip_forward": "1\n", "etc/sysctl.d/60-sandbox.conf": "# mine\nfs.inotify.max_user_watches = 1\nvm.swappiness = 10\n",
		"etc/group": "sandbox:x:999:\n",
	})
	findings, err := h.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	findings = slices.DeleteFunc(findings, func(f api.Finding) bool { return !strings.HasPrefix(f.Check, "inotify") })
	did, err := h.Fix(t.Context(), findings)
	if err != nil || len(did) != 2 || !strings.HasPrefix(did[0], "fs.inotify.max_user_watches = 524288") {
		t.Errorf("did %q, %v", did, err)
	}
	if f := lookFor(t, h, "inotify watches"); f.Status != OK {
		t.Errorf("after the fix: %+v", f)
	}
	want := "# mine\nvm.swappiness = 10\nfs.inotify.max_user_watches = 524288\nfs.inotify.max_user_instances = 512\n"
	if got := read(h.Etc, "sysctl.d/60-sandbox.conf") + "\n"; got != want {
		t.Errorf("the file is %q, want %q", got, want)
	}
	// Nothing is amiss now, nothing is done.
	if did, err := h.Fix(t.Context(), nil); err != nil || did != nil {
		t.Errorf("did %q, %v", did, err)
	}
}

func TestParseRelease(t *testing.T) {
	for release, want := range map[string][2]int{
		"6.1.0-18-amd64": {6, 1}, "5.15.153.1-microsoft-standard-WSL2": {5, 15}, "6.18.44+": {6, 18}, "7.0-rc1": {7, 0}, "5.12": {5, 12},
	} {
		if major, minor, err := parseRelease(release); err != nil || major != want[0] || minor != want[1] {
			t.Errorf("%s is %d.%d, %v", release, major, minor, err)
		}
	}
	for _, release := range []string{"", "x", "6", "6.", ".1"} {
		if _, _, err := parseRelease(release); err == nil {
			t.Errorf("%q is accepted", release)
		}
	}
}

// TestContext ends a check whose context has ended.
func TestContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fixture(t, nil).Check(ctx); err == nil {
		t.Error("no error")
	}
}
