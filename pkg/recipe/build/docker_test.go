package build_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

// TestDocker builds each Dockerfile of testdata/docker with Docker, too: files
// and configuration must be the same. Beside the build context the archives may
// hold "setup", a shell script that runs in the context; "args", words of NAME=VALUE;
// "leftovers", mount points that older engines do not remove.
func TestDocker(t *testing.T) {
	d := startDocker(t)
	b := newBuilder(t)
	archives, err := filepath.Glob("testdata/docker/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal(len(archives), err)
	}
	for _, archive := range archives {
		name := strings.TrimSuffix(filepath.Base(archive), ".txtar")
		t.Run(name, func(t *testing.T) {
			dockerfile, dir, args, leftovers := unpackCase(t, archive)
			theirs := d.build(t, b, name, dir, args)
			o := build.Options{
				Dockerfile: dockerfile, ContextDir: dir, Names: []string{"ours/" + name}, Args: args,
			}
			r := &recorded{}
			o.Emit = r.emit
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			ours, err := b.Build(ctx, o)
			if err != nil {
				t.Fatalf("%v\n%s", err, r.output())
			}
			b.t = t
			compareTrees(t, b.tree(ours), b.tree(theirs), slices.Concat(mountPoints, leftovers))
			compareConfigs(t, b.config(ours), b.config(theirs))
		})
	}
}

// unpackCase writes the context of an archive, with busybox in it.
func unpackCase(t *testing.T, archive string) (dockerfile []byte, dir string, args map[string]string, leftovers []string) {
	t.Helper()
	a, err := txtar.ParseFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	dir, args = t.TempDir(), map[string]string{}
	setup := ""
	for _, f := range a.Files {
		switch f.Name {
		case "setup":
			setup = string(f.Data)
		case "leftovers":
			leftovers = strings.Fields(string(f.Data))
		case "args":
			for line := range strings.FieldsSeq(string(f.Data)) {
				k, v, _ := strings.Cut(line, "=")
				args[k] = v
			}
		default:
			writeTree(t, dir, map[string]string{f.Name: string(f.Data)})
			if f.Name == "Dockerfile" {
				dockerfile = f.Data
			}
		}
	}
	copyFile(t, busybox(t), filepath.Join(dir, "busybox"))
	if setup != "" {
		cmd := exec.Command("sh", "-eu", "-c", setup)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("setup: %v: %s", err, out)
		}
	}
	return dockerfile, dir, args, leftovers
}

// busybox is a static one.
func busybox(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip(err)
	}
	return path
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// docker is a private Docker engine.
type docker struct{ argv []string }

func startDocker(t testing.TB) *docker {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a daemon")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip(err)
	}
	// Debian's client builds with BuildKit by itself; newer ones want a plugin.
	client := "/usr/bin/docker"
	if _, err := os.Stat(client); err != nil {
		if client, err = exec.LookPath("docker"); err != nil {
			t.Skip(err)
		}
	}
	dir, err := os.MkdirTemp("", "sbt-dockerd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	settings := filepath.Join(dir, "daemon.json") // not the machine's own
	if err := os.WriteFile(settings, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &docker{argv: []string{client, "--config", dir, "-H", "unix://" + dir + "/docker.sock"}}
	cmd := exec.Command("dockerd", "--config-file", settings, "--data-root", dir+"/data", "--exec-root", dir+"/exec",
		"--pidfile", dir+"/pid", "-H", "unix://"+dir+"/docker.sock", "--cgroup-parent", "/"+filepath.Base(dir),
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
	var log strings.Builder
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &log, &log, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroups(filepath.Base(dir)) })
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
		if t.Failed() && testing.Verbose() {
			t.Log(log.String())
		}
	})
	deadline := time.Now().Add(time.Minute)
	for d.command(t, "version").Run() != nil {
		select {
		case <-ended:
			t.Skipf("dockerd does not run here: %s", log.String())
		case <-time.After(100 * time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatal("dockerd does not answer")
			}
		}
	}
	return d
}

// removeCgroups removes what dockerd leaves: its parent in every hierarchy.
func removeCgroups(name string) {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		roots, _ := filepath.Glob(pattern + name)
		for _, root := range roots {
			var dirs []string
			_ = filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					dirs = append(dirs, p)
				}
				return nil
			})
			for _, dir := range slices.Backward(dirs) { // the deepest first
				_ = os.Remove(dir)
			}
		}
	}
}

func (d *docker) command(t testing.TB, args ...string) *exec.Cmd {
	argv := append(slices.Clone(d.argv), args...)
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
	return cmd
}

