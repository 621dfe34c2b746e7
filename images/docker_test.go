package images_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/client"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// unasked are the methods of an engine that no smoke test calls.
type unasked struct{}

func (unasked) Stop(context.Context, string, time.Duration) error { return errdefs.ErrNotImplemented }
func (unasked) Kill(context.Context, string, string) error        { return errdefs.ErrNotImplemented }
func (unasked) Pause(context.Context, string) error               { return errdefs.ErrNotImplemented }
func (unasked) Unpause(context.Context, string) error             { return errdefs.ErrNotImplemented }
func (unasked) List(context.Context) ([]api.Container, error) {
	return nil, errdefs.ErrNotImplemented
}

func (unasked) Stats(context.Context, string) (api.Stats, error) {
	return api.Stats{}, errdefs.ErrNotImplemented
}

func (unasked) Logs(context.Context, string, engine.LogOptions) (engine.LogReader, error) {
	return nil, errdefs.ErrNotImplemented
}

// dockerDaemon is a Docker engine of the test's own.
type dockerDaemon struct {
	client  *client.Client
	env     []string // with which the command docker talks to it
	dir     string
	process *daemon
}

// startDocker starts a Docker engine in the network p. On the host's, p being
// nil, it has neither bridge nor rules: containers use the host's own network.
func startDocker(t *testing.T, p *pocket) *dockerDaemon {
	t.Helper()
	need(t, "dockerd")
	dir := home(t)
	d := &dockerDaemon{dir: dir, env: append(os.Environ(), "DOCKER_HOST=unix://"+dir+"/docker.sock", "DOCKER_CONFIG="+dir, "DOCKER_BUILDKIT=1")}
	settings := filepath.Join(dir, "daemon.json") // not the machine's own
	if err := os.WriteFile(settings, []byte(`{"builder": {"gc": {"enabled": false}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	argv := []string{
		"dockerd", "--log-level", "warn", "--config-file", settings, "--data-root", dir + "/data", "--exec-root", dir + "/exec",
		"--pidfile", dir + "/pid", "--host", "unix://" + dir + "/docker.sock", "--cgroup-parent", filepath.Base(dir),
	}
	if p != nil {
		argv = append(argv, "--bridge", pocketBridge, "--fixed-cidr", p.daemonRange().String())
	} else {
		argv = append(argv, "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
	}
	var err error
	if d.client, err = client.NewClientWithOpts(client.WithHost("unix://"+dir+"/docker.sock"), client.WithAPIVersionNegotiation()); err != nil {
		t.Fatal(err)
	}
	d.process = startDaemon(t, p, func(ctx context.Context) error {
		_, err := d.client.Ping(ctx)
		return err
	}, argv...)
	t.Cleanup(func() {
		left, err := d.client.ContainerList(context.Background(), container.ListOptions{All: true})
		if err != nil || len(left) > 0 {
			t.Errorf("containers left in Docker: %v, %v", left, err)
		}
		d.client.Close()
	})
	return d
}

// docker is that engine as smoke tests see one.
type docker struct {
	unasked
	*dockerDaemon
	registry string
}

// newDocker returns a Docker engine that runs the store's images.
func newDocker(t *testing.T, store *image.Store) engine.Engine {
	t.Helper()
	need(t, "dockerd", "nsenter")
	p := newPocket(t)
	d := startDocker(t, p)
	return &docker{dockerDaemon: d, registry: serve(t, p, store)}
}

func (*docker) Name() string { return "docker" }

// pull brings an image from a registry and returns its name.
func (d *dockerDaemon) pull(ctx context.Context, registry, name string) (string, error) {
	ref := registry + "/" + name
	progress, err := d.client.ImagePull(ctx, ref, dockerimage.PullOptions{})
	if err != nil {
		return "", fmt.Errorf("docker pull %s: %w", ref, err)
	}
	defer progress.Close()
	log, err := io.ReadAll(progress)
	if err == nil && strings.Contains(string(log), `"error"`) {
		err = errors.New(string(log)) // it is in the stream, not in the status
	}
	if err != nil {
		return "", fmt.Errorf("docker pull %s: %w", ref, err)
	}
	return ref, nil
}

// Create implements engine.Engine.
func (d *docker) Create(ctx context.Context, spec api.ContainerSpec, _ *explain.Tracer) (api.Container, error) {
	var none api.Container
	ref, err := d.pull(ctx, d.registry, spec.Image)
	if err != nil {
		return none, err
	}
	host := &container.HostConfig{Tmpfs: map[string]string{}}
	for _, m := range spec.Mounts {
		switch m.Type {
		case "tmpfs":
			host.Tmpfs[m.Target] = strings.Join(m.Options, ",")
		case "bind":
			host.Mounts = append(host.Mounts, mount.Mount{
				Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: strings.Contains(strings.Join(m.Options, ","), "ro"),
			})
		}
	}
	c, err := d.client.ContainerCreate(ctx, &container.Config{
		Image: ref, Entrypoint: spec.Entrypoint, Cmd: spec.Command, Env: spec.Env, Labels: spec.Labels,
		AttachStdout: true, AttachStderr: true,
	}, host, nil, nil, spec.Name)
	return api.Container{ID: c.ID}, err
}

// Attach implements engine.Engine.
func (d *docker) Attach(ctx context.Context, id string) (engine.Session, error) {
	stream, err := d.client.ContainerAttach(ctx, id, container.AttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, err
	}
	return &dockerSession{stream: stream, wait: func(ctx context.Context) (int, error) {
		exit, err := d.Wait(ctx, id)
		return exit.Code, err
	}}, nil
}

// Start implements engine.Engine.
func (d *docker) Start(ctx context.Context, id string, _ *explain.Tracer) error {
	return d.client.ContainerStart(ctx, id, container.StartOptions{})
}

// Wait implements engine.Engine.
func (d *docker) Wait(ctx context.Context, id string) (api.Exit, error) {
	exits, errs := d.client.ContainerWait(ctx, id, container.WaitConditionNotRunning)
	select {
	case err := <-errs:
		return api.Exit{}, err
	case exit := <-exits:
		return api.Exit{Code: int(exit.StatusCode)}, nil
	}
}

// Inspect implements engine.Engine.
func (d *docker) Inspect(ctx context.Context, id string) (api.Container, error) {
	info, err := d.client.ContainerInspect(ctx, id)
	if err != nil {
		return api.Container{}, err
	}
	c := api.Container{ID: info.ID, Engine: d.Name()}
	if state := info.State; state.Status == container.StateExited || state.Status == container.StateDead {
		c.Exit = &api.Exit{Code: state.ExitCode, OOMKilled: state.OOMKilled, Message: state.Error}
	}
	for _, n := range info.NetworkSettings.Networks {
		if _, err := netip.ParseAddr(n.IPAddress); err == nil {
			c.IP = n.IPAddress
		}
	}
	return c, nil
}

// Remove implements engine.Engine.
func (d *docker) Remove(ctx context.Context, id string, force bool) error {
	return d.client.ContainerRemove(ctx, id, container.RemoveOptions{Force: force, RemoveVolumes: true})
}

// Exec implements engine.Engine.
func (d *docker) Exec(ctx context.Context, id string, spec api.ExecSpec) (engine.Session, error) {
	e, err := d.client.ContainerExecCreate(ctx, id, container.ExecOptions{
		Cmd: spec.Command, Env: spec.Env, User: spec.User, WorkingDir: spec.WorkDir, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return nil, err
	}
	stream, err := d.client.ContainerExecAttach(ctx, e.ID, container.ExecAttachOptions{})
	if err != nil {
		return nil, err
	}
	return &dockerSession{stream: stream, wait: func(ctx context.Context) (int, error) {
		// Docker has no call to wait for it; the end of its output comes first.
		for {
			p, err := d.client.ContainerExecInspect(ctx, e.ID)
			if err != nil || !p.Running {
				return p.ExitCode, err
			}
			select {
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}}, nil
}

// dockerSession is a connection that Docker has made a stream of: the frames
// are its own.
type dockerSession struct {
	stream types.HijackedResponse
	wait   func(context.Context) (int, error)
}

func (s *dockerSession) Read(b []byte) (int, error)            { return s.stream.Reader.Read(b) }
func (s *dockerSession) Write(b []byte) (int, error)           { return s.stream.Conn.Write(b) }
func (s *dockerSession) CloseWrite() error                     { return s.stream.CloseWrite() }
func (s *dockerSession) Close() error                          { s.stream.Close(); return nil }
func (s *dockerSession) Resize(uint16, uint16) error           { return errdefs.ErrNotImplemented }
func (s *dockerSession) Signal(string) error                   { return errdefs.ErrNotImplemented }
func (s *dockerSession) Wait(ctx context.Context) (int, error) { return s.wait(ctx) }
