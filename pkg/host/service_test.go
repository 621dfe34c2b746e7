package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/state"
)

// tool puts a program of that name first in PATH, which notes how it is called.
func tool(t *testing.T, log, name string) {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\necho " + name + " \"$@\" >> " + log + "\n"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestUnit(t *testing.T) {
	h := fixture(t, map[string]string{"run/systemd/system/x": "", "etc/group": "root:x:0:\nsandbox:x:999:\n", "etc/sysctl.d/60-sandbox.conf": ""})
	log := filepath.Join(t.TempDir(), "log")
	tool(t, log, "systemctl")
	tool(t, log, "groupdel")
	s := &Service{Host: h, Dirs: state.Default(), Program: "/opt/sandbox/bin/sandbox"}
	started, err := s.Start(t.Context())
	if err != nil || started.How != "unit sandbox.service" || started.Ended != nil {
		t.Fatalf("started %+v, %v", started, err)
	}
	unit := read(h.Etc, "systemd/system/sandbox.service")
	for _, line := range []string{
		"ExecStart=/opt/sandbox/bin/sandbox daemon", "Type=notify",
		"KillMode=process", // or a restart of the daemon would end the containers
		"WantedBy=multi-user.target",
		"EnvironmentFile=-/etc/environment", // proxies
	} {
		if !slices.Contains(strings.Split(unit, "\n"), line) {
			t.Errorf("the unit lacks %s:\n%s", line, unit)
		}
	}
	if got, want := read(log), "systemctl daemon-reload\nsystemctl reset-failed sandbox.service\nsystemctl enable sandbox.service\nsystemctl start sandbox.service"; got != want {
		t.Errorf("calls:\n%s\nwant:\n%s", got, want)
	}

	// The same unit again is not written again.
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context()); err != nil || strings.Contains(read(log), "daemon-reload") {
		t.Errorf("%v, calls:\n%s", err, read(log))
	}

	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	// The folders are the real ones: they must be none of this machine's daemon.
	if _, err := os.Stat(s.Dirs.Root); err == nil {
		t.Skipf("%s is in use on this machine", s.Dirs.Root)
	}
	if err := s.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := read(log), "systemctl disable --now sandbox.service\nsystemctl daemon-reload\ngroupdel sandbox"; got != want {
		t.Errorf("calls:\n%s\nwant:\n%s", got, want)
	}
	if exists(h.Etc, "systemd/system/sandbox.service") || exists(h.Etc, "sysctl.d/60-sandbox.conf") {
		t.Error("the unit or the sysctl file is left")
	}
}

// TestProcess starts a daemon that fails at once, which is a shell.
func TestProcess(t *testing.T) {
	h := fixture(t, nil)
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\"\necho went wrong >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := &Service{Host: h, Dirs: state.Dirs{Root: filepath.Join(dir, "lib"), Run: filepath.Join(dir, "run")}, Program: program}
	if err := os.MkdirAll(s.Dirs.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Dirs.DaemonLog(), []byte("of an earlier daemon\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	started, err := s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-started.Ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the process does not end")
	}
	want := []string{"--state-dir " + s.Dirs.Root + " --run-dir " + s.Dirs.Run + " daemon", "went wrong"}
	if got := started.Log(); !slices.Equal(got, want) {
		t.Errorf("log is %q, want %q", got, want)
	}
	if err := s.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exists(s.Dirs.Root) {
		t.Error("the folder with the log is left")
	}
}

func TestRemoveKeepsWhatIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	s := &Service{Host: fixture(t, map[string]string{"proc/x": "", "sys/class/net/x": ""}), Dirs: state.Dirs{Root: filepath.Join(dir, "lib"), Run: filepath.Join(dir, "run")}}
	if err := os.MkdirAll(s.Dirs.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dirs.Root, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context()); err != nil || !exists(s.Dirs.Root, "thesis.tex") {
		t.Errorf("%v", err)
	}
	left, err := s.files(t.Context())
	if err != nil || len(left) != 1 || left[0] != "file "+s.Dirs.Root {
		t.Errorf("left is %q, %v", left, err)
	}
}

func TestLeftovers(t *testing.T) {
	name := CgroupParent(state.Dirs{Root: "/tmp/lib", Run: "/tmp/run"})
	h := fixture(t, map[string]string{
		"proc/4711/cmdline":        "/tmp/lib/bin/sandbox-runtime\x00shim\x00--run=/tmp/run/containers/x\x00",
		"proc/4712/cmdline":        "/usr/bin/sandbox\x00--state-dir\x00/tmp/lib\x00daemon\x00",
		"proc/4713/cmdline":        "/usr/bin/sandbox\x00--state-dir\x00/tmp/library\x00daemon\x00",
		"proc/4714/cmdline":        "vi\x00/tmp/lib/x\x00",
		"proc/self/mountinfo":      mounted(mountV2, "40 22 0:50 / /tmp/run/containers/x rw - overlay overlay rw", "41 22 0:51 / /tmp/lib rw - tmpfs tmpfs rw"),
		"sys/class/net/sandbox0/x": "", "sys/class/net/sbx0123456789ab/x": "", "sys/class/net/sbx/x": "", "sys/class/net/eth0/x": "",
		"sys/fs/cgroup/" + name + "/x": "",
	})
	s := &Service{Host: h, Dirs: state.Dirs{Root: "/tmp/lib", Run: "/tmp/run"}}
	var got []string
	for _, look := range []func() ([]string, error){
		func() ([]string, error) { return s.processes(t.Context()) },
		func() ([]string, error) { return s.mounts(t.Context()) },
		func() ([]string, error) { return s.links(t.Context()) },
		func() ([]string, error) { return s.cgroups(t.Context()) },
	} {
		found, err := look()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, found...)
	}
	want := []string{
		"process 4711: /tmp/lib/bin/sandbox-runtime shim --run=/tmp/run/containers/x",
		"process 4712: /usr/bin/sandbox --state-dir /tmp/lib daemon",
		"mount /tmp/run/containers/x", "link sandbox0", "link sbx0123456789ab",
		"cgroup /sys/fs/cgroup/" + name,
	}
	if !slices.Equal(got, want) {
		t.Errorf("left is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
