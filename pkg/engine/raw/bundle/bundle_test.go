package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

var update = flag.Bool("update", false, "write the golden files")

// input is a container with all defaults, on a host that has everything.
func input() Input {
	var all []string
	for _, c := range capabilityTable {
		all = append(all, c.name)
	}
	return Input{
		ID:   "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		Spec: api.ContainerSpec{Image: "toolbox"},
		Image: imagespec.ImageConfig{
			Entrypoint: []string{"/entrypoint"},
			Cmd:        []string{"serve"},
			Env:        []string{"PATH=/bin", "IMAGE=1"},
		},
		User: User{AdditionalGids: []uint32{0}, Home: "/root"},
		Host: Host{
			Hostname: "vm", Capabilities: all, AppArmor: true, Seccomp: true,
			CPUs: IDSet{{0, 3}}, MemoryNodes: IDSet{{0, 0}},
		},
		Paths: Paths{
			Rootfs: "/run/sandbox/rootfs", Hosts: "/lib/hosts", Hostname: "/lib/hostname", ResolvConf: "/lib/resolv.conf",
			Init: "/run/sandbox/bin/sandbox-runtime", InitArgs: []string{"init"},
		},
		Stat: func(path string) (Device, error) {
			switch path {
			case "/dev/sda":
				return Device{Type: "b", Major: 8, Minor: 0, Mode: 0o660, GID: 6}, nil
			case "/dev/fuse":
				return Device{Type: "c", Major: 10, Minor: 229, Mode: 0o666}, nil
			case "/etc":
				return Device{}, &fs.PathError{Op: "stat", Path: path, Err: ErrNotDevice}
			case "/dev/broken":
				return Device{}, &fs.PathError{Op: "stat", Path: path, Err: unix.EIO}
			}
			return Device{}, &fs.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
		},
	}
}

func pointer[T any](v T) *T { return &v }