func (d *docker) run(t testing.TB, args ...string) {
	t.Helper()
	if out, err := d.command(t, args...).CombinedOutput(); err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// build builds with Docker and brings the image into the builder's store.
func (d *docker) build(t *testing.T, b *builder, name, dir string, args map[string]string) image.Image {
	t.Helper()
	argv := []string{"build", "-q", "--network", "none", "-t", "docker/" + name, dir}
	for k, v := range args {
		argv = append(argv, "--build-arg", k+"="+v)
	}
	d.run(t, argv...)
	tar := filepath.Join(t.TempDir(), "image.tar")
	d.run(t, "save", "-o", tar, "docker/"+name)
	f, err := os.Open(tar)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	images, err := b.Store.Import(t.Context(), f, image.ImportOptions{})
	if err != nil || len(images) != 1 {
		t.Fatal(len(images), err)
	}
	return images[0]
}

// tree describes every file of an image.
func (b *builder) tree(img image.Image) map[string]string {
	b.t.Helper()
	files := map[string]string{}
	b.view(img, func(root string) { files = describe(b.t, root) })
	return files
}

func describe(t testing.TB, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	names := map[uint64][]string{} // by inode
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, root)
		d := fmt.Sprintf("mode %o owner %d:%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			d += fmt.Sprintf(" size %d sha256 %x", len(data), sha256.Sum256(data))
			if st.Nlink > 1 {
				names[st.Ino] = append(names[st.Ino], rel)
			}
			buf := make([]byte, 1024)
			if n, err := unix.Lgetxattr(p, "security.capability", buf); err == nil {
				d += fmt.Sprintf(" capabilities %x", buf[:n])
			}
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			d += " to " + to
		}
		// What the build itself has made has the time of the build.
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && time.Since(time.Unix(st.Mtim.Unix())) > 24*time.Hour {
			d += fmt.Sprintf(" from %d", st.Mtim.Sec)
		}
		files[rel] = d
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range names {
		for _, name := range same {
			files[name] += fmt.Sprintf(" same as %q", same)
		}
	}
	return files
}

// mountPoints are what Docker leaves in layers for the mounts of a RUN.
var mountPoints = []string{"/dev", "/proc", "/sys", "/etc/hosts", "/etc/resolv.conf"}

func compareTrees(t *testing.T, ours, theirs map[string]string, mountPoints []string) {
	t.Helper()
	for name, want := range theirs {
		got, ok := ours[name]
		switch {
		case got == want:
		case !ok && slices.Contains(mountPoints, name):
		case !ok && name == "/etc" && onlyMountPoints(theirs):
		default:
			t.Errorf("%s\n\tours:     %s\n\tdocker's: %s", name, got, want)
		}
	}
	for name, got := range ours {
		if _, ok := theirs[name]; !ok {
			t.Errorf("%s: %s: docker does not have it", name, got)
		}
	}
}

// onlyMountPoints: /etc is there for the sake of its mount points.
func onlyMountPoints(files map[string]string) bool {
	for name := range files {
		if strings.HasPrefix(name, "/etc/") && !slices.Contains(mountPoints, name) {
			return false
		}
	}
	return true
}

// config reads an image's configuration as Docker has it.
func (b *builder) config(img image.Image) (config dockerspec.DockerOCIImage) {
	b.t.Helper()
	f, err := b.Store.OpenBlob(img.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if err := json.NewDecoder(f).Decode(&config); err != nil {
		b.t.Fatal(err)
	}
	return config
}

func compareConfigs(t *testing.T, ours, theirs dockerspec.DockerOCIImage) {
	t.Helper()
	fields := func(c dockerspec.DockerOCIImage) map[string]any {
		b, err := json.Marshal(c.Config)
		m := map[string]any{}
		if err = errors.Join(err, json.Unmarshal(b, &m)); err != nil {
			t.Fatal(err)
		}
		m["author"], m["architecture"], m["os"] = c.Author, c.Architecture, c.OS
		for _, h := range c.History {
			instruction, _, _ := strings.Cut(h.CreatedBy, " ")
			m["history"] = append(asList(m["history"]), instruction)
		}
		return m
	}
	got, want := fields(ours), fields(theirs)
	for name := range want {
		if a, b := fmt.Sprint(got[name]), fmt.Sprint(want[name]); a != b {
			t.Errorf("config %s\n\tours:     %s\n\tdocker's: %s", name, a, b)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("config %s: %v: docker does not have it", name, got[name])
		}
	}
}

func asList(v any) []any {
	l, _ := v.([]any)
	return l
}
