package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestParseBitmap(tt *testing.T) {
	for list, want := range map[string]bitmap{
		"0": {1}, "0-2,5": {0x27}, "1, 3": {0xa}, "64": {0, 1}, "63-64": {1 << 63, 1},
	} {
		if got, err := parseBitmap(list); err != nil || !slices.Equal(got, want) {
			tt.Errorf("%q: %x %v", list, got, err)
		}
	}
	for _, list := range []string{"", "x", "1-", "2-1", "-1", "0,,1", "99999"} {
		if got, err := parseBitmap(list); err == nil {
			tt.Errorf("%q: %x", list, got)
		}
	}
}

func TestExecCPUAffinity(tt *testing.T) {
	if goruntime.NumCPU() < 2 {
		tt.Skip("this machine has one CPU")
	}
	t := newTestbed(tt)
	t.spec.Process.Args = []string{"sleep", "1000"}
	id, _, err := t.create(IO{})
	if err != nil {
		tt.Fatal(err)
	}
	if err := t.r.Start(context.Background(), id); err != nil {
		tt.Fatal(err)
	}
	for _, a := range []specs.CPUAffinity{{Final: "1"}, {Initial: "0", Final: "1"}, {Initial: "1"}} {
		out, err := memoryFile("output", nil)
		if err != nil {
			tt.Fatal(err)
		}
		p := *t.spec.Process
		p.Args, p.ExecCPUAffinity = []string{"sed", "-n", `s/^Cpus_allowed_list:\t//p`, "/proc/self/status"}, &a
		proc, err := t.r.Exec(context.Background(), id, &p, ExecOptions{IO: IO{Stdout: out}})
		if err != nil {
			tt.Fatal(err)
		}
		if code, err := proc.Wait(); err != nil || code != 0 {
			tt.Fatal(code, err)
		}
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", out.Fd())); string(b) != "1\n" {
			tt.Errorf("%+v: CPUs %q", a, b)
		}
		_ = out.Close()
	}
	t.spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "x"}
	if _, _, err := t.create(IO{}); err == nil || !strings.Contains(err.Error(), "execCPUAffinity.initial") {
		tt.Error(err)
	}
}

func TestMemoryPolicy(tt *testing.T) {
	t := newTestbed(tt)
	t.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_X"}
	if _, _, err := t.create(IO{}); err == nil || !strings.Contains(err.Error(), `linux.memoryPolicy: unknown mode "MPOL_X"`) {
		tt.Error(err)
	}
	t.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
	out, _, err := t.try("sh", "-c", "head -n 1 /proc/self/numa_maps")
	if errors.Is(err, unix.ENOSYS) {
		tt.Skip("this kernel has no memory policies (CONFIG_NUMA)")
	}
	if err != nil || !strings.Contains(out, "bind=static:0") {
		tt.Errorf("%q %v", out, err)
	}
}

func TestPIDFDSocket(tt *testing.T) {
	t := newTestbed(tt)
	socket := filepath.Join(tt.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		tt.Fatal(err)
	}
	defer l.Close()
	t.spec.Process.Args = []string{"sleep", "1000"}
	t.writeSpec()
	id := t.id()
	p, err := t.r.Create(context.Background(), id, CreateOptions{Bundle: t.bundle, PIDFDSocket: socket})
	if err != nil {
		tt.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		tt.Fatal(err)
	}
	defer conn.Close()
	buf, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(buf, oob)
	if err != nil {
		tt.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		tt.Fatal(msgs, err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		tt.Fatal(err)
	}
	defer unix.Close(fds[0])
	if err := unix.PidfdSendSignal(fds[0], unix.SIGKILL, nil, 0); err != nil {
		tt.Fatal(err)
	}
	if code, err := p.Wait(); err != nil || code != 137 {
		tt.Error(code, err)
	}
	if err := t.r.Delete(context.Background(), id, false); err != nil {
		tt.Error(err)
	}
}