func TestBuildGolden(t *testing.T) {
	for _, tc := range []struct {
		name     string
		change   func(*Input)
		warnings []string
	}{
		{name: "default", change: func(*Input) {}},
		{name: "privileged", change: func(in *Input) {
			in.Spec.Privileged = true
			in.Spec.Devices = []string{"/dev/sda", "/dev/fuse:/dev/other"}
			in.HostDevices = []specs.LinuxDevice{{Path: "/dev/sda", Type: "b", Major: 8}}
		}},
		{name: "limits", change: func(in *Input) {
			in.Spec.Resources = api.Resources{
				Memory: 64 << 20, MemoryReservation: 32 << 20, NanoCPUs: 5e8, CPUWeight: 200,
				CpusetCPUs: "0-1,3", CpusetMems: "0", PidsLimit: 20,
				DeviceReadBps:   []api.ThrottleDevice{{Path: "/dev/sda", Rate: 1 << 20}},
				DeviceWriteBps:  []api.ThrottleDevice{{Path: "/dev/sda", Rate: 2 << 20}},
				DeviceReadIOps:  []api.ThrottleDevice{{Path: "/dev/sda", Rate: 100}},
				DeviceWriteIOps: []api.ThrottleDevice{{Path: "/dev/sda", Rate: 200}},
			}
			in.Spec.Ulimits = []api.Ulimit{{Name: "nofile", Soft: 1024, Hard: 2048}, {Name: "core", Soft: 0, Hard: 1<<64 - 1}}
			in.Spec.OOMScoreAdj = pointer(500)
		}},
		{name: "unlimited", change: func(in *Input) {
			in.Spec.Resources = api.Resources{Memory: 64 << 20, MemorySwap: -1, CPUShares: 512, PidsLimit: -1}
			in.Host.OOMScoreAdj = -500
		}},
		{name: "process", change: func(in *Input) {
			in.Spec.TTY, in.Spec.Init = true, true
			in.Spec.Entrypoint, in.Spec.Command = []string{"sh"}, []string{"-c", "exit 3"}
			in.Spec.Env = []string{"TERM=vt100", "IMAGE", "A=1=2", "EMPTY="}
			in.Spec.WorkDir = "/srv/../srv/www/"
			in.Spec.Hostname = "web"
			in.Spec.StopSignal = "SIGRTMIN+3"
			in.User = User{UID: 33, GID: 33, AdditionalGids: []uint32{33, 4}, Home: "/var/www"}
		}},
		{name: "mounts", change: func(in *Input) {
			in.Spec.ReadOnly = true
			in.Spec.ShmSize = 128 << 20
			in.Spec.Mounts = []api.Mount{
				{Type: "bind", Source: "/srv/data/", Target: "/data/sub", Options: []string{"rbind", "ro"}},
				{Type: "bind", Source: "/srv", Target: "/data", Options: []string{"bind", "rw", "rslave"}},
				{Type: "bind", Source: "/etc/hosts", Target: "/etc/hosts"},
				{Type: "tmpfs", Target: "/run", Options: []string{"size=64m", "mode=1777", "exec", "size=1g"}},
				{Type: "tmpfs", Target: "/tmp", Options: []string{"size=50%", "noexec", "ro"}},
			}
		}},
		{name: "mount-on-dev", change: func(in *Input) {
			in.Spec.Mounts = []api.Mount{{Type: "bind", Source: "/dev", Target: "/dev", Options: []string{"rbind", "rshared"}}}
			in.Spec.Devices = []string{"/dev/fuse"}
		}, warnings: []string{"mounts that the container makes below /dev do not appear on the host: rshared has the effect of slave"}},
		{name: "capabilities-none", change: func(in *Input) { in.Spec.CapDrop = []string{"ALL"} }},
		{name: "capabilities-some", change: func(in *Input) {
			in.Spec.CapDrop, in.Spec.CapAdd = []string{"all"}, []string{"net_admin", "CAP_SYS_TIME"}
		}},
		{name: "capabilities-all-but", change: func(in *Input) {
			in.Spec.CapAdd, in.Spec.CapDrop = []string{"ALL"}, []string{"SYS_ADMIN"}
		}},
		{name: "capabilities-tweaked", change: func(in *Input) {
			in.Spec.CapAdd, in.Spec.CapDrop = []string{"SYS_PTRACE", "CHOWN"}, []string{"NET_RAW", "CHOWN"}
		}},
		{name: "capabilities-missing", change: func(in *Input) {
			in.Spec.CapAdd = []string{"SYS_RESOURCE", "NET_ADMIN"}
			in.Host.Capabilities = slices.DeleteFunc(in.Host.Capabilities, func(c string) bool {
				return c == "CAP_SYS_RESOURCE" || c == "CAP_MKNOD"
			})
		}, warnings: []string{
			"CAP_SYS_RESOURCE is missing from this host's bounding set: the container cannot raise its resource limits or lower its OOM score",
			"CAP_MKNOD is missing from this host's bounding set: the container cannot make device nodes",
		}},
		{name: "security", change: func(in *Input) {
			in.Spec.SecurityOpt = []string{"no-new-privileges", "seccomp=unconfined", "apparmor=sandbox-test", "label=type:spc_t"}
			in.Host.MaskedPaths = []string{"/sys/devices/system/cpu/cpu0/thermal_throttle"}
		}, warnings: []string{"SELinux labels are not supported: --security-opt label=type:spc_t is ignored"}},
		{name: "security-lacking", change: func(in *Input) {
			in.Spec.SecurityOpt = []string{"no-new-privileges:false", "apparmor=sandbox-test"}
			in.Host.AppArmor, in.Host.Seccomp = false, false
		}, warnings: []string{
			"AppArmor is not enabled on this host: profile sandbox-test is not applied",
			"the kernel lacks seccomp filters: the container may make every system call",
		}},
		{name: "userns", change: func(in *Input) {
			in.Spec.UserNS = "100000:200000:65536"
			in.User = User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000}}
		}},
		{name: "userns-auto", change: func(in *Input) {
			in.Spec.UserNS = "auto"
			in.AutoIDs = IDRange{UID: 1 << 20, GID: 1 << 20, Size: 4}
		}},
		{name: "host-namespaces", change: func(in *Input) {
			in.Spec.PIDMode, in.Spec.IPCMode, in.Spec.Network.Mode = "host", "host", "host"
			in.Spec.Network.Publish = []api.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}
			in.Spec.Init = true
		}, warnings: []string{
			"-p has no effect with --network host: the container listens on the host's own ports",
			"--init has no effect with --pid host: that PID namespace has an init",
		}},
		{name: "joined-namespaces", change: func(in *Input) {
			in.Spec.PIDMode, in.Spec.IPCMode, in.Spec.Network.Mode = "container:a", "container:b", "container:c"
			in.Join = Join{PID: "/proc/1/ns/pid", IPC: "/proc/2/ns/ipc", Network: "/proc/3/ns/net"}
		}, warnings: []string{"--ipc container:b shares System V IPC and message queues, not the other container's /dev/shm"}},
		{name: "sysctls", change: func(in *Input) {
			in.Spec.Network.Mode, in.Spec.IPCMode = "none", "none"
			in.Spec.Sysctls = map[string]string{"net.core.somaxconn": "512", "kernel.shmmax": "1048576", "fs.mqueue.msg_max": "20",
				"net.ipv4.ip_unprivileged_port_start": "1024"}
		}},
		{name: "devices", change: func(in *Input) {
			in.Spec.Devices = []string{"/dev/fuse", "/dev/sda:/dev/disk:r", "/dev/fuse:rw"}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := input()
			tc.change(&in)
			spec, warnings, err := Build(in)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(warnings, tc.warnings) {
				t.Errorf("warnings %q, want %q", warnings, tc.warnings)
			}
			if s := spec.Linux.Seccomp; s != nil {
				// The rest is moby/profiles' own; TestBuildSeccomp looks at it.
				*s = specs.LinuxSeccomp{DefaultAction: s.DefaultAction, DefaultErrnoRet: s.DefaultErrnoRet}
			}
			golden(t, filepath.Join("testdata", tc.name+".json"), spec)
		})
	}
}

