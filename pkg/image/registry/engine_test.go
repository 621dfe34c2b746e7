package registry_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/image/registry"
)

// start runs a daemon until the test ends and waits until probe succeeds.
func start(t *testing.T, probe []string, argv ...string) {
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
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

func TestDockerPull(t *testing.T) {
	need(t, "dockerd", "docker")
	s := newStore(t)
	img := put(t, s, "toolbox")
	host := serve(t, s, registry.Options{})
	dir := t.TempDir()
	docker := []string{"docker", "--config", dir, "-H", "unix://" + dir + "/docker.sock"}
	settings := filepath.Join(dir, "daemon.json") // not the machine's own
	if err := os.WriteFile(settings, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	// No bridge and no rules: this daemon leaves the host's network alone.
	start(t, append(docker, "version"), "dockerd", "--config-file", settings, "--data-root", dir+"/data", "--exec-root", dir+"/exec",
		"--pidfile", dir+"/pid", "-H", "unix://"+dir+"/docker.sock", "--storage-driver", "vfs",
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
	run(t, append(docker, "pull", host+"/toolbox")...)
	got := run(t, append(docker, "image", "inspect", "--format", "{{.Id}} {{index .RepoDigests 0}}", host+"/toolbox")...)
	if want := img.ID.String() + " " + host + "/toolbox@" + img.Descriptor.Digest.String(); strings.TrimSpace(got) != want {
		t.Errorf("docker has %s, want %s", got, want)
	}
}

func TestContainerdPull(t *testing.T) {
	need(t, "containerd", "ctr")
	s := newStore(t)
	img := put(t, s, "toolbox")
	host := serve(t, s, registry.Options{})
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
	ctr := []string{"ctr", "--address", dir + "/sock"}
	start(t, append(ctr, "version"), "containerd", "--config", config)
	run(t, append(ctr, "image", "pull", "--plain-http", "--snapshotter", "native", host+"/library/toolbox:latest")...)
	if got := run(t, append(ctr, "image", "ls")...); !strings.Contains(got, img.Descriptor.Digest.String()) {
		t.Errorf("containerd has %s", got)
	}
}
