package images_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
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

const (
	awsTests = "../sandbox/stack/aws/tests"
	// awsKills is how often LocalStack is killed while it is written to.
	awsKills = 10
	// awsAdded is how much longer a change may take for being kept.
	awsAdded = 20 * time.Millisecond
)

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

// python runs a script of the tests in the container, until it ends or ctx
// does, and returns what it wrote.
func (c *cloud) python(ctx context.Context, stdin string, args ...string) (string, error) {
	c.t.Helper()
	e, err := c.docker.client.ContainerExecCreate(ctx, "sandbox-localstack", container.ExecOptions{
		Cmd: append([]string{"/opt/code/localstack/.venv/bin/python3"}, args...), WorkingDir: "/opt/tests",
		AttachStdin: true, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return "", err
	}
	stream, err := c.docker.client.ContainerExecAttach(ctx, e.ID, container.ExecAttachOptions{})
	if err != nil {
		return "", err
	}
	defer stream.Close()
	go func() {
		_, _ = io.WriteString(stream.Conn, stdin)
		_ = stream.CloseWrite()
	}()
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, stream.Reader); err != nil {
		return out.String(), err
	}
	p, err := c.docker.client.ContainerExecInspect(ctx, e.ID)
	if err == nil && p.ExitCode != 0 {
		err = fmt.Errorf("exit code %d: %s%s", p.ExitCode, out.String(), errs.String())
	}
	if strings.Contains(errs.String(), "measured:") {
		c.t.Log(errs.String())
	}
	return out.String(), err
}

func (c *cloud) must(args ...string) string {
	c.t.Helper()
	out, err := c.python(c.t.Context(), "", args...)
	if err != nil {
		c.t.Fatalf("%q: %v\n%s", args, err, c.log())
	}
	return out
}

// TestLocalStack brings the stage aws up from the recipe's image, fills it,
// kills it, and looks whether all that was answered is there.
func TestLocalStack(t *testing.T) {
	s := openSuite(t)
	//TMP s.make(t, s.maker(), "localstack", "tools")
	c := newCloud(t, s)
	begun := time.Now()
	notes := c.up()
	t.Logf("measured: stage aws up in %.1f s: %v", time.Since(begun).Seconds(), notes)
	if notes["state bucket"] != aws.DefaultBucket+": made" || notes["lock table"] != aws.DefaultTable+": made" || notes["kept state"] != "nothing yet" {
		t.Errorf("first: %v", notes)
	}
	begun = time.Now()
	notes = c.up()
	t.Logf("measured: again in %.2f s", time.Since(begun).Seconds())
	if notes["localstack"] != "already there" || notes["state bucket"] != aws.DefaultBucket+": already there" || notes["lock table"] != aws.DefaultTable+": already there" {
		t.Errorf("again: %v", notes)
	}
	c.status(3)
	c.copyTests()
	if !testing.Short() {
		c.must("-m", "unittest", "discover")
	}

	c.must("drive.py", "fill")
	before := c.must("drive.py", "world")
	c.kill()
	if after := c.must("drive.py", "world"); after != before {
		t.Errorf("what is there after a kill differs:\n%s", differ(before, after))
	}
	c.terraform(s)
	c.killWhileWriting()
	c.latency()
	c.repair()
	if k, err := c.Kept(t.Context()); err != nil || k.Refuses != "" || len(k.Problems) > 0 {
		t.Errorf("%+v, %v", k, err)
	}
}

// status expects all items of the stage to be up.
func (c *cloud) status(items int) {
	c.t.Helper()
	for _, st := range c.stack.Status(c.t.Context()) {
		if st.Name == aws.Name && (st.Status != stack.StateUp || len(st.Items) != items || st.Error != "") {
			c.t.Errorf("status: %+v", st)
		}
	}
}

func differ(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out []string
	for i := range max(len(la), len(lb)) {
		var x, y string
		if i < len(la) {
			x = la[i]
		}
		if i < len(lb) {
			y = lb[i]
		}
		if x != y && len(out) < 40 {
			out = append(out, "- "+x, "+ "+y)
		}
	}
	return strings.Join(out, "\n")
}

