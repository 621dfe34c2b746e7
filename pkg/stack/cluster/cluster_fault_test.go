package cluster

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// addressesMove: what a reboot does to nodes: they are killed, and start in
// another order, with each other's addresses. `up` brings the same cluster back,
// with its data.
func (s *suite) addressesMove(t *testing.T, opts api.UpOptions, nodes []string) {
	c := dockertest.Client(t)
	s.mustKubectl("", "exec", "deploy/web", "--", "sh", "-c", "echo kept >/data/kept")
	addresses := func() (out []string) {
		for _, id := range nodes {
			n, err := c.ContainerInspect(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, n.NetworkSettings.Networks[docker.NetworkName].IPAddress)
		}
		return out
	}
	was := addresses()
	for _, id := range nodes {
		if err := c.ContainerKill(t.Context(), id, "KILL"); err != nil {
			t.Fatal(err)
		}
	}
	s.status(t, stack.StateDown, "exited")
	// Others have their addresses, and the worker is first.
	img, err := s.Images.Ensure(t.Context(), "toolbox", stack.Progress{})
	if err == nil {
		err = s.Docker.Pull(t.Context(), img, stack.Progress{})
	}
	if err != nil {
		t.Fatal(err)
	}
	for range nodes {
		other, err := c.ContainerCreate(t.Context(), &container.Config{Image: img.Ref, Cmd: []string{"sleep", "1000"}},
			&container.HostConfig{NetworkMode: docker.NetworkName}, nil, nil, "")
		if err == nil {
			err = c.ContainerStart(t.Context(), other.ID, container.StartOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := c.ContainerRemove(context.Background(), other.ID, container.RemoveOptions{Force: true}); err != nil {
				t.Error(err)
			}
		}()
	}
	for _, id := range slices.Backward(nodes[1:]) {
		if err := c.ContainerStart(t.Context(), id, container.StartOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	s.must(opts, 3*time.Minute)
	t.Logf("up took %v; addresses were %v, are %v", time.Since(begun), was, addresses())
	if is := addresses(); is[0] == was[0] || is[1] == was[1] {
		t.Errorf("the test has not moved the addresses: %v, %v", was, is)
	}
	if again := s.ids(); !slices.Equal(again, nodes) {
		t.Errorf("nodes %v, were %v", again, nodes)
	}
	s.mustKubectl("", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s")
	s.works(t)
	if out := s.mustKubectl("", "exec", "deploy/web", "--", "cat", "/data/kept"); out != "kept" {
		t.Errorf("the volume has %q", out)
	}
}

// TestKilled: killed at some moment of its work, `up` leaves something that the
// next one makes whole; so does one that is aborted, which leaves nothing.
func TestKilled(t *testing.T) {
	s := newSuite(t)
	s.needImages()
	for _, when := range []string{"preparing nodes", "starting control-plane"} {
		t.Run(when, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), childVar+"="+dockertest.Host(t), "SANDBOX_TEST_STATE="+t.TempDir())
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			killWhen(t, out, when, cmd)
			if len(s.ids()) == 0 && when != "preparing nodes" {
				t.Error("it has left no node: the test is too late, or too early")
			}
		})
	}
	t.Run("aborted", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("ctrl-c")
		old := s.ids()
		go func() {
			for ctx.Err() == nil {
				if have, err := s.find(ctx); err == nil && len(have.nodes) == 1 && !slices.Contains(old, have.nodes[0].ID) {
					if _, err := s.readFile(ctx, have.nodes[0], "/kind/kubeadm.conf"); err == nil {
						cancel(reason)
					}
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
		begun := time.Now()
		s.status(t, stack.StateDegraded, "half-made")
		tasks, err := s.up(ctx, api.UpOptions{})
		if !errors.Is(err, reason) {
			t.Errorf("up: %v", err)
		}
		if note := tasks["cluster nodes that are there"].Note; note != "half-made" {
			t.Errorf("note %q", note)
		}
		t.Logf("took %v", time.Since(begun))
		if left := s.left(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	t.Run("up", func(t *testing.T) {
		s.must(api.UpOptions{}, 5*time.Minute)
		if n := len(s.ids()); n != 1 {
			t.Errorf("%d nodes", n)
		}
	})
}

// TestTemplate: the container of a template that a killed daemon had asked for
// may show only after it was looked for; it is not in the way.
func TestTemplate(t *testing.T) {
	s := newSuite(t)
	graph, err := stack.New(docker.NewStage(s.Docker))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := graph.Up(api.UpOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.run(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	u := &up{Stage: s.Stage, spec: spec{Nodes: 1}}
	if u.node, err = s.Images.Ensure(t.Context(), "toolbox", stack.Progress{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Docker.Pull(t.Context(), u.node, stack.Progress{}); err != nil {
		t.Fatal(err)
	}
	c := dockertest.Client(t)
	if _, err := c.ContainerCreate(t.Context(), &container.Config{Image: u.node.Ref, Labels: s.Docker.Labels(Name)}, nil, nil, nil, templateName); err != nil {
		t.Fatal(err)
	}
	name, err := u.template(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if img, err := c.ImageInspect(t.Context(), name); err != nil || img.Config.Labels[docker.LabelStage] != Name {
		t.Errorf("template %s: %v, %v", name, img.Config, err)
	}
}

// killWhen reads what a child says until it says when, and kills it then.
func killWhen(t *testing.T, out io.Reader, when string, cmd *exec.Cmd) {
	t.Helper()
	var said strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := out.Read(buf)
		said.Write(buf[:n])
		if strings.Contains(strings.ToLower(said.String()), when) {
			time.Sleep(time.Second)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return
		}
		if err != nil {
			_ = cmd.Wait()
			t.Fatalf("the child has ended:\n%s", said.String())
		}
	}
}

// TestForeign: a cluster of the same name that is not ours is reported and left
// alone, by `down`, too.
func TestForeign(t *testing.T) {
	s := newSuite(t)
	if _, err := s.Images.Ensure(t.Context(), "toolbox", stack.Progress{}); err != nil {
		t.Skip(err)
	}
	c := dockertest.Client(t)
	img, err := s.Images.Ensure(t.Context(), "toolbox", stack.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Docker.Pull(t.Context(), img, stack.Progress{}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		labels map[string]string
		hint   string
	}{
		{map[string]string{labelKind: clusterName, labelRole: roleControlPlane}, "kind delete cluster --name sandbox"},
		{map[string]string{labelKind: clusterName, labelRole: roleControlPlane, docker.LabelStage: Name, docker.LabelState: "/other"}, "sandbox --state-dir /other down"},
		{nil, "docker rename sandbox-control-plane OTHER"},
	} {
		made, err := c.ContainerCreate(t.Context(), &container.Config{Image: img.Ref, Cmd: []string{"sleep", "60"}, Labels: tt.labels}, nil, nil, nil, "sandbox-control-plane")
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.up(t.Context(), api.UpOptions{})
		hint, ok := errors.AsType[interface {
			error
			Hint() string
		}](err)
		if !errdefs.IsAlreadyExists(err) || !ok || !strings.Contains(hint.Hint(), tt.hint) || !strings.Contains(err.Error(), "sandbox-control-plane") {
			t.Errorf("up: %v", err)
		}
		if err := s.down(t.Context()); err != nil {
			t.Errorf("down: %v", err)
		}
		if _, err := c.ContainerInspect(t.Context(), made.ID); err != nil {
			t.Errorf("the foreign node: %v", err)
		}
		if err := c.ContainerRemove(t.Context(), made.ID, container.RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPortTaken(t *testing.T) {
	s := newSuite(t)
	l, err := net.Listen("tcp", "127.0.0.1:8443")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = s.up(t.Context(), api.UpOptions{})
	hint, ok := errors.AsType[interface {
		error
		Hint() string
	}](err)
	if !errdefs.IsFailedPrecondition(err) || !ok || !strings.Contains(err.Error(), "taken by somebody (pid 7)") || !strings.Contains(hint.Hint(), "--port ingress-tls=9443") {
		t.Errorf("up: %v", err)
	}
	if left := s.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := s.kubectl("", "get", "nodes"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("kubectl without a cluster: %v", err)
	}
}
