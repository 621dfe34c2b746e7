package enginetest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

func process(t *testing.T, s *suite) {
	r := s.run(t, api.ContainerSpec{
		Hostname: "sbt-box", Env: []string{"GREETING=hello world"}, WorkDir: "/usr",
		Entrypoint: []string{"sh", "-c"}, Command: []string{`echo "$GREETING"; hostname; pwd; echo pid $$; echo "$0"`, "zero"},
	})
	if want := "hello world\nsbt-box\n/usr\npid 1\nzero\n"; r.stdout != want {
		t.Errorf("output %q, want %q", r.stdout, want)
	}
	r = s.run(t, api.ContainerSpec{Command: shell("ls /proc | grep -c '^[0-9]'; ls -d /dev/null /dev/pts /dev/shm /proc/self /sys/kernel; test -e /proc/1/exe; hostname")})
	if c := strings.Split(r.stdout, "\n"); len(c) < 6 || c[0] > "6" || r.Code != 0 || len(c[6]) != 12 {
		t.Errorf("what a container sees: %+v", r)
	}
}

// initProcess: with Init, a program that waits for nobody leaves no zombies.
func initProcess(t *testing.T, s *suite) {
	c := s.start(t, api.ContainerSpec{Init: true, Command: shell("(sleep 0.05 &) ; exec sleep 1000")})
	code, out := s.exec(t, c.ID, api.ExecSpec{Command: shell("sleep 0.3; cat /proc/[0-9]*/stat | grep -c ' Z '; echo $PPID")})
	if code != 0 || !strings.HasPrefix(out, "0\n") {
		t.Errorf("code %d, output %q: zombies are left", code, out)
	}
	r := s.run(t, api.ContainerSpec{Init: true, Command: shell("echo $$; exit 21")})
	if r.Code != 21 || r.stdout == "1\n" {
		t.Errorf("%+v", r)
	}
	if r := s.run(t, api.ContainerSpec{Init: true, Command: shell("kill -9 $$")}); r.Code != 137 {
		t.Errorf("%+v, want code 137", r)
	}
}

