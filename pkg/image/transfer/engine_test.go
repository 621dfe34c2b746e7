package transfer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// serve runs a daemon until the test ends and waits until probe succeeds.
func serve(t *testing.T, probe []string, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the log says more
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(15 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for exec.CommandContext(ctx, probe[0], probe[1:]...).Run() != nil {
		select {
		case <-ended:
			t.Fatalf("%s has ended", argv[0])
		case <-ctx.Done():
			t.Fatalf("%s does not answer", argv[0])
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func need(t *testing.T, programs ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a daemon")
	}
	if os.Geteuid() != 0 {
		t.Skip("daemons need root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
}

func run(t *testing.T, stdin io.Reader, argv ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// rootfs is a tar of one file.
func rootfs(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	data := bytes.Repeat([]byte("some data "), 100_000)
	err := errors.Join(tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "data", Mode: 0o644, Size: int64(len(data))}))
	if err == nil {
		_, err = tw.Write(data)
	}
	if err = errors.Join(err, tw.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// roundTrip takes an image from the engine, has it removed, and gives it back.
func roundTrip(t *testing.T, engine, name, loadedAs string, remove func()) {
	t.Helper()
	e, err := Open(engine)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := e.Save(t.Context(), []string{name}, &archive); err != nil {
		t.Fatal(err)
	}
	if files := entries(t, archive.Bytes()); !slices.Contains(files, "manifest.json") {
		t.Errorf("the archive has %q", files)
	}
	var none bytes.Buffer
	err = e.Save(t.Context(), []string{name, "nosuchimage:v1"}, &none)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "nosuchimage") || none.Len() > 0 {
		t.Errorf("a missing image: %v, and %d bytes", err, none.Len())
	}
	remove()
	if err := e.Save(t.Context(), []string{name}, &none); !errdefs.IsNotFound(err) {
		t.Errorf("a removed image: %v", err)
	}
	loaded, err := e.Load(t.Context(), bytes.NewReader(archive.Bytes()))
	if err != nil || !slices.Equal(loaded, []string{loadedAs}) {
		t.Errorf("loaded %q, %v", loaded, err)
	}
	var again bytes.Buffer
	if err := e.Save(t.Context(), []string{name}, &again); err != nil || again.Len() == 0 {
		t.Errorf("after the load: %v", err)
	}

	half := archive.Bytes()[:archive.Len()/2]
	if _, err := e.Load(t.Context(), bytes.NewReader(half)); err == nil {
		t.Error("half an archive was loaded")
	}
	if _, err := e.Load(t.Context(), strings.NewReader("this is no archive")); err == nil {
		t.Error("what is no archive was loaded")
	}
	throughStore(t, e, name, archive.Bytes())

	full := errors.New("disk full")
	if err := e.Save(t.Context(), []string{name}, failing{full}); err == nil {
		t.Error("a save that cannot be written succeeds")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Save(ctx, []string{name}, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	slow, w := io.Pipe()
	defer w.Close()
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := e.Load(ctx, slow); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a load that is interrupted: %v", err)
	}
}

// throughStore brings the engine's archive into a store, and the store's back
// into the engine, under another name.
func throughStore(t *testing.T, e Engine, name string, archive []byte) {
	t.Helper()
	store, err := image.Open(state.Dirs{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	images, err := store.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{})
	if err != nil || len(images) != 1 || images[0].Name != name {
		t.Fatalf("imported %+v, %v", images, err)
	}
	if err := store.Tag(t.Context(), name, "example.org/team/again:v2"); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(store.Export(t.Context(), w, []string{"example.org/team/again:v2"}, image.ExportOptions{Format: image.FormatDocker}))
	}()
	loaded, err := e.Load(t.Context(), r)
	if err != nil || !slices.Equal(loaded, []string{"example.org/team/again:v2"}) {
		t.Errorf("loaded %q, %v", loaded, err)
	}
	var back bytes.Buffer
	if err := e.Save(t.Context(), []string{"example.org/team/again:v2"}, &back); err != nil {
		t.Error(err)
	}
	again, err := store.Import(t.Context(), &back, image.ImportOptions{Name: "back"})
	if err != nil || len(again) != 1 || !slices.Equal(again[0].Config.RootFS.DiffIDs, images[0].Config.RootFS.DiffIDs) {
		t.Errorf("what came back: %+v, %v", again, err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func entries(t *testing.T, archive []byte) (names []string) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, hdr.Name)
	}
}

func TestDocker(t *testing.T) {
	need(t, "dockerd", "docker")
	dir := t.TempDir()
	socket := "unix://" + dir + "/docker.sock"
	docker := []string{"docker", "--config", dir, "-H", socket}
	settings := filepath.Join(dir, "daemon.json") // not the machine's own
	if err := os.WriteFile(settings, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	// No bridge and no rules: this daemon leaves the host's network alone.
	serve(t, append(docker, "version"), "dockerd", "--config-file", settings, "--data-root", dir+"/data", "--exec-root", dir+"/exec",
		"--pidfile", dir+"/pid", "-H", socket, "--storage-driver", "vfs",
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
	run(t, bytes.NewReader(rootfs(t)), append(docker, "import", "-", "app:v1")...)
	roundTrip(t, "docker:"+socket, "app:v1", "app:v1", func() { run(t, nil, append(docker, "rmi", "app:v1")...) })

	// The engine that the docker command would talk to.
	t.Setenv("DOCKER_HOST", socket)
	e, err := Open("docker")
	if err == nil {
		err = e.Save(t.Context(), []string{"app:v1"}, io.Discard)
	}
	if err != nil {
		t.Errorf("by DOCKER_HOST: %v", err)
	}
	t.Setenv("DOCKER_HOST", "")
	t.Setenv("DOCKER_CONFIG", dir)
	run(t, nil, "docker", "--config", dir, "context", "create", "here", "--docker", "host="+socket)
	t.Setenv("DOCKER_CONTEXT", "here")
	if e, err = Open("docker"); err == nil {
		err = e.Save(t.Context(), []string{"app:v1"}, io.Discard)
	}
	if err != nil {
		t.Errorf("by a context: %v", err)
	}
	t.Setenv("DOCKER_CONTEXT", "nowhere")
	if _, err := Open("docker"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("by a context that is not there: %v", err)
	}
}

func TestContainerd(t *testing.T) {
	need(t, "containerd", "ctr")
	dir := t.TempDir()
	config := filepath.Join(dir, "config.toml")
	toml := `version = 2
root = "` + dir + `/root"
state = "` + dir + `/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "` + dir + `/sock"
`
	if err := os.WriteFile(config, []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONTAINERD_ADDRESS", dir+"/sock")
	t.Setenv("CONTAINERD_SNAPSHOTTER", "native")
	serve(t, []string{"ctr", "version"}, "containerd", "--config", config)
	var archive bytes.Buffer
	platform := ispec.Image{Platform: ispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	if _, err := image.WriteArchive(&archive, "docker.io/library/app:v1", platform, []image.Layer{{Tar: rootfs(t), CreatedBy: "test"}}); err != nil {
		t.Fatal(err)
	}
	plain, err := gzip.NewReader(&archive)
	if err != nil {
		t.Fatal(err)
	}
	run(t, plain, "ctr", "--namespace", "lab", "images", "import", "--base-name", "first", "--digests", "-")
	list := run(t, nil, "ctr", "--namespace", "lab", "images", "ls", "-q")
	const name = "docker.io/library/app:v1"
	run(t, nil, "ctr", "--namespace", "lab", "images", "tag", strings.Fields(list)[0], name)
	roundTrip(t, "containerd:lab", "app:v1", name, func() { run(t, nil, "ctr", "--namespace", "lab", "images", "rm", name) })
	e, err := Open("containerd")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Save(t.Context(), []string{"app:v1"}, io.Discard); !errdefs.IsNotFound(err) {
		t.Errorf("an image of another namespace: %v", err)
	}
}