func golden(t *testing.T, file string, spec *specs.Spec) {
	t.Helper()
	got, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s (go test -update writes it):\n%s", file, got)
	}
}

func TestBuildBadInput(t *testing.T) {
	type change = func(*Input)
	mount := func(m api.Mount) change { return func(in *Input) { in.Spec.Mounts = []api.Mount{m} } }
	option := func(o string) change { return func(in *Input) { in.Spec.SecurityOpt = []string{o} } }
	resources := func(r api.Resources) change { return func(in *Input) { in.Spec.Resources = r } }
	userns := func(s string) change { return func(in *Input) { in.Spec.UserNS = s } }
	device := func(s string) change { return func(in *Input) { in.Spec.Devices = []string{s} } }
	sysctl := func(s string) change { return func(in *Input) { in.Spec.Sysctls = map[string]string{s: "1"} } }
	for _, tc := range []struct {
		change change
		err    string
	}{
		{func(in *Input) { in.Image.Entrypoint, in.Image.Cmd = nil, nil }, "no command given, and image toolbox has neither an entrypoint nor a command"},
		{func(in *Input) { in.Spec.Entrypoint = []string{""} }, "no command given, and image toolbox has neither an entrypoint nor a command"},
		{func(in *Input) { in.Spec.Entrypoint, in.Spec.Command = []string{""}, []string{""} }, "the command is an empty string"},
		{func(in *Input) { in.Spec.Command = []string{"a\x00b"} }, `argument "a\x00b" holds a zero byte`},
		{func(in *Input) { in.Spec.Init, in.Paths.Init = true, "" }, "--init: there is no init program"},
		{func(in *Input) { in.Spec.WorkDir = "srv" }, `working directory "srv" is not an absolute path`},
		{func(in *Input) { in.Image.WorkingDir = "srv" }, `working directory "srv" is not an absolute path`},
		{func(in *Input) { in.Spec.StopSignal = "SIGNOPE" }, `invalid stop signal "SIGNOPE"`},
		{func(in *Input) { in.Image.StopSignal = "65" }, `invalid stop signal "65"`},
		{func(in *Input) { in.Spec.OOMScoreAdj = pointer(1001) }, "invalid --oom-score-adj 1001: it ranges from -1000 to 1000"},
		{func(in *Input) { in.Spec.Env = []string{"=x"} }, `invalid environment variable "=x"`},
		{func(in *Input) { in.Spec.Ulimits = []api.Ulimit{{Name: "files"}} }, `unknown ulimit "files": known are core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack`},
		{func(in *Input) { in.Spec.Ulimits = []api.Ulimit{{Name: "core", Soft: 1<<64 - 1, Hard: 5}} }, "ulimit core: the soft limit unlimited is larger than the hard limit 5"},
		{func(in *Input) { in.Spec.Ulimits = []api.Ulimit{{Name: "core"}, {Name: "core"}} }, "ulimit core is given twice"},
		{func(in *Input) { in.Spec.CapAdd = []string{"NET_ADMINN"} }, `--cap-add: unknown capability "NET_ADMINN"`},
		{func(in *Input) { in.Spec.CapDrop = []string{"CAP_ALL"} }, `--cap-drop: unknown capability "CAP_ALL"`},
		{option("no-new-privileges=maybe"), `invalid --security-opt "no-new-privileges=maybe": want true or false`},
		{option("systempaths=unconfined"), `invalid --security-opt "systempaths=unconfined": want no-new-privileges, seccomp=…, apparmor=… or label=…`},
		{option("seccomp"), `invalid --security-opt "seccomp": want no-new-privileges, seccomp=…, apparmor=… or label=…`},
		{option("seccomp=/profile.json"), "invalid --security-opt seccomp=/profile.json: want unconfined, builtin or a profile in JSON"},
		{option("seccomp={"), "invalid --security-opt seccomp: Decoding seccomp profile failed: unexpected end of JSON input"},
		{mount(api.Mount{Type: "bind", Source: "/a", Target: "b"}), `mount target "b" is not an absolute path`},
		{mount(api.Mount{Type: "bind", Source: "/a", Target: "/b/.."}), `mount target "/b/.." is the container's root`},
		{mount(api.Mount{Type: "bind", Source: "a", Target: "/b"}), `mount on /b: source "a" is not an absolute path`},
		{mount(api.Mount{Type: "bind", Source: "/a", Target: "/b", Options: []string{"size=1"}}), `mount on /b: unknown option "size=1"`},
		{mount(api.Mount{Type: "volume", Target: "/b"}), `mount on /b: unknown type "volume"`},
		{mount(api.Mount{Type: "tmpfs", Target: "/b", Options: []string{"size=many"}}), `tmpfs on /b: invalid size "many"`},
		{mount(api.Mount{Type: "tmpfs", Target: "/b", Options: []string{"lowerdir=/"}}), `tmpfs on /b: unknown option "lowerdir=/"`},
		{mount(api.Mount{Type: "tmpfs", Target: "/b", Options: []string{""}}), `tmpfs on /b: unknown option ""`},
		{func(in *Input) {
			in.Spec.Mounts = []api.Mount{{Type: "tmpfs", Target: "/b/"}, {Type: "bind", Source: "/a", Target: "/b"}}
		}, "two mounts on /b"},
		{func(in *Input) { in.Spec.ShmSize = -1 }, "invalid --shm-size -1: it is negative"},
		{resources(api.Resources{Memory: 1 << 20}), "--memory 1048576 is too little: at least 6291456 bytes (6m) are needed"},
		{resources(api.Resources{Memory: -5}), "--memory -5 is too little: at least 6291456 bytes (6m) are needed"},
		{resources(api.Resources{MemoryReservation: 1}), "--memory-reservation 1 is too little: at least 6291456 bytes (6m) are needed"},
		{resources(api.Resources{Memory: 64 << 20, MemoryReservation: 128 << 20}), "--memory-reservation 128m is more than --memory 64m"},
		{resources(api.Resources{MemorySwap: 64 << 20}), "--memory-swap needs --memory: it is the sum of memory and swap"},
		{resources(api.Resources{Memory: 64 << 20, MemorySwap: 32 << 20}), "--memory-swap 32m is less than --memory 64m: it is the sum of memory and swap"},
		{resources(api.Resources{MemorySwap: -2}), "invalid --memory-swap -2: want bytes, or -1 for no limit"},
		{resources(api.Resources{NanoCPUs: 1e6}), "invalid --cpus 0.001: it ranges from 0.01 to the 4 of this host"},
		{resources(api.Resources{NanoCPUs: 45e8}), "invalid --cpus 4.5: it ranges from 0.01 to the 4 of this host"},
		{resources(api.Resources{CPUWeight: 10001}), "invalid --cpu-weight 10001: it ranges from 1 to 10000"},
		{resources(api.Resources{CPUWeight: 1, CPUShares: 1}), "--cpu-weight and --cpu-shares are the same in two units: give one"},
		{resources(api.Resources{CpusetCPUs: "0-7"}), "invalid --cpuset-cpus 0-7: this host has 0-3"},
		{resources(api.Resources{CpusetMems: "a"}), `invalid --cpuset-mems "a": want a list like 0-3,5`},
		{resources(api.Resources{PidsLimit: -2}), "invalid --pids-limit -2: want a number, or -1 for no limit"},
		{resources(api.Resources{DeviceReadBps: []api.ThrottleDevice{{Path: "/dev/sda"}}}), "--device-read-bps /dev/sda: the rate is 0, with which nothing would ever finish"},
		{resources(api.Resources{DeviceReadBps: []api.ThrottleDevice{{Path: "/dev/none", Rate: 1}}}), "--device-read-bps: there is no /dev/none"},
		{resources(api.Resources{DeviceWriteIOps: []api.ThrottleDevice{{Path: "/dev/fuse", Rate: 1}}}), "--device-write-iops: /dev/fuse is not a block device"},
		{device("/etc"), "--device: /etc is not a device"},
		{device("fuse"), `invalid --device "fuse": "fuse" is not an absolute path`},
		{device("/dev/fuse:/dev/fuse:x"), `invalid --device "/dev/fuse:/dev/fuse:x": want HOST[:CONTAINER][:rwm]`},
		{device("/dev/fuse:rr"), `invalid --device "/dev/fuse:rr": "rr" is not an absolute path`},
		{func(in *Input) { in.Spec.Hostname = "a b" }, `invalid hostname "a b": only letters, digits, '-', '.' and '_' are allowed`},
		{func(in *Input) { in.Spec.Hostname = strings.Repeat("a", 65) }, `invalid hostname "` + strings.Repeat("a", 65) + `": longer than 64 bytes`},
		{func(in *Input) { in.Spec.PIDMode = "none" }, `invalid --pid mode "none"`},
		{func(in *Input) { in.Spec.IPCMode = "shared" }, `invalid --ipc mode "shared"`},
		{func(in *Input) { in.Spec.Network.Mode = "my-net" }, `invalid --network mode "my-net"`},
		{func(in *Input) { in.Spec.Network.Mode = "container:x" }, "--network container:x: that container is not running"},
		{func(in *Input) {
			in.Spec.Network.Mode, in.Join.Network, in.Spec.Hostname = "container:x", "/proc/1/ns/net", "y"
		}, "--hostname cannot be used with --network container:x: the name is that container's"},
		{func(in *Input) {
			in.Spec.Network.Mode, in.Join.Network, in.Spec.Network.Publish = "container:x", "/proc/1/ns/net", make([]api.PortMapping, 1)
		}, "-p cannot be used with --network container:x: publish the ports of that container"},
		{sysctl("kernel.panic"), "sysctl kernel.panic is not allowed: it belongs to no namespace and would be set for the host"},
		{sysctl("net/core/x"), `invalid sysctl "net/core/x"`},
		{func(in *Input) { in.Spec.Network.Mode = "host"; sysctl("net.core.somaxconn")(in) }, "sysctl net.core.somaxconn is not allowed with --network host: it would be set for the host"},
		{func(in *Input) { in.Spec.IPCMode = "host"; sysctl("kernel.sem")(in) }, "sysctl kernel.sem is not allowed with --ipc host: it would be set for the host"},
		{userns("private"), `invalid --userns "private": want host, auto or UID:GID:SIZE`},
		{userns("1:2:x"), `invalid --userns "1:2:x": "x" is not an ID`},
		{userns("1:2:0"), `invalid --userns "1:2:0": the size is 0`},
		{userns("0:1:5"), `invalid --userns "0:1:5": the container's root would be the host's`},
		{userns("4294967290:1:6"), `invalid --userns "4294967290:1:6": it ends beyond the largest ID`},
		{userns("auto"), "--userns auto: no range of IDs is free"},
		{func(in *Input) { userns("1:1:9")(in); in.Spec.Privileged = true }, "--privileged cannot be used with --userns 1:1:9: it gives the host's root"},
		{func(in *Input) { userns("1:1:9")(in); in.Spec.Network.Mode = "host" }, "--userns 1:1:9 needs a network namespace of the container's own"},
		{func(in *Input) { userns("1:1:9")(in); in.User.AdditionalGids = []uint32{9} }, "user or group 9 is outside of the 9 IDs of --userns 1:1:9"},
	} {
		in := input()
		tc.change(&in)
		_, _, err := Build(in)
		if err == nil || err.Error() != tc.err {
			t.Errorf("got  %v\nwant %s", err, tc.err)
		} else if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: not an invalid argument", err)
		}
	}
	in := input()
	in.Spec.Devices = []string{"/dev/broken"}
	if _, _, err := Build(in); !errors.Is(err, unix.EIO) || errdefs.IsInvalidArgument(err) {
		t.Errorf("a device that cannot be looked at: %v", err)
	}
}