func pause(t *testing.T, s *suite) {
	s.requires(t, "freezer")
	c := s.start(t, api.ContainerSpec{Command: shell("while :; do echo tick; sleep 0.01; done")})
	s.logged(t, c.ID, "tick")
	if err := s.Engine.Pause(testContext(t), c.ID); err != nil {
		t.Fatalf("pause: %v", err)
	}
	if got := s.inspect(t, c.ID).Status; got != api.StatusPaused {
		t.Errorf("status %s", got)
	}
	if err := s.Engine.Pause(testContext(t), c.ID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second pause: %v, want a failed precondition", err)
	}
	if _, err := s.Exec(testContext(t), c.ID, api.ExecSpec{Command: []string{"true"}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec while paused: %v, want a failed precondition", err)
	}
	time.Sleep(50 * time.Millisecond) // what was in the pipe is in the log now
	before := s.log(t, c.ID)
	time.Sleep(200 * time.Millisecond)
	if after := s.log(t, c.ID); after != before {
		t.Errorf("%d bytes were logged while paused", len(after)-len(before))
	}
	if err := s.Unpause(testContext(t), c.ID); err != nil {
		t.Fatalf("unpause: %v", err)
	}
	eventually(t, "it goes on", func() bool { return len(s.log(t, c.ID)) > len(before) })
	if err := s.Engine.Pause(testContext(t), c.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(testContext(t), c.ID, 100*time.Millisecond); err != nil {
		t.Errorf("stop while paused: %v", err)
	}
}

func networkNone(t *testing.T, s *suite) {
	r := s.run(t, api.ContainerSpec{Network: api.Network{Mode: "none"}, Command: shell("ls /sys/class/net; ping -c1 -W1 127.0.0.1 >/dev/null && echo loopback; ip route")})
	if r.stdout != "lo\nloopback\n" {
		t.Errorf("%+v", r)
	}
}

func volumes(t *testing.T, s *suite) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := s.run(t, api.ContainerSpec{
		Mounts: []api.Mount{
			{Type: "bind", Source: dir, Target: "/data"},
			{Type: "bind", Source: dir, Target: "/fixed", Options: []string{"ro"}},
			{Type: "bind", Source: filepath.Join(dir, "file"), Target: "/etc/one-file"},
			{Type: "tmpfs", Target: "/scratch", Options: []string{"size=64k"}},
		},
		Command: shell(`cat /data/file /etc/one-file
			echo back >/data/written
			echo no >/fixed/file 2>/dev/null || echo read-only
			head -c 1000000 /dev/zero >/scratch/x 2>/dev/null || echo full
			grep -c ' /scratch tmpfs ' /proc/mounts`),
	})
	if want := "from the host\nfrom the host\nread-only\nfull\n1\n"; r.stdout != want {
		t.Errorf("%+v, want %q", r, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "written")); err != nil || string(b) != "back\n" {
		t.Errorf("what the container wrote: %q, %v", b, err)
	}
}

func readOnly(t *testing.T, s *suite) {
	r := s.run(t, api.ContainerSpec{
		ReadOnly: true, Mounts: []api.Mount{{Type: "tmpfs", Target: "/run"}},
		Command: shell("echo x >/file 2>/dev/null || echo read-only; echo x >/run/file && echo writable; echo x >/dev/shm/file && echo shm"),
	})
	if r.stdout != "read-only\nwritable\nshm\n" {
		t.Errorf("%+v", r)
	}
}

func user(t *testing.T, s *suite) {
	for _, test := range []struct{ user, want string }{
		{"", "0 0\n"}, {"1234", "1234 0\n"}, {"1234:4321", "1234 4321\n"}, {"root:4321", "0 4321\n"},
	} {
		if r := s.run(t, api.ContainerSpec{User: test.user, Command: shell("echo $(id -u) $(id -g)")}); r.stdout != test.want {
			t.Errorf("user %q: %+v, want %q", test.user, r, test.want)
		}
	}
	r := s.run(t, api.ContainerSpec{User: "1234", Command: shell("echo by name >/dev/stdout; grep CapEff /proc/self/status; ls /root 2>&1 >/dev/null | grep -c denied")})
	if !strings.HasPrefix(r.stdout, "by name\n") || !strings.Contains(r.stdout, "0000000000000000") {
		t.Errorf("%+v", r)
	}
}

func copyOnWrite(t *testing.T, s *suite) {
	script := shell("test -e /etc/passwd && rm /etc/passwd && echo changed >/etc/group && mkdir /made && cat /etc/group; ls / | grep -c made")
	for range 2 { // the second container sees nothing of the first
		if r := s.run(t, api.ContainerSpec{Command: script}); r.stdout != "changed\n1\n" || r.Code != 0 {
			t.Errorf("%+v", r)
		}
	}
}

func oom(t *testing.T, s *suite) {
	s.requires(t, "memory")
	const limit = 32 << 20
	spec := api.ContainerSpec{
		Resources: api.Resources{Memory: limit, MemorySwap: limit},
		// busybox's tail keeps what it reads; exec, so that the first process is killed.
		Command: shell("exec tail -c 200m /dev/zero"),
	}
	r := s.run(t, spec)
	if r.Code != 137 || !r.OOMKilled || !strings.Contains(r.Message, "memory.max ("+strconv.Itoa(limit)+" bytes)") {
		t.Errorf("%+v, want code 137 by the OOM killer", r)
	}
	spec.Command = shell("tail -c 200m /dev/zero; echo survived $?; exit 3")
	if r := s.run(t, spec); r.Code != 3 || !r.OOMKilled || r.stdout != "survived 137\n" {
		t.Errorf("%+v, want code 3 after a child was killed", r)
	}
}

func pidsLimit(t *testing.T, s *suite) {
	s.requires(t, "pids")
	r := s.run(t, api.ContainerSpec{Resources: api.Resources{PidsLimit: 10}, Command: shell("for i in $(seq 30); do sleep 5 & done 2>/dev/null; echo forked all")})
	if strings.Contains(r.stdout, "forked all") {
		t.Errorf("%+v, want the fork to fail at pids.max", r)
	}
}

func stats(t *testing.T, s *suite) {
	c := s.start(t, api.ContainerSpec{Init: true, Resources: api.Resources{Memory: 64 << 20}, Command: shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; exec sleep 1000")})
	s.logged(t, c.ID, "done")
	first, err := s.Engine.Stats(testContext(t), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if first.ID != c.ID || first.CPU == nil || first.CPU.UsageUsec == 0 {
		t.Errorf("%+v, %+v", first, first.CPU)
	}
	if _, lacking := s.Without["memory"]; !lacking && (first.Memory == nil || first.Memory.Limit != 64<<20 || first.Memory.Current == 0) {
		t.Errorf("memory: %+v", first.Memory)
	}
	if _, lacking := s.Without["pids"]; !lacking && (first.Pids == nil || first.Pids.Current < 2) {
		t.Errorf("pids: %+v", first.Pids)
	}
	if err := s.Kill(testContext(t), c.ID, "KILL"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(testContext(t), c.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Engine.Stats(testContext(t), c.ID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after the end: %v, want a failed precondition", err)
	}
}
