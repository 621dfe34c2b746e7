package network

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/network"
)

// get asks the web server in Docker's container for its page.
const get = "GET / HTTP/1.0\r\n\r\n"

// docker is a Docker engine in the tests' network namespace, with files and
// mounts of its own: it knows nothing of one that the machine runs.
type docker struct {
	t   *testing.T
	dir string
	env []string
}

// useFlavour makes one flavour of iptables the host's: what the plain name runs.
func useFlavour(t *testing.T, flavour string) {
	t.Helper()
	path, err := exec.LookPath(flavour)
	if err != nil {
		t.Skip("no ", flavour, " on this host")
	}
	bin := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		target := strings.Replace(path, "iptables", name, 1)
		if err := os.Symlink(target, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

// startDocker starts an engine.
func startDocker(t *testing.T) *docker {
	t.Helper()
	d := &docker{t: t, dir: t.TempDir()}
	d.env = append(os.Environ(), "DOCKER_HOST=unix://"+d.dir+"/docker.sock", "DOCKER_CONFIG="+d.dir)
	d.run()
	tarball := new(bytes.Buffer)
	w := tar.NewWriter(tarball)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no busybox on this host")
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"busybox": program, "www/index.html": []byte("docker")} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	w.Close()
	cmd := exec.Command("docker", "import", "-", "sbt")
	cmd.Env, cmd.Stdin = d.env, tarball
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docker import: %v\n%s", err, out)
	}
	return d
}

