package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"
	"go.uber.org/zap/zaptest"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/embedded"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster/kubeconfig"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

const (
	// childVar makes this program bring up a cluster, to be killed while it does;
	// it is the address of the engine.
	childVar = "SANDBOX_TEST_CHILD"
)

func TestMain(m *testing.M) {
	if host := os.Getenv(childVar); host != "" {
		os.Exit(child(host))
	}
	os.Exit(dockertest.MainWithNodes(m))
}

// newEngine returns an engine with the kept images, and what is to be closed.
func newEngine(ctx context.Context, host string) (*docker.Engine, func(), error) {
	root, err := dockertest.Kept()
	if err != nil {
		return nil, nil, err
	}
	store, err := image.Open(state.Dirs{Root: root})
	if err != nil {
		return nil, nil, err
	}
	endpoint := &registry.Server{Store: store, Addr: "127.0.0.1:0"}
	endpoint.Start(ctx)
	e := docker.New(docker.Config{
		Host: host, State: "/test", Images: dockertest.Images{Store: store, Endpoint: endpoint}, Registry: endpoint.Address,
		Serve:     func(_ context.Context, gateway netip.Addr) error { return endpoint.ServeAt(gateway) },
		PortOwner: func(netip.AddrPort) string { return "somebody (pid 7)" },
	})
	return e, func() { _ = e.Close(); store.Close() }, nil
}

// suite is the stage with what it needs, on the tests' engine.
type suite struct {
	*Stage
	t     testing.TB
	graph *stack.Graph
	user  kubeconfig.User
}

func newSuite(t testing.TB) *suite {
	t.Helper()
	if testing.Short() {
		t.Skip("makes clusters, which takes long")
	}
	e, done, err := newEngine(t.Context(), dockertest.Host(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	store := e.Images.(dockertest.Images).Store
	toolbox, err := embedded.Open(embedded.Toolbox)
	if err != nil {
		t.Skip(err)
	}
	defer toolbox.Close()
	if _, err := store.EnsureBuiltin(t.Context(), toolbox); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	for d := home; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(home, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	s := &suite{t: t, user: kubeconfig.HomeOf(12345, 12345, home)}
	s.Stage = New(Config{
		Dirs: state.Dirs{Root: t.TempDir(), Run: t.TempDir()}, Docker: e, Images: e.Images,
		User: func(api.UpOptions) (kubeconfig.User, bool) { return s.user, true },
		Log:  zaptest.NewLogger(t),
	})
	if s.graph, err = stack.New(docker.NewStage(e), s.Stage); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.down(context.Background()); err != nil {
			t.Errorf("down: %v", err)
		}
		for _, left := range s.left() {
			t.Errorf("left behind: %s", left)
		}
	})
	return s
}

// needImages skips a test that makes clusters where there is nothing to make
// them of.
func (s *suite) needImages() {
	s.t.Helper()
	for _, name := range append([]string{nodeImage}, addonImages...) {
		if _, err := s.Images.(dockertest.Images).Store.Resolve(name); errdefs.IsNotFound(err) {
			s.t.Skipf("no image %s: go test ./images -run TestRecipes builds it", name)
		}
	}
}

// up brings the stage up, and returns its tasks by name.
func (s *suite) up(ctx context.Context, opts api.UpOptions) (map[string]api.Task, error) {
	s.t.Helper()
	plan, err := s.graph.Up(opts)
	if err != nil {
		return nil, err
	}
	return s.run(ctx, plan)
}

func (s *suite) down(ctx context.Context) error {
	plan, err := s.graph.Down(api.DownOptions{})
	if err != nil {
		return err
	}
	_, err = s.run(ctx, plan)
	return err
}

func (s *suite) run(ctx context.Context, plan *stack.Plan) (map[string]api.Task, error) {
	var mu sync.Mutex
	tasks := map[string]api.Task{}
	begun := time.Now()
	err := plan.Run(ctx, func(task api.Task) {
		mu.Lock()
		defer mu.Unlock()
		last := tasks[task.Stage+" "+task.Name]
		tasks[task.Stage+" "+task.Name] = task
		if task.Note != last.Note || task.Status != last.Status {
			s.t.Logf("%6.2f s  %s %s: %s %s %s", time.Since(begun).Seconds(), task.Stage, task.Name, task.Status, task.Note, task.Error)
		}
	})
	return tasks, err
}

// must is up without an error; that it took more than it does as a rule, it
// tells.
func (s *suite) must(opts api.UpOptions, most time.Duration) map[string]api.Task {
	s.t.Helper()
	begun := time.Now()
	tasks, err := s.up(s.t.Context(), opts)
	if err != nil {
		s.t.Fatalf("up: %v", err)
	}
	if took := time.Since(begun); took > most {
		s.t.Logf("up took %v, more than %v", took, most)
	}
	return tasks
}

// left lists what there is in Docker.
func (s *suite) left() (left []string) {
	ctx := context.Background()
	c := dockertest.Client(s.t)
	containers, err := c.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		s.t.Error(err)
	}
	for _, have := range containers {
		left = append(left, "container "+strings.Join(have.Names, " "))
	}
	volumes, err := c.VolumeList(ctx, volume.ListOptions{})
	if err != nil {
		s.t.Error(err)
	}
	for _, have := range volumes.Volumes {
		left = append(left, "volume "+have.Name)
	}
	all, err := c.ImageList(ctx, dockerimage.ListOptions{})
	if err != nil {
		s.t.Error(err)
	}
	for _, have := range all {
		for _, tag := range have.RepoTags {
			if strings.HasPrefix(tag, templateName) {
				left = append(left, "image "+tag)
			}
		}
	}
	return left
}

// kubectl runs it in the cluster, with manifests for stdin.
func (s *suite) kubectl(stdin string, args ...string) (string, error) {
	s.t.Helper()
	out, err := s.Kubectl(s.t.Context(), strings.NewReader(stdin), args...)
	return strings.TrimSpace(string(out)), err
}

// mustKubectl is kubectl without an error.
func (s *suite) mustKubectl(stdin string, args ...string) string {
	s.t.Helper()
	out, err := s.kubectl(stdin, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// eventually tries until it succeeds.
func eventually(t *testing.T, within time.Duration, try func() error) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(200 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %v", within, err)
		}
	}
}

// child brings up a cluster and does not live to see it.
func child(host string) int {
	ctx := context.Background()
	e, done, err := newEngine(ctx, host)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer done()
	s := New(Config{Dirs: state.Dirs{Root: os.Getenv("SANDBOX_TEST_STATE"), Run: os.Getenv("SANDBOX_TEST_STATE")}, Docker: e, Images: e.Images})
	graph, err := stack.New(docker.NewStage(e), s)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	plan, err := graph.Up(api.UpOptions{})
	if err == nil {
		err = plan.Run(ctx, func(task api.Task) {
			fmt.Println(task.Stage, task.Name, task.Status, task.Note, task.Error)
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
