package images_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/vishvananda/netns"

	awsfiles "github.com/sandboxlabs/sandbox/sandbox/stack/aws"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws"
	stackdocker "github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

const awsTests = "../sandbox/stack/aws/tests"

// cloud is the stage aws in a Docker engine of the test's own.
type cloud struct {
	t      *testing.T
	pocket *pocket
	docker *dockerDaemon
	stack  *stack.Graph
	images stored
	kept   api.Settings // by the last up
	aws.Cloud
}

// noProgress tells nobody.
var noProgress stack.Progress

func newCloud(t *testing.T, s *suite) *cloud {
	t.Helper()
	need(t, "dockerd", "nsenter")
	p := newPocket(t)
	d := startDocker(t, p)
	client := &http.Client{Transport: &http.Transport{DialContext: p.dial}}
	c := &cloud{t: t, pocket: p, docker: d, Cloud: aws.Cloud{Region: aws.DefaultRegion, HTTP: client}}
	c.Endpoint = aws.Endpoint(c.kept)
	registry := serve(t, p, s.Store)
	c.images = stored{s, registry}
	root := t.TempDir()
	engine := stackdocker.New(stackdocker.Config{
		State: root, Host: "unix://" + d.dir + "/docker.sock", Images: c.images, Registry: func() string { return registry },
		Serve: func(context.Context, netip.Addr) error { return nil },
	})
	t.Cleanup(func() { _ = engine.Close() })
	var err error
	c.stack, err = stack.New(stackdocker.NewStage(engine), aws.New(aws.Config{
		Dirs: state.Dirs{Root: root}, Docker: engine, Init: awsfiles.Init(), HTTP: client,
		Settings: func() (api.Settings, error) { return c.kept, nil },
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		plan, err := c.stack.Down(api.DownOptions{Purge: true})
		if err == nil {
			err = plan.Run(context.Background(), func(api.Task) {})
		}
		if err != nil {
			t.Errorf("down: %v", err)
		}
	})
	return c
}

// stored are the suite's images, as stages see them.
type stored struct {
	*suite
	registry string
}

func (s stored) Ensure(_ context.Context, name string, _ stack.Progress) (stack.Image, error) {
	img, err := s.Store.Resolve(name)
	if err != nil {
		return stack.Image{}, err
	}
	return stack.Image{Ref: s.registry + "/" + img.Name, Name: img.Name, Digest: img.Descriptor.Digest.String(), From: "local store"}, nil
}

// dial connects to an address of the pocket's, its loopback included.
func (p *pocket) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = apart(func() error {
		if err := netns.Set(p.ns); err != nil {
			return err
		}
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// up brings the stage up and returns the last notes of its steps.
func (c *cloud) up() map[string]string {
	c.t.Helper()
	plan, err := c.stack.Up(api.UpOptions{Settings: c.kept})
	if err != nil {
		c.t.Fatal(err)
	}
	notes := map[string]string{}
	if err := plan.Run(c.t.Context(), func(task api.Task) { notes[task.Name] = task.Note }); err != nil {
		c.t.Fatalf("up: %v", err)
	}
	return notes
}

// kill ends LocalStack as a power failure would, and returns when Docker has
// started it again.
func (c *cloud) kill() {
	c.t.Helper()
	before, err := c.docker.client.ContainerInspect(c.t.Context(), "sandbox-localstack")
	if err != nil {
		c.t.Fatal(err)
	}
	if err := syscall.Kill(before.State.Pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		now, err := c.docker.client.ContainerInspect(c.t.Context(), before.ID)
		if err == nil && now.State.Running && now.State.Pid != before.State.Pid {
			if _, err := c.Health(c.t.Context()); err == nil {
				return
			}
		}
		if time.Now().After(end) {
			c.t.Fatalf("LocalStack does not come back: %+v, %v\n%s", now.State, err, c.log())
		}
	}
}

// log is the end of what LocalStack has logged.
func (c *cloud) log() string {
	r, err := c.docker.client.ContainerLogs(context.Background(), "sandbox-localstack", container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: "60"})
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	var b bytes.Buffer
	_, _ = stdcopy.StdCopy(&b, &b, r)
	return b.String()
}

// copyTests puts the add-on and its tests into the container.
func (c *cloud) copyTests() {
	c.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, glob := range []string{awsTests + "/*.py", filepath.Dir(awsTests) + "/init/keep/*.py"} {
		paths, _ := filepath.Glob(glob)
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err == nil {
				name, _ := filepath.Rel(filepath.Dir(awsTests), path)
				err = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
			}
			if err == nil {
				_, err = w.Write(content)
			}
			if err != nil {
				c.t.Fatal(err)
			}
		}
	}
	_ = w.Close()
	if err := c.docker.client.CopyToContainer(c.t.Context(), "sandbox-localstack", "/opt", &b, container.CopyToContainerOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// python runs a script of the tests in the container, and returns what it wrote.
func (c *cloud) python(stdin string, args ...string) (string, error) {
	var out strings.Builder
	err := c.stream(stdin, func(line string) { out.WriteString(line + "\n") }, args...)
	return out.String(), err
}

// stream runs a script of the tests in the container and hands on each line that
// it writes.
func (c *cloud) stream(stdin string, each func(line string), args ...string) error {
	ctx := c.t.Context()
	e, err := c.docker.client.ContainerExecCreate(ctx, "sandbox-localstack", container.ExecOptions{
		Cmd: append([]string{"/opt/code/localstack/.venv/bin/python3"}, args...), WorkingDir: "/opt/tests",
		AttachStdin: true, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return err
	}
	stream, err := c.docker.client.ContainerExecAttach(ctx, e.ID, container.ExecAttachOptions{})
	if err != nil {
		return err
	}
	defer stream.Close()
	go func() {
		_, _ = io.WriteString(stream.Conn, stdin)
		_ = stream.CloseWrite()
	}()
	var errs bytes.Buffer
	r, w := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(w, &errs, stream.Reader)
		w.CloseWithError(err)
	}()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		each(lines.Text())
	}
	if err := lines.Err(); err != nil {
		return err
	}
	p, err := c.docker.client.ContainerExecInspect(ctx, e.ID)
	if err == nil && p.ExitCode != 0 {
		err = fmt.Errorf("exit code %d: %s", p.ExitCode, errs.String())
	}
	if strings.Contains(errs.String(), "measured:") {
		c.t.Log(errs.String())
	}
	return err
}

func (c *cloud) must(args ...string) string {
	c.t.Helper()
	out, err := c.python("", args...)
	if err != nil {
		c.t.Fatalf("%q: %v\n%s", args, err, c.log())
	}
	return out
}

// command runs a program in the pocket.
func (p *pocket) command(cmd *exec.Cmd) error {
	return apart(func() error {
		if err := netns.Set(p.ns); err != nil {
			return err
		}
		return cmd.Start()
	})
}
