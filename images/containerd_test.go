package images_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/remotes"
	remote "github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netns"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// containerd is a containerd of the test's own, as smoke tests see an engine.
// What Docker does for a container beside calling it, it does itself: the
// network, /etc/hosts, and volumes.
type containerd struct {
	unasked
	t        *testing.T
	client   *client.Client
	resolver remotes.Resolver
	registry string
	dir      string
	pocket   *pocket

	mu         sync.Mutex
	n          int // names given
	containers map[string]*ctrContainer
}

// ctrContainer is one container.
type ctrContainer struct {
	client.Container
	task    client.Task
	ns      netns.NsHandle
	ip      string
	dir     string
	process *ctrProcess
}

// newContainerd returns a containerd that runs the store's images.
func newContainerd(t *testing.T, store *image.Store) engine.Engine {
	t.Helper()
	need(t, "containerd", "runc", "cp")
	dir := home(t)
	config := filepath.Join(dir, "config.toml") // not the machine's own
	if err := os.WriteFile(config, []byte(`version = 2
root = "`+dir+`/root"
state = "`+dir+`/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "`+dir+`/sock"
`), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &containerd{
		t: t, dir: dir, pocket: newPocket(t), registry: serve(t, nil, store), containers: map[string]*ctrContainer{},
		resolver: remote.NewResolver(remote.ResolverOptions{Hosts: remote.ConfigureDefaultRegistries(remote.WithPlainHTTP(remote.MatchLocalhost))}),
	}
	startDaemon(t, nil, func(ctx context.Context) (err error) {
		if e.client == nil {
			if e.client, err = client.New(dir+"/sock", client.WithDefaultNamespace(filepath.Base(dir))); err != nil {
				return err
			}
		}
		_, err = e.client.Version(ctx)
		return err
	}, "containerd", "--log-level", "warn", "--config", config)
	t.Cleanup(func() {
		left, err := e.client.Containers(context.Background())
		if err != nil || len(left) > 0 {
			t.Errorf("containers left in containerd: %v, %v", left, err)
		}
		e.client.Close()
	})
	return e
}

// Name implements engine.Engine.
func (*containerd) Name() string { return "containerd" }

// context is ctx in the test's namespace of containerd, which is also the name
// of its parent cgroup.
func (e *containerd) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, filepath.Base(e.dir))
}

// Create implements engine.Engine. It makes the task too, so that only the
// user's process is missing.
func (e *containerd) Create(ctx context.Context, spec api.ContainerSpec, _ *explain.Tracer) (_ api.Container, err error) {
	ctx = e.context(ctx)
	img, err := e.client.Pull(ctx, e.registry+"/library/"+spec.Image, client.WithResolver(e.resolver), client.WithPullUnpack, client.WithPullSnapshotter("overlayfs"))
	if err != nil {
		return api.Container{}, fmt.Errorf("containerd pull %s: %w", spec.Image, err)
	}
	e.mu.Lock()
	e.n++
	id := fmt.Sprintf("smoke%d", e.n)
	c := &ctrContainer{dir: filepath.Join(e.dir, id), ns: newNetNS(e.t)}
	c.ip = e.pocket.plug(c.ns, "eth0").String()
	e.containers[id] = c
	e.mu.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Remove(context.WithoutCancel(ctx), id, true))
		}
	}()
	if err := os.Mkdir(c.dir, 0o755); err != nil { // whoever the image runs as reads it
		return api.Container{}, err
	}
	config, err := img.Spec(ctx)
	if err != nil {
		return api.Container{}, err
	}
	argv := append(append([]string(nil), config.Config.Entrypoint...), cmpSlices(spec.Command, config.Config.Cmd)...)
	if spec.Entrypoint != nil {
		argv = append(append([]string(nil), spec.Entrypoint...), spec.Command...)
	}
	mounts, err := c.mounts(spec)
	if err != nil {
		return api.Container{}, err
	}
	c.Container, err = e.client.NewContainer(ctx, id,
		client.WithImage(img), client.WithSnapshotter("overlayfs"), client.WithNewSnapshot(id, img),
		client.WithContainerLabels(spec.Labels),
		client.WithRuntime("io.containerd.runc.v2", nil),
		client.WithNewSpec(
			oci.WithImageConfigArgs(img, argv), oci.WithProcessArgs(argv...), oci.WithEnv(spec.Env),
			oci.WithHostname(id), oci.WithoutRunMount, oci.WithNewPrivileges, seccomp.WithDefaultProfile(), withoutRlimits,
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: nsPath(c.ns)}),
			oci.WithMounts(mounts),
			c.withVolumes(ctx, e.client, sortedKeys(config.Config.Volumes), spec.Mounts),
		))
	if err != nil {
		return api.Container{}, err
	}
	c.process = newProcess()
	if c.task, err = c.NewTask(ctx, c.process.io(c.dir)); err != nil {
		return api.Container{}, err
	}
	return api.Container{ID: id}, c.process.follow(ctx, c.task)
}

