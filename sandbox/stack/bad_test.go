package stack_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// TestBadInput: what cannot be had is refused with what is amiss, why, and what
// to do; and nothing half-made stays.
func TestBadInput(t *testing.T) {
	s := newSandbox(t)
	before := inventory(t)
	c := dockertest.Client(t)
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"--nodes", "0"}, "a cluster has one node at least"},
		{[]string{"--nodes", "99"}, "it may have 1 to 10"},
		{[]string{"--nodes", "many"}, "many"},
		{[]string{"--only", "moon"}, `unknown stage "moon": the stages are internals, docker`},
		{[]string{"--only", "cluster", "--without", "docker"}, "stage cluster is asked for, but docker is to be left out"},
		{[]string{"--port", "9091"}, "want NAME=PORT"},
		{[]string{"--port", "prometheus=0"}, "want NAME=PORT"},
		{[]string{"--port", "prometheus=65536"}, "want NAME=PORT"},
		{[]string{"--port", "moon=9091"}, "the services are alertmanager, grafana"},
		{[]string{"--port", "prometheus=9093"}, "alertmanager and prometheus cannot both have port 9093"},
	} {
		s.refused(2, []string{tt.says}, append([]string{"up"}, tt.args...)...)
	}
	if after := inventory(t); after != before {
		t.Errorf("made:\n%s", after)
	}

	t.Run("port", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:9090")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s.refused(4, []string{"port 127.0.0.1:9090, which prometheus is to have, is taken by exe (pid 1)", "--port prometheus=10090"}, "up", "--only", "monitoring")
		if after := inventory(t); strings.Contains(after, "container sandbox-") {
			t.Errorf("made:\n%s", after)
		}
		s.change("up", "--only", "monitoring", "--port", "prometheus=10090")
		if status := s.begin("status"); status.code() != 0 || !strings.Contains(status.out.String(), "http://127.0.0.1:10090") {
			t.Errorf("status: %s", status.out.String())
		}
	})
	t.Run("another's cluster", func(t *testing.T) {
		have, err := c.ContainerInspect(t.Context(), "sandbox-prometheus")
		if err != nil {
			t.Fatal(err)
		}
		made, err := c.ContainerCreate(t.Context(), &container.Config{
			Image:  have.Image,
			Labels: map[string]string{"io.x-k8s.kind.cluster": "sandbox", "io.x-k8s.kind.role": "control-plane"},
		}, nil, nil, nil, "sandbox-control-plane")
		if err != nil {
			t.Fatal(err)
		}
		s.refused(4, []string{"there is a kind cluster named sandbox that sandbox did not make (sandbox-control-plane)", "kind delete cluster --name sandbox", "--without cluster"}, "up", "--only", "cluster")
		s.change("down")
		if err := c.ContainerRemove(t.Context(), made.ID, container.RemoveOptions{RemoveVolumes: true}); err != nil {
			t.Errorf("the other's node: %v", err)
		}
	})
	t.Run("another's network", func(t *testing.T) {
		made, err := c.NetworkCreate(t.Context(), "sandbox", network.CreateOptions{Driver: "bridge"})
		if err != nil {
			t.Fatal(err)
		}
		s.refused(4, []string{"network sandbox is in the way", "docker network rm sandbox"}, "up", "--only", "docker")
		s.change("down")
		if err := c.NetworkRemove(t.Context(), made.ID); err != nil {
			t.Errorf("the other's network: %v", err)
		}
	})
	t.Run("image", func(t *testing.T) {
		if rm := s.begin("image", "rm", "localstack"); rm.code() != 0 {
			t.Fatal(rm.errs.String())
		}
		s.refused(4, []string{`image "localstack" not found (tried: local store; registry docker.io is not in reach`, "its recipe cannot be built", "sandbox image import FILE"}, "up", "--only", "aws")
		if after := inventory(t); strings.Contains(after, "container sandbox-localstack") {
			t.Errorf("made:\n%s", after)
		}
	})
	s.change("down")
	t.Run("endpoint", func(t *testing.T) {
		// The first one's daemon has the port.
		other := bareSandbox(t, t.TempDir(), dockertest.Host(t))
		other.refused(4, []string{"there is no registry: port 127.0.0.1:5055 is taken by sandbox (pid ", "SANDBOX_REGISTRY"}, "up", "--only", "docker")
		other.gone()
	})
	s.purge(before)

	t.Run("no Docker", func(t *testing.T) {
		other := bareSandbox(t, t.TempDir(), "unix://"+t.TempDir()+"/docker.sock")
		other.refused(4, []string{"no Docker engine runs: there is no /", "sudo sandbox doctor --fix", "--without docker"}, "up")
		other.gone()
	})
	t.Run("dead Docker", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "docker.sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
		other := bareSandbox(t, t.TempDir(), "unix://"+socket)
		other.refused(4, []string{"does not answer", "systemctl restart docker"}, "up")
		other.gone()
	})
	t.Run("full disk", func(t *testing.T) {
		other := bareSandbox(t, t.TempDir(), dockertest.Host(t))
		small(t, other.root)
		other.refused(4, []string{"disk", "MiB free on " + other.root, "--state-dir"}, "up")
		if left, err := os.ReadDir(other.root); err != nil || len(left) > 0 {
			t.Errorf("made: %v, %v", left, err)
		}
	})
	t.Run("Docker's full disk", func(t *testing.T) {
		data := t.TempDir()
		small(t, data)
		other := bareSandbox(t, t.TempDir(), dockertest.Another(t, "--data-root", data))
		other.refused(4, []string{"the folder of Docker, " + data + ", has only 0.1 GB left, and 5 are needed", "docker system prune"}, "up", "--only", "docker")
		other.gone()
	})
	t.Run("Docker's cgroup driver", func(t *testing.T) {
		other := bareSandbox(t, t.TempDir(), dockertest.Another(t, "--exec-opt", "native.cgroupdriver=systemd", "--cgroup-parent", "sandbox.slice"))
		other.refused(4, []string{"cgroup driver systemd", "native.cgroupdriver=cgroupfs"}, "up", "--only", "docker")
		other.gone()
	})
}

// small mounts a file system of 100 MB.
func small(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=100m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// gone takes away what a refused `up` has begun, with its daemon.
func (s *sandbox) gone() {
	s.t.Helper()
	down := s.begin("down", "--purge")
	if code := down.code(); code != 0 || !strings.Contains(down.errs.String(), "nothing is left") {
		s.t.Errorf("down --purge: exit code %d\n%s", code, down.errs.String())
	}
	if _, err := os.Stat(s.root); err == nil {
		s.t.Errorf("%s is still there", s.root)
	}
}
