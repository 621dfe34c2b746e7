package stack_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// TestNodes: a cluster of three nodes stays one, whatever a later `up` says or
// does not say of it.
func TestNodes(t *testing.T) {
	s := newSandbox(t)
	before := inventory(t)
	_, took := s.change("up", "--only", "cluster", "--nodes", "3")
	t.Logf("measured: up of a cluster of three nodes, with local images: %.0f s", took.Seconds())
	for _, name := range []string{"sandbox-control-plane", "sandbox-worker", "sandbox-worker2"} {
		if out := s.nodes(); strings.Count(out, "\n") != 3 || !strings.Contains(out, name+" ") || strings.Count(out, " Ready ") != 3 {
			t.Fatalf("nodes:\n%s", out)
		}
	}
	for _, number := range []string{"2", "4"} {
		s.refused(4, []string{"the cluster has 3 nodes, not " + number, "sudo sandbox down takes it away"}, "up", "--only", "cluster", "--nodes", number)
	}
	c, took := s.change("up", "--only", "cluster")
	t.Logf("measured: up again: %.1f s", took.Seconds())
	if note := noteOf(c, "nodes"); note != "3, already there" {
		t.Errorf("nodes: %s", note)
	}
	s.purge(before)
}

func noteOf(c api.Change, name string) string {
	for _, task := range c.Tasks {
		if task.Stage == "cluster" && task.Name == name {
			return task.Note
		}
	}
	return ""
}

// nodes asks kubectl, in a node.
func (s *sandbox) nodes() string {
	s.t.Helper()
	out, err := exec.Command("docker", "--host", dockertest.Host(s.t), "exec", "sandbox-control-plane",
		"kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "get", "nodes", "--no-headers").CombinedOutput()
	if err != nil {
		s.t.Fatalf("kubectl get nodes: %v: %s", err, out)
	}
	return string(out)
}
