package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/volume"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/embedded"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// newEngine returns the tests' Docker engine, with a store that has the image
// toolbox, and nothing of the stack in it when the test ends.
func newEngine(t *testing.T) *Engine {
	t.Helper()
	host := dockertest.Host(t)
	store, err := image.Open(state.Dirs{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	toolbox, err := embedded.Open(embedded.Toolbox)
	if err != nil {
		t.Skip(err)
	}
	defer toolbox.Close()
	if _, err := store.EnsureBuiltin(t.Context(), toolbox); err != nil {
		t.Fatal(err)
	}
	endpoint := &registry.Server{Store: store, Addr: "127.0.0.1:0"}
	endpoint.Start(t.Context())
	e := New(Config{
		Host: host, State: "/test", Images: dockertest.Images{Store: store, Endpoint: endpoint}, Registry: endpoint.Address,
		Serve:     func(_ context.Context, gateway netip.Addr) error { return endpoint.ServeAt(gateway) },
		PortOwner: func(netip.AddrPort) string { return "somebody (pid 7)" },
	})
	t.Cleanup(func() {
		c := dockertest.Client(t)
		if left, err := c.ContainerList(context.Background(), container.ListOptions{All: true, Filters: e.ofStage("")}); err != nil || len(left) > 0 {
			t.Errorf("containers left: %v, %v", left, err)
		}
		if left, err := c.VolumeList(context.Background(), volume.ListOptions{Filters: e.ofStage("")}); err != nil || len(left.Volumes) > 0 {
			t.Errorf("volumes left: %v, %v", left, err)
		}
		_ = e.Close()
	})
	return e
}

// do performs the steps of a plan and returns their last notes.
func do(t *testing.T, steps []stack.Step) (notes map[string]string, err error) {
	t.Helper()
	graph, err := stack.New(fixed{steps})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := graph.Up(api.UpOptions{})
	if err != nil {
		t.Fatal(err)
	}
	notes = map[string]string{}
	err = plan.Run(t.Context(), func(task api.Task) { notes[task.Name] = task.Note })
	return notes, err
}

// fixed is a stage of given steps.
type fixed struct{ steps []stack.Step }

func (fixed) Name() string                                     { return "fixed" }
func (fixed) Needs() []string                                  { return nil }
func (f fixed) Up(api.UpOptions) []stack.Step                  { return f.steps }
func (f fixed) Down(api.DownOptions) []stack.Step              { return f.steps }
func (fixed) Status(context.Context) ([]api.StatusItem, error) { return nil, nil }
func run(e *Engine, s Service) []stack.Step {
	return []stack.Step{{Name: s.Name, Do: func(ctx context.Context, p stack.Progress) error { return e.Run(ctx, s, p) }}}
}

// greeter is a service that answers at a port of the host.
func greeter(port uint16) Service {
	return Service{
		Stage: "test", Name: "greeter", Image: "toolbox",
		// Process 1 has to ask for the signal that ends it.
		Command: []string{"sh", "-c", `trap exit TERM; echo "$GREETING" >/data/index.html && httpd -p 8080 -h /data; while sleep 1 & wait; do :; done`},
		Env:     []string{"GREETING=welcome"},
		Ports:   []Port{{Host: port, Container: 8080}},
		Volumes: []Volume{{Name: "sandbox-greeter", Target: "/data"}},
		Ready: func(ctx context.Context) error {
			// Docker's proxy accepts connections for a port that nobody serves.
			resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d", port))
			if err == nil {
				resp.Body.Close()
			}
			return err
		},
	}
}

func TestService(t *testing.T) {
	e := newEngine(t)
	stage := NewStage(e)
	c := dockertest.Client(t)
	notes, err := do(t, stage.Up(api.UpOptions{}))
	if err != nil || !strings.Contains(notes["engine"], "storage ") || !strings.HasPrefix(notes["network"], "made, gateway ") {
		t.Fatalf("%v, %v", notes, err)
	}
	defer func() {
		if _, err := do(t, stage.Down(api.DownOptions{Purge: true})); err != nil {
			t.Error(err)
		}
		if _, err := e.inspectNetwork(context.Background(), c); !errdefs.IsNotFound(err) {
			t.Errorf("network after down: %v", err)
		}
		if _, err := c.ImageInspect(context.Background(), e.Registry()+"/toolbox:latest"); !errdefs.IsNotFound(err) {
			t.Errorf("image after a purge: %v", err)
		}
	}()
	if notes, err := do(t, stage.Up(api.UpOptions{})); err != nil || !strings.HasPrefix(notes["network"], "already there") {
		t.Errorf("again: %v, %v", notes, err)
	}

	s := greeter(8091)
	id := func() string {
		info, err := c.ContainerInspect(t.Context(), "sandbox-greeter")
		if err != nil {
			t.Fatal(err)
		}
		if !info.State.Running || info.Config.Labels[LabelStage] != "test" || info.HostConfig.RestartPolicy.Name != "unless-stopped" {
			t.Errorf("%+v", info.State)
		}
		return info.ID
	}
	expect := func(what, note string) {
		t.Helper()
		notes, err := do(t, run(e, s))
		if err != nil || notes[s.Name] != note {
			t.Errorf("%s: %q, %v, want %q", what, notes[s.Name], err, note)
		}
	}
	expect("new", "started; image from local store")
	first := id()
	expect("again", "already there")
	if item, err := e.Status(t.Context(), s); err != nil || item.State != stack.StateUp || item.Where != "127.0.0.1:8091" {
		t.Errorf("status: %+v, %v", item, err)
	}
	if err := c.ContainerStop(t.Context(), first, container.StopOptions{Signal: "KILL"}); err != nil {
		t.Fatal(err)
	}
	if item, err := e.Status(t.Context(), s); err != nil || item.State != stack.StateDown || item.Note == "" {
		t.Errorf("status of a stopped one: %+v, %v", item, err)
	}
	expect("stopped", "started again")
	if err := c.ContainerPause(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	expect("paused", "resumed")
	if id() != first {
		t.Error("it was made anew")
	}
	s.Env = []string{"GREETING=hello"}
	expect("changed", "made anew: its settings changed")
	if id() == first {
		t.Error("it was not made anew")
	}
	if err := c.ContainerRemove(t.Context(), "sandbox-greeter", container.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	expect("removed", "started; image from local store")
	if err := e.Remove(t.Context(), "test", false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.VolumeInspect(t.Context(), "sandbox-greeter"); err != nil {
		t.Errorf("its volume: %v", err)
	}
	if err := e.Remove(t.Context(), "test", true); err != nil {
		t.Fatal(err)
	}
}

func TestServiceErrors(t *testing.T) {
	e := newEngine(t)
	stage := NewStage(e)
	c := dockertest.Client(t)
	if _, err := do(t, stage.Up(api.UpOptions{})); err != nil {
		t.Fatal(err)
	}
	defer do(t, stage.Down(api.DownOptions{Purge: true}))
	fails := func(what string, s Service, class func(error) bool, words ...string) {
		t.Helper()
		_, err := do(t, run(e, s))
		var hint interface{ Hint() string }
		text := fmt.Sprint(err)
		if errors.As(err, &hint) {
			text += "; " + hint.Hint()
		}
		if !class(err) {
			t.Error(err)
		}
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in: %s", what, w, text)
			}
		}
	}
	s := greeter(8092)
	taken, err := net.Listen("tcp", "127.0.0.1:8092")
	if err != nil {
		t.Fatal(err)
	}
	fails("port", s, errdefs.IsFailedPrecondition, "port 127.0.0.1:8092", "somebody (pid 7)", "--port greeter=9092")
	taken.Close()

	unknown := s
	unknown.Image = "nothing"
	fails("image", unknown, errdefs.IsNotFound, "nothing")

	broken := s
	broken.Command = []string{"sh", "-c", "echo it is broken >&2; exit 3"}
	fails("ends", broken, errdefs.IsUnavailable, "exit code 3", "it is broken")

	// Another's container of that name stays.
	if err := e.Remove(t.Context(), "test", true); err != nil {
		t.Fatal(err)
	}
	img, err := e.Images.Ensure(t.Context(), "toolbox", stack.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := c.ContainerCreate(t.Context(), &container.Config{Image: img.Ref, Cmd: []string{"true"}}, nil, nil, nil, "sandbox-greeter")
	if err != nil {
		t.Fatal(err)
	}
	fails("foreign", s, errdefs.IsAlreadyExists, "sandbox did not make", "docker rename sandbox-greeter")
	if err := c.ContainerRemove(t.Context(), foreign.ID, container.RemoveOptions{}); err != nil {
		t.Error(err)
	}
	// So does another sandbox's, whatever is removed.
	other := New(Config{Host: e.Host, State: "/other", Images: e.Images})
	if err := other.Run(t.Context(), s, stack.Progress{}); err != nil {
		t.Fatal(err)
	}
	fails("another sandbox's", s, errdefs.IsAlreadyExists, "/other", "sandbox --state-dir /other down")
	if err := e.Remove(t.Context(), "", true); err != nil {
		t.Error(err)
	}
	if item, err := other.Status(t.Context(), s); err != nil || item.State != stack.StateUp {
		t.Errorf("another sandbox's: %+v, %v", item, err)
	}
	if err := other.Remove(t.Context(), "test", true); err != nil {
		t.Error(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	never := s
	never.Ready = func(context.Context) error { return errors.New("not yet") }
	if err := e.Run(ctx, never, stack.Progress{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
	if err := e.Remove(t.Context(), "", true); err != nil {
		t.Error(err)
	}
}

// TestNoEngine: without one the stage says what to do, and down has nothing to
// do.
func TestNoEngine(t *testing.T) {
	dir := t.TempDir()
	e := New(Config{Host: "unix://" + dir + "/docker.sock"})
	stage := NewStage(e)
	_, err := do(t, stage.Up(api.UpOptions{}))
	var hint interface{ Hint() string }
	if !errdefs.IsFailedPrecondition(err) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "doctor --fix") {
		t.Errorf("no socket: %v", err)
	}
	if _, err := do(t, stage.Down(api.DownOptions{Purge: true})); err != nil {
		t.Errorf("down: %v", err)
	}
	items, err := stage.Status(t.Context())
	if err != nil || items[0].State != stack.StateDown {
		t.Errorf("status: %+v, %v", items, err)
	}
	if err := e.Remove(t.Context(), "", true); err != nil {
		t.Errorf("remove: %v", err)
	}
	// A socket at which nobody listens any more.
	l, err := net.Listen("unix", dir+"/docker.sock")
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Stat(dir + "/docker.sock"); err != nil {
		t.Fatal(err)
	}
	_, err = do(t, stage.Up(api.UpOptions{}))
	if !errdefs.IsFailedPrecondition(err) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "systemctl restart docker") {
		t.Errorf("dead socket: %v", err)
	}
}

func TestFollow(t *testing.T) {
	var done, total int64
	report := func(d, t int64) { done, total = d, t }
	const stream = `{"status":"Pulling from toolbox","id":"latest"}
{"status":"Downloading","progressDetail":{"current":10,"total":100},"id":"a"}
{"status":"Downloading","progressDetail":{"current":5,"total":50},"id":"b"}
{"status":"Download complete","progressDetail":{},"id":"a"}
{"status":"Extracting","progressDetail":{"current":1,"total":100},"id":"a"}
{"status":"Digest: sha256:x"}
`
	if err := follow(strings.NewReader(stream), report); err != nil || done != 105 || total != 150 {
		t.Errorf("%d of %d, %v", done, total, err)
	}
	err := follow(strings.NewReader(`{"errorDetail":{"message":"manifest unknown"},"error":"manifest unknown"}`), report)
	if err == nil || err.Error() != "manifest unknown" {
		t.Errorf("an error of the stream: %v", err)
	}
	if err := follow(strings.NewReader(`{"status":`), report); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a stream cut off: %v", err)
	}
}

// TestCreate: everything that a service can ask for, and that the digest tells
// what is another container from what is not.
func TestCreate(t *testing.T) {
	s := Service{
		Stage: "test", Name: "all", Command: []string{"--x"}, Env: []string{"A=b"}, User: "65534",
		Ports: []Port{
			{Host: 9090, Container: 80},
			{HostIP: netip.MustParseAddr("172.18.0.1"), Host: 9091, Container: 80},
		},
		Volumes: []Volume{{"sandbox-all", "/data"}},
		Binds:   []Bind{{Source: "/etc/x", Target: "/x", ReadOnly: true, Propagation: "rslave"}},
		Memory:  64 << 20, ExtraHosts: []string{"host:172.18.0.1"}, HostPID: true,
	}
	labels := map[string]string{LabelStage: "test", LabelState: "/var/lib/sandbox"}
	c, err := s.create("127.0.0.1:5055/all:v1", "sha256:1", labels)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Host.PortBindings["80/tcp"]); got != "[{127.0.0.1 9090} {172.18.0.1 9091}]" {
		t.Errorf("ports: %s", got)
	}
	if m := c.Host.Mounts; len(m) != 2 || m[0].Type != "volume" || m[0].VolumeOptions.Labels[LabelState] == "" || !m[1].ReadOnly || m[1].BindOptions.Propagation != "rslave" {
		t.Errorf("mounts: %+v", m)
	}
	if c.Config.Labels[LabelStage] != "test" || labels[labelSpec] != "" || c.Network.EndpointsConfig[NetworkName].Aliases[0] != "all" || c.Host.PidMode != "host" {
		t.Errorf("%+v, %+v", c.Config, c.Network)
	}
	sum := func(s Service, digest string) string {
		c, err := s.create("127.0.0.1:5055/all:v1", digest, labels)
		if err != nil {
			t.Fatal(err)
		}
		return c.Config.Labels[labelSpec]
	}
	if sum(s, "sha256:1") != c.Config.Labels[labelSpec] {
		t.Error("the same has another digest")
	}
	if sum(s, "sha256:2") == sum(s, "sha256:1") {
		t.Error("another image has the same digest")
	}
	s.Network, s.Ports = "host", nil
	if c, err := s.create("x", "sha256:1", labels); err != nil || c.Network != nil || c.Host.NetworkMode != "host" {
		t.Errorf("host network: %+v, %v", c.Network, err)
	}
}
