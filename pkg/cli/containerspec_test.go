package cli

import (
	"reflect"
	"strings"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// build is what `sandbox run` does with its arguments before it calls anyone.
func build(args ...string) (request, error) {
	typed, rest, err := split(containerFlags(true), args, false)
	if err != nil {
		return request{}, err
	}
	return buildRequest(typed, rest, nowhere)
}

func TestBuildRequest(t *testing.T) {
	r, err := build("-dit", "--rm", "--name", "web", "-m", "64m", "--memory-swap=128m", "--cpus", "0.5", "--pids-limit=20",
		"-p", "8080:80", "-p", "53:53/udp", "-v", "/a:/b:ro", "--tmpfs", "/tmp:size=1m", "-e", "A=1", "--env-file", "app.env", "-e", "HOME",
		"-l", "x=1", "--label", "y", "-h", "host1", "--cap-drop", "ALL", "--cap-add", "net_raw", "--security-opt", "no-new-privileges",
		"-u", "1000:1000", "-w", "/srv", "--entrypoint", "", "--read-only", "--init", "--ulimit", "nofile=10:20", "--stop-timeout", "3",
		"--oom-score-adj=-5", "--sysctl", "net.core.somaxconn=1", "--network", "default", "--memory", "32m",
		"toolbox", "sh", "-c", "--rm")
	if err != nil {
		t.Fatal(err)
	}
	three, minus5 := 3, -5
	want := request{
		engine: "raw", detach: true, interactive: true, sigProxy: true,
		spec: api.ContainerSpec{
			Name: "web", Image: "toolbox", Command: []string{"sh", "-c", "--rm"}, Entrypoint: []string{""},
			Env:     []string{"A=1", "B=two words", "HOME=/home/u", `Q="quoted"`, "E=", "A=1", "HOME=/home/u"},
			WorkDir: "/srv", User: "1000:1000", Hostname: "host1", Labels: map[string]string{"x": "1", "y": ""},
			TTY: true, OpenStdin: true, Init: true, AutoRemove: true, ReadOnly: true, StopTimeout: &three, OOMScoreAdj: &minus5,
			Mounts:  []api.Mount{{Type: "bind", Source: "/a", Target: "/b", Options: []string{"rbind", "ro"}, CreateSource: true}, {Type: "tmpfs", Source: "tmpfs", Target: "/tmp", Options: []string{"size=1m"}}},
			CapDrop: []string{"ALL"}, CapAdd: []string{"CAP_NET_RAW"}, SecurityOpt: []string{"no-new-privileges=true"},
			Ulimits: []api.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}}, Sysctls: map[string]string{"net.core.somaxconn": "1"},
			Resources: api.Resources{Memory: 32 << 20, MemorySwap: 128 << 20, NanoCPUs: 5e8, PidsLimit: 20},
			Network: api.Network{Mode: "bridge", Publish: []api.PortMapping{
				{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}, {HostPort: 53, ContainerPort: 53, Protocol: "udp"},
			}},
		},
	}
	flags := r.spec.Flags
	r.spec.Flags = nil
	if !reflect.DeepEqual(r, want) {
		t.Errorf("request is\n%+v, want\n%+v", r, want)
	}
	for field, want := range map[string]string{
		"linux.resources.memory.limit": "--memory 32m", // the last one counts
		"linux.resources.memory.swap":  "--memory-swap=128m",
		"linux.resources.pids.limit":   "--pids-limit=20",
		"process.capabilities":         "--cap-drop ALL --cap-add net_raw",
		"process.noNewPrivileges":      "--security-opt no-new-privileges",
		"network.publish":              "-p 8080:80 -p 53:53/udp",
		"mounts":                       "-v /a:/b:ro --tmpfs /tmp:size=1m",
		"hostname":                     "-h host1",
		"root.readonly":                "--read-only",
	} {
		if flags[field] != want {
			t.Errorf("the flag behind %s is %q, want %q", field, flags[field], want)
		}
	}
}

func TestBadRequests(t *testing.T) {
	for _, c := range []struct{ args, message string }{
		{"", "an image is missing"},
		{"--rm", "an image is missing"},
		{"-m 64x img", `invalid value "64x" for --memory: not a size (a number, and b, k, m or g); for example: --memory 64m`},
		{"--memory-swap 64m img", "needs --memory"},
		{"-m 64m --memory-swap 32m img", "cannot be less than --memory"},
		{"-m 64m --memory-reservation 65m img", "cannot be more than --memory"},
		{"-c 512 --cpu-weight 100 img", "give one of them"},
		{"--network none -p 80:80 img", "--publish needs a network"},
		{"--network host -p 80:80 img", "--publish needs a network"},
		{"--network container:x -h y img", "--hostname cannot be given"},
		{"-v /a:/b --tmpfs /b img", "two mounts have the target /b"},
		{"--privileged --userns auto img", "exclude each other"},
		{"--engine docker img", "not in this version"},
		{"--engine containerd img", "not in this version"},
		{"--engine podman img", "no such engine"},
		{"-w tmp img", "not an absolute path"},
		{"--detach-keys ctrl-1 img", "not a key"},
		{"--sysctl net.core.somaxconn img", "not NAME=VALUE"},
		{"--stop-signal SIGFOO img", "no such signal"},
		{"-l =x img", "the label has no name"},
		{"--shm-size 0 img", "the size is zero"},
	} {
		_, err := build(strings.Fields(c.args)...)
		if err == nil || !strings.Contains(err.Error(), c.message) {
			t.Errorf("run %s: error %v, want %q", c.args, err, c.message)
			continue
		}
		if code, _ := classify(err); code != exitUsage {
			t.Errorf("run %s: exit code %d", c.args, code)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("run %s: the error has several lines: %v", c.args, err)
		}
	}
}

// TestFlagTable keeps the table of flags usable: an example that is wrong would
// be shown to someone who already has a problem.
func TestFlagTable(t *testing.T) {
	seen := map[string]string{}
	for _, f := range specFlags() {
		for _, name := range append([]string{f.name, f.short}, f.aliases...) {
			if name != "" && seen[name] != "" {
				t.Errorf("--%s and --%s are both called %s", f.name, seen[name], name)
			}
			seen[name] = f.name
		}
		if f.usage == "" || f.category == "" {
			t.Errorf("--%s has no usage or category", f.name)
		}
		if f.placeholder == "" {
			continue
		}
		if f.example == "" {
			t.Errorf("--%s has no example", f.name)
			continue
		}
		o := nowhere
		o.readFile = func(string) ([]byte, error) { return []byte("A=1"), nil }
		r := request{}
		if err := f.apply(&r, f.example, o); err != nil {
			t.Errorf("the example --%s %s is wrong: %v", f.name, f.example, err)
		}
	}
}
