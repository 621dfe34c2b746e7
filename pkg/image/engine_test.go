package image

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// start runs a daemon until the test ends and waits until probe succeeds.
func start(t testing.TB, probe []string, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = time.Second
	must(t, cmd.Start())
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

func need(t testing.TB, programs ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a daemon")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
}

func run(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// startDocker runs an engine of the test's own, which leaves the host's
// network alone, and returns the client's command line. Its storage driver is
// for tests that compare nothing but content.
func startDocker(t testing.TB, driver string) []string {
	t.Helper()
	need(t, "dockerd", "docker")
	dir := tempDir(t)
	docker := []string{"docker", "--config", dir, "-H", "unix://" + dir + "/docker.sock"}
	settings := filepath.Join(dir, "daemon.json") // not the machine's own
	must(t, os.WriteFile(settings, []byte("{}"), 0o600))
	start(t, append(docker, "version"), "dockerd", "--config-file", settings, "--data-root", dir+"/data", "--exec-root", dir+"/exec",
		"--pidfile", dir+"/pid", "-H", "unix://"+dir+"/docker.sock", "--storage-driver", driver,
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
	return docker
}

// startContainerd does the same with containerd.
func startContainerd(t testing.TB) []string {
	t.Helper()
	need(t, "containerd", "ctr")
	dir := tempDir(t)
	config := filepath.Join(dir, "config.toml")
	must(t, os.WriteFile(config, []byte(`version = 2
root = "`+dir+`/root"
state = "`+dir+`/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "`+dir+`/sock"
`), 0o600))
	ctr := []string{"ctr", "--address", dir + "/sock"}
	start(t, append(ctr, "version"), "containerd", "--config", config)
	return ctr
}

// twoImages commits two images that share a layer, with what archives could
// lose: a health check, whiteouts, hard links, xattrs.
func twoImages(t *testing.T, s *Store) []Image {
	t.Helper()
	_, layers, err := commitOver(t, s, "app:v1", func(root string) {
		must(t, os.Remove(root+"/gone"))
		write(t, root+"/bin/a", strings.Repeat("linked", 1000))
		must(t, os.Link(root+"/bin/a", root+"/bin/b"))
	})
	must(t, err)
	var images []Image
	for _, name := range []string{"app:v1", "example.org/app:v2"} {
		img, _, err := s.Commit(t.Context(), Commit{
			Names: []string{name}, Epoch: epoch,
			Config: ispec.Image{Config: ispec.ImageConfig{Cmd: []string{name}}},
			Docker: DockerConfig{Shell: []string{"/bin/ash", "-c"}},
			Layers: []LayerSource{{Packed: &layers[0]}, {Packed: &layers[1]}},
		})
		must(t, err)
		images = append(images, img)
	}
	return images
}

// Docker loads what we export, by the same IDs, and we import what it saves.
func TestDockerArchive(t *testing.T) {
	s := newStore(t)
	images := twoImages(t, s)
	docker := startDocker(t, "vfs")
	path := filepath.Join(t.TempDir(), "archive.tar")
	must(t, os.WriteFile(path, export(t, s, FormatDocker, images[0].Name, images[1].Name), 0o600))
	run(t, append(docker, "load", "--input", path)...)
	for _, img := range images {
		got := run(t, append(docker, "image", "inspect", "--format", "{{.Id}} {{.Config.Shell}} {{len .RootFS.Layers}}", img.Name)...)
		if want := img.ID.String() + " [/bin/ash -c] 2"; strings.TrimSpace(got) != want {
			t.Errorf("docker has %s, want %s", got, want)
		}
	}
	run(t, append(docker, "save", "--output", path, images[0].Name, images[1].Name)...)
	data, err := os.ReadFile(path)
	must(t, err)
	other := newStore(t)
	back, err := other.Import(t.Context(), bytes.NewReader(data), ImportOptions{})
	must(t, err)
	if len(back) != 2 {
		t.Fatalf("docker saved %d images", len(back))
	}
	for _, img := range images {
		got, err := other.Resolve(img.Name)
		if err != nil || got.ID != img.ID {
			t.Errorf("%s came back as %s, %v", img.Name, got.ID, err)
		}
		checkSameTrees(t, s, img, other, got)
	}
	checkClean(t, other)
}

// containerd imports both formats, and we what it exports.
func TestContainerdArchive(t *testing.T) {
	s := newStore(t)
	images := twoImages(t, s)
	_, err := s.AddReferrer(t.Context(), images[0], spdx, []byte("{}"), nil)
	must(t, err)
	ctr := startContainerd(t)
	for _, format := range []string{FormatDocker, FormatOCI} {
		path := filepath.Join(t.TempDir(), "archive.tar")
		must(t, os.WriteFile(path, export(t, s, format, images[0].Name, images[1].Name), 0o600))
		ns := append(ctr, "--namespace", format)
		run(t, append(ns, "image", "import", "--snapshotter", "native", path)...)
		list := run(t, append(ns, "image", "ls")...)
		for i, name := range []string{"docker.io/library/app:v1", "example.org/app:v2"} {
			if !strings.Contains(list, name) || !strings.Contains(list, images[i].Descriptor.Digest.String()) {
				t.Errorf("%s: containerd lists no %s %s:\n%s", format, name, images[i].Descriptor.Digest, list)
			}
		}
		run(t, append(ns, "image", "export", path, "docker.io/library/app:v1")...)
		data, err := os.ReadFile(path)
		must(t, err)
		other := newStore(t)
		back, err := other.Import(t.Context(), bytes.NewReader(data), ImportOptions{})
		if err != nil || len(back) != 1 || back[0].Name != "app:v1" || back[0].Descriptor.Digest != images[0].Descriptor.Digest {
			t.Fatalf("%s: containerd's export: %+v, %v", format, back, err)
		}
		checkSameTrees(t, s, images[0], other, back[0])
	}
}

func checkSameTrees(t *testing.T, a *Store, imgA Image, b *Store, imgB Image) {
	t.Helper()
	dirsA, err := a.Unpack(t.Context(), imgA)
	must(t, err)
	dirsB, err := b.Unpack(t.Context(), imgB)
	must(t, err)
	for i := range dirsA {
		have, want := strings.Join(tree(t, dirsB[i]), "\n"), strings.Join(tree(t, dirsA[i]), "\n")
		if have != want {
			t.Errorf("layer %d:\n%s\nwant:\n%s", i, have, want)
		}
	}
}