// run starts dockerd and stops it when the test ends.
func (d *docker) run() {
	t := d.t
	log := new(bytes.Buffer)
	cmd := exec.Command("dockerd", "--data-root", d.dir+"/data", "--exec-root", d.dir+"/exec", "--pidfile", d.dir+"/pid",
		"-H", "unix://"+d.dir+"/docker.sock", "--cgroup-parent", "sbtdocker", "--storage-driver", "vfs")
	cmd.Env, cmd.Stdout, cmd.Stderr = d.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGTERM}
	started, stop := make(chan error), make(chan struct{})
	go func() {
		// The death signal is sent when the thread ends that started it, not
		// the process: keep that thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		<-stop
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		close(stop)
		if t.Failed() {
			t.Logf("dockerd:\n%s", log)
		}
		for _, group := range []string{"/sys/fs/cgroup/*/sbtdocker", "/sys/fs/cgroup/sbtdocker"} {
			dirs, _ := filepath.Glob(group)
			for _, dir := range dirs {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			}
		}
		// It leaves its bridge, and its rules, to the next one.
		for _, save := range []string{"nft", "legacy"} {
			for _, table := range []string{"filter", "nat"} {
				_ = exec.Command("iptables-"+save, "-t", table, "-F").Run()
				_ = exec.Command("iptables-"+save, "-t", table, "-X").Run()
			}
			_ = exec.Command("iptables-"+save, "-P", "FORWARD", "ACCEPT").Run()
		}
		run(t, "ip", "link", "del", "docker0")
	})
	deadline := time.Now().Add(60 * time.Second)
	for exec.Command("docker", "-H", "unix://"+d.dir+"/docker.sock", "info").Run() != nil {
		if time.Now().After(deadline) {
			t.Fatal("dockerd does not start")
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (d *docker) cli(args ...string) string {
	d.t.Helper()
	cmd := exec.Command("docker", args...)
	cmd.Env = d.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// works checks that a container of Docker's reaches the internet and is
// reached at its published port.
func (d *docker) works(wan *namespace) {
	d.t.Helper()
	out := d.cli("run", "--rm", "sbt", "/busybox", "timeout", "5", "/busybox", "nc", "198.51.100.2", "80")
	if !strings.HasPrefix(out, "198.51.100.1:") {
		d.t.Errorf("the internet saw Docker's container as %q; want the host's address", out)
	}
	for _, from := range []*namespace{nil, wan} {
		if out, err := ask(from, "198.51.100.1:18081", get); err != nil || !strings.HasSuffix(out, "docker") {
			d.t.Errorf("Docker's published port answers %q, %v", out, err)
		}
	}
}

// TestBesideDocker lets our network and Docker's come up in either order, with
// either flavour of iptables: both must work, and Docker's rules must stay as
// they are.
func TestBesideDocker(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: runs dockerd")
	}
	if os.Getenv("SANDBOX_VM") != "" {
		t.Skip("in the virtual machine the tests' time is too short for four engines")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("no dockerd on this host")
	}
	for _, flavour := range []string{"iptables-nft", "iptables-legacy"} {
		for _, first := range []string{"docker", "sandbox"} {
			t.Run(flavour+"/"+first+" first", func(t *testing.T) { besideDocker(t, flavour, first == "docker") })
		}
	}
}

func besideDocker(t *testing.T, flavour string, dockerFirst bool) {
	ctx := context.Background()
	useFlavour(t, flavour)
	// As on a fresh host, Docker turns forwarding on, and then drops what it
	// does not forward itself.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	var n *Network
	var d *docker
	if dockerFirst {
		d = startDocker(t)
		if policy := run(t, flavour, "-S", "FORWARD"); !strings.Contains(policy, "-P FORWARD DROP") {
			t.Errorf("Docker leaves FORWARD open, which makes this test easy:\n%s", policy)
		}

	}
	n = newNetwork(t)
	if err := n.Up(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if !dockerFirst {
		d = startDocker(t)
		// Not every Docker does when forwarding is on already.
		run(t, flavour, "-P", "FORWARD", "DROP")

	}
	t.Logf("backend %s", n.Status().Firewall)

	wan := newNamespace(t)
	run(t, "ip", "link", "add", "sbtwan", "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(wan.cmd.Process.Pid))
	t.Cleanup(func() { run(t, "ip", "link", "del", "sbtwan") })
	run(t, "ip", "addr", "add", "198.51.100.1/24", "dev", "sbtwan")
	run(t, "ip", "link", "set", "sbtwan", "up")
	wan.in(t, func() error {
		run(t, "ip", "addr", "add", "198.51.100.2/24", "dev", "eth0")
		run(t, "ip", "link", "set", "eth0", "up")
		return nil
	})
	serve(t, wan)
	d.cli("run", "-d", "-p", "18081:80", "sbt", "/busybox", "httpd", "-f", "-h", "/www")
	t.Cleanup(func() { d.cli("rm", "-f", d.cli("ps", "-q")) })
	withContainer := dockerRules(t, flavour)
	d.works(wan)

	one, _ := attach(t, n, 1, "one", nil)
	two, _ := attach(t, n, 2, "two", nil)
	serve(t, one)
	if err := n.Publish(ctx, id(1), []api.PortMapping{{HostPort: 18082, ContainerPort: 80, Protocol: "tcp"}}, nil); err != nil {
		t.Fatal(err)
	}
	if from, err := dial(one, "198.51.100.2:80"); err != nil || !strings.HasPrefix(from, "198.51.100.1:") {
		t.Errorf("the internet saw our container as %q, %v", from, err)
	}
	if from, err := dial(two, "10.89.0.2:80"); err != nil || !strings.HasPrefix(from, "10.89.0.3:") {
		t.Errorf("our container saw its neighbour as %q, %v", from, err)
	}
	for from, name := range map[*namespace]string{nil: "the host", wan: "the internet", one: "the container itself", two: "its neighbour"} {
		if _, err := dial(from, "198.51.100.1:18082"); err != nil {
			t.Errorf("our published port from %s: %v", name, err)
		}
	}
	if out, err := ask(two, "198.51.100.1:18081", get); err != nil || !strings.HasSuffix(out, "docker") {
		t.Errorf("Docker's published port from our container: %q, %v", out, err)
	}
	out := d.cli("run", "--rm", "sbt", "/busybox", "timeout", "5", "/busybox", "nc", "198.51.100.1", "18082")
	if out == "" {
		t.Error("our published port does not answer Docker's container")
	}
	d.works(wan)
	if after := dockerRules(t, flavour); after != withContainer {
		t.Errorf("Docker's rules beside ours:\n%s\nbefore:\n%s", after, withContainer)
	}
	detach(t, n, 1)
	detach(t, n, 2)
	if err := n.Down(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if rules := run(t, flavour+"-save"); strings.Contains(strings.ToLower(rules), network.Label) {
		t.Errorf("our rules after Down:\n%s", rules)
	}
	d.works(wan)
}

// dockerRules are the rules of the host but for ours.
func dockerRules(t *testing.T, flavour string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(run(t, flavour+"-save")) {
		if (strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":DOCKER")) && !strings.Contains(line, "SANDBOX-") {
			b.WriteString(line)
		}
	}
	return b.String()
}