// TestBuildSeccomp checks that the profile depends on the capabilities.
func TestBuildSeccomp(t *testing.T) {
	allows := func(in Input, call string) bool {
		t.Helper()
		spec, _, err := Build(in)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(spec.Linux.Seccomp.Syscalls, func(s specs.LinuxSyscall) bool {
			return s.Action == specs.ActAllow && slices.Contains(s.Names, call)
		})
	}
	in := input()
	if allows(in, "mount") {
		t.Error("mount is allowed without CAP_SYS_ADMIN")
	}
	in.Spec.CapAdd = []string{"SYS_ADMIN"}
	if !allows(in, "mount") {
		t.Error("mount is not allowed with CAP_SYS_ADMIN")
	}
	in.Spec.SecurityOpt = []string{`seccomp={"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["bpf"],"action":"SCMP_ACT_ALLOW"}]}`}
	if !allows(in, "bpf") || allows(in, "read") {
		t.Error("the profile given is not the one used")
	}
	in.Spec.Privileged = true
	if !allows(in, "bpf") || allows(in, "read") {
		t.Error("the profile given is not the one used, privileged")
	}
}

// TestBuildLeavesInputAlone: the input is the daemon's record of the container.
func TestBuildLeavesInputAlone(t *testing.T) {
	in := input()
	in.Spec.Env, in.Spec.Command = []string{"A=1", "IMAGE"}, []string{"x"}
	in.Spec.Mounts = []api.Mount{{Type: "tmpfs", Target: "/a/b", Options: []string{"exec", "size=1m"}}, {Type: "tmpfs", Target: "/a"}}
	in.Spec.Resources.Memory = 64 << 20
	before, _ := json.Marshal(in.Spec)
	image, _ := json.Marshal(in.Image)
	for range 2 {
		if _, _, err := Build(in); err != nil {
			t.Fatal(err)
		}
	}
	after, _ := json.Marshal(in.Spec)
	imageAfter, _ := json.Marshal(in.Image)
	if !bytes.Equal(before, after) || !bytes.Equal(image, imageAfter) {
		t.Error("Build changed its input")
	}
}