func (e *containerd) find(id string) (*ctrContainer, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	if c == nil {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// Attach implements engine.Engine.
func (e *containerd) Attach(_ context.Context, id string) (engine.Session, error) {
	c, err := e.find(id)
	if err != nil {
		return nil, err
	}
	return &ctrSession{ctrProcess: c.process}, nil
}

// Start implements engine.Engine.
func (e *containerd) Start(ctx context.Context, id string, _ *explain.Tracer) error {
	c, err := e.find(id)
	if err != nil {
		return err
	}
	return c.task.Start(e.context(ctx))
}

// Wait implements engine.Engine.
func (e *containerd) Wait(ctx context.Context, id string) (api.Exit, error) {
	c, err := e.find(id)
	if err != nil {
		return api.Exit{}, err
	}
	code, err := c.process.Wait(ctx)
	return api.Exit{Code: code}, err
}

// Inspect implements engine.Engine.
func (e *containerd) Inspect(_ context.Context, id string) (api.Container, error) {
	c, err := e.find(id)
	if err != nil {
		return api.Container{}, err
	}
	info := api.Container{ID: id, Engine: e.Name(), IP: c.ip}
	select {
	case <-c.process.exited:
		info.Exit = &api.Exit{Code: c.process.code}
	default:
	}
	return info, nil
}

// Exec implements engine.Engine.
func (e *containerd) Exec(ctx context.Context, id string, spec api.ExecSpec) (engine.Session, error) {
	ctx = e.context(ctx)
	c, err := e.find(id)
	if err != nil {
		return nil, err
	}
	whole, err := c.Spec(ctx)
	if err != nil {
		return nil, err
	}
	process := whole.Process
	process.Args, process.Env = spec.Command, append(process.Env, spec.Env...)
	process.Cwd = cmp.Or(spec.WorkDir, process.Cwd)
	p := newProcess()
	e.mu.Lock()
	e.n++
	name := fmt.Sprintf("exec%d", e.n)
	e.mu.Unlock()
	task, err := c.task.Exec(ctx, name, process, p.io(c.dir))
	if err != nil {
		return nil, err
	}
	remove := func() error {
		ctx := context.WithoutCancel(ctx)
		_ = task.Kill(ctx, syscall.SIGKILL)
		_, err := task.Delete(ctx, client.WithProcessKill)
		return ignoreNotFound(err)
	}
	if err := p.follow(ctx, task); err != nil {
		return nil, errors.Join(err, remove())
	}
	if err := task.Start(ctx); err != nil {
		return nil, errors.Join(err, remove())
	}
	return &ctrSession{ctrProcess: p, remove: sync.OnceValue(remove)}, nil
}

// Remove implements engine.Engine. It goes on after an error, and forgets the
// container only without one.
func (e *containerd) Remove(ctx context.Context, id string, _ bool) error {
	ctx = e.context(ctx)
	c, err := e.find(id)
	if err != nil {
		return err
	}
	if c.task != nil {
		_, terr := c.task.Delete(ctx, client.WithProcessKill)
		err = errors.Join(err, ignoreNotFound(terr))
	}
	if c.Container != nil {
		err = errors.Join(err, ignoreNotFound(c.Delete(ctx, client.WithSnapshotCleanup)))
	}
	if err = errors.Join(err, os.RemoveAll(c.dir)); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.containers, id)
	return c.ns.Close()
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