// killWhileWriting kills LocalStack at random moments while many write to it.
// Each write is there, or was not answered.
func (c *cloud) killWhileWriting() {
	var answered strings.Builder
	begun := time.Now()
	for i := range awsKills {
		written := make(chan string)
		go func() {
			out, _ := c.python(c.t.Context(), "", "drive.py", "write", fmt.Sprint(i+1))
			written <- out
		}()
		time.Sleep(1500*time.Millisecond + rand.N(1500*time.Millisecond))
		c.kill()
		answered.WriteString(<-written)
		answered.WriteString("\n") // the last line may be half of one
	}
	var lines []string
	for line := range strings.Lines(answered.String()) {
		if json.Valid([]byte(line)) {
			lines = append(lines, line)
		}
	}
	out, err := c.python(c.t.Context(), strings.Join(lines, ""), "drive.py", "check")
	var found struct {
		Checked map[string]int
		Missing []any
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &found)
	}
	if err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	c.t.Logf("measured: %d kills in %.0f s, writes answered: %v", awsKills, time.Since(begun).Seconds(), found.Checked)
	if len(found.Missing) > 0 {
		c.t.Errorf("answered, and gone after %d kills: %v", awsKills, found.Missing)
	}
	if len(found.Checked) < 7 {
		c.t.Errorf("not everything was written: %v", found.Checked)
	}
}

// latency measures how long changes take, here and without the add-on.
func (c *cloud) latency() {
	measure := func() (ms map[string]float64) {
		if err := json.Unmarshal([]byte(c.must("drive.py", "latency", "25")), &ms); err != nil {
			c.t.Fatal(err)
		}
		return ms
	}
	before, err := c.Kept(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	kept := measure()
	after, err := c.Kept(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	waited := map[string]aws.KeptService{}
	for _, s := range before.Services {
		waited[s.Service] = s
	}
	var lines []string
	for _, s := range after.Services {
		was := waited[s.Service]
		if s.Changes <= was.Changes {
			continue
		}
		added := time.Duration((s.Seconds - was.Seconds) / float64(s.Changes-was.Changes) * float64(time.Second))
		lines = append(lines, fmt.Sprintf("%s %.1f ms of %.1f, %d kB", s.Service, added.Seconds()*1e3, kept[s.Service], s.Bytes/1000))
		if added > awsAdded {
			c.t.Errorf("a change of %s takes %v longer for being kept", s.Service, added)
		}
	}
	c.t.Logf("measured: added to a change: %s", strings.Join(lines, "; "))
}

// repair: what of the state's home is missing or changed comes back.
func (c *cloud) repair() {
	script := `
import boto3
s = boto3.Session("test", "test", region_name="us-east-1")
s3 = s.client("s3", endpoint_url="http://127.0.0.1:4566")
s3.put_bucket_versioning(Bucket="sandbox-terraform-state", VersioningConfiguration={"Status": "Suspended"})
s3.delete_public_access_block(Bucket="sandbox-terraform-state")
s.client("dynamodb", endpoint_url="http://127.0.0.1:4566").delete_table(TableName="sandbox-terraform-locks")
`
	c.must("-c", script)
	notes := c.up()
	if got := notes["state bucket"]; !strings.Contains(got, "repaired: versioned, closed to the public") {
		c.t.Errorf("bucket: %q", got)
	}
	if got := notes["lock table"]; !strings.HasSuffix(got, ": made") {
		c.t.Errorf("table: %q", got)
	}
	items, err := c.List(c.t.Context())
	if err != nil {
		c.t.Error(err)
	}
	kinds := map[string]int{}
	for _, it := range items {
		kinds[it.Kind]++
	}
	for _, kind := range []string{"S3 bucket", "DynamoDB table", "secret", "parameter", "VPC", "subnet", "instance", "IAM role", "IAM user", "IAM policy", "SQS queue", "SNS topic"} {
		if kinds[kind] == 0 {
			c.t.Errorf("aws ls has no %s: %v", kind, kinds)
		}
	}
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
