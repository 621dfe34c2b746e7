package stack_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// TestStack is the life of a stack: up, tried, up again, struck by a loss of
// power, up, tried, and taken away until nothing is left.
func TestStack(t *testing.T) {
	s := newSandbox(t)
	before := inventory(t)
	up := s.begin("up", "--json")
	s.together(up)
	s.changed(up)
	t.Logf("measured: up, with local images: %.0f s", up.took.Seconds())
	_, took := s.change("up")
	t.Logf("measured: up again, where all is there: %.1f s", took.Seconds())
	s.verify("verify")
	s.quiet()

	s.kill()
	dockertest.Reboot(t)
	s.start()
	_, took = s.change("up")
	t.Logf("measured: up after a reboot: %.0f s", took.Seconds())
	s.verify("verify, after a reboot")

	s.purge(before)
}

// verify tries the promises: each holds, or says what this machine lacks.
func (s *sandbox) verify(what string) {
	s.t.Helper()
	c, took := s.change("verify")
	held, skipped := 0, 0
	for _, task := range c.Tasks {
		switch {
		case task.Status == api.Done:
			held++
		case task.Status == api.Skipped && strings.HasPrefix(task.Note, "not possible here: "):
			skipped++
		default:
			s.t.Errorf("%s: %s %s", task.Name, task.Status, task.Note)
		}
	}
	if held < 5 {
		s.t.Errorf("only %d promises were tried", held)
	}
	s.t.Logf("measured: %s: %.0f s, %d promises hold, %d cannot be tried here", what, took.Seconds(), held, skipped)
}

// purge takes the stack away, until what there is is what there was before.
func (s *sandbox) purge(before string) {
	s.t.Helper()
	_, took := s.change("down", "--purge")
	<-s.ended
	s.daemon = nil
	s.t.Logf("measured: down --purge: %.0f s", took.Seconds())
	if after := inventory(s.t); after != before {
		s.t.Errorf("left behind:\n%s\nwas there before:\n%s", after, before)
	}
	if _, err := os.Stat(s.root); err == nil {
		s.t.Errorf("%s is still there", s.root)
	}
	if b, err := os.ReadFile(s.kubeconfig()); err == nil && strings.Contains(string(b), "sandbox") {
		s.t.Errorf("in the user's kubeconfig:\n%s", b)
	}
}

// inventory lists what is in Docker.
func inventory(t *testing.T) string {
	t.Helper()
	c := dockertest.Client(t)
	var out []string
	containers, err := c.ContainerList(t.Context(), container.ListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, have := range containers {
		out = append(out, "container "+strings.Join(have.Names, " "))
	}
	networks, err := c.NetworkList(t.Context(), network.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, have := range networks {
		out = append(out, "network "+have.Name)
	}
	volumes, err := c.VolumeList(t.Context(), volume.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, have := range volumes.Volumes {
		out = append(out, "volume "+have.Name)
	}
	images, err := c.ImageList(t.Context(), image.ListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, have := range images {
		out = append(out, "image "+have.ID+" "+strings.Join(have.RepoTags, " "))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
