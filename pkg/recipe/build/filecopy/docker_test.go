package filecopy

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/sandboxlabs/sandbox/pkg/image"
)

// dockerd is a Docker engine of the test's own.
type dockerd struct {
	client string // a docker program that can use BuildKit
	dir    string
}

func startDocker(t *testing.T) *dockerd {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a Docker engine")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip(err)
	}
	d := &dockerd{dir: t.TempDir()}
	settings := filepath.Join(d.dir, "daemon.json") // not the machine's own
	if err := os.WriteFile(settings, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	// No bridge and no rules: this daemon leaves the host's network alone.
	cmd := exec.Command("dockerd", "--config-file", settings, "--data-root", d.dir+"/data", "--exec-root", d.dir+"/exec",
		"--pidfile", d.dir+"/pid", "-H", d.host(), "--storage-driver", "vfs",
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
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
	for {
		if _, err := os.Stat(d.dir + "/docker.sock"); err == nil {
			break
		}
		select {
		case <-ended:
			t.Fatal("dockerd has ended")
		case <-ctx.Done():
			t.Fatal("dockerd does not answer")
		case <-time.After(50 * time.Millisecond):
		}
	}
	d.findClient(t)
	return d
}

func (d *dockerd) host() string { return "unix://" + d.dir + "/docker.sock" }

// findClient looks for a docker that builds by BuildKit: since 23.0 that needs a
// plugin, which may not be there, while another in PATH may be older.
func (d *dockerd) findClient(t *testing.T) {
	t.Helper()
	context := t.TempDir()
	makeTree(t, context, "a")
	var errs []error
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		d.client = filepath.Join(dir, "docker")
		if _, err := exec.LookPath(d.client); err != nil {
			continue
		}
		_, err := d.build(t, context, "FROM scratch\nCOPY a /a\n")
		if err == nil {
			return
		}
		errs = append(errs, err)
	}
	t.Skip("no docker in PATH builds by BuildKit:", errors.Join(errs...))
}

// build returns the tree that a Dockerfile makes.
func (d *dockerd) build(t *testing.T, context, dockerfile string) (string, error) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "tree.tar")
	cmd := exec.CommandContext(t.Context(), d.client, "--config", d.dir, "-H", d.host(), "build", "--progress", "plain",
		"--no-cache", "-o", "type=tar,dest="+out, "-f", "-", context)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
	cmd.Stdin = strings.NewReader(dockerfile)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", errors.New(string(msg))
	}
	tree, err := os.Open(out)
	if err != nil {
		return "", err
	}
	defer tree.Close()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		return "", err
	}
	defer dir.Close()
	return dir.Name(), image.Extract(t.Context(), tree, dir, image.ExtractOptions{Limits: image.DefaultLimits(), Size: 1 << 20})
}

// buildByCopy does what Docker does with a Dockerfile of FROM scratch, COPY and ADD.
func buildByCopy(t *testing.T, folder, dockerfile string) (string, error) {
	t.Helper()
	parsed, err := parser.Parse(strings.NewReader(dockerfile))
	if err != nil {
		t.Fatal(err)
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	ignore, err := LoadIgnore(folder, "")
	if err != nil {
		t.Fatal(err)
	}
	trees := map[string]string{}
	root := ""
	for _, stage := range stages {
		root = t.TempDir()
		trees[stage.Name] = root
		for _, c := range stage.Commands {
			from := Tree{Root: folder, Ignore: ignore}
			var opts Options
			var paths instructions.SourcesAndDest
			switch c := c.(type) {
			case *instructions.CopyCommand:
				paths = c.SourcesAndDest
				opts = Options{Chown: c.Chown, Chmod: c.Chmod, KeepOwner: c.From != ""}
				if c.From != "" {
					from = Tree{Root: trees[c.From]}
				}
			case *instructions.AddCommand:
				paths = c.SourcesAndDest
				opts = Options{Chown: c.Chown, Chmod: c.Chmod, Extract: true}
			}
			opts.Dir = len(paths.SourcePaths) > 1
			if err := Copy(t.Context(), from, paths.SourcePaths, root, paths.DestPath, opts); err != nil {
				return root, err
			}
		}
	}
	return root, nil
}

// dated is listTree with the times of what is older than this test.
func dated(t *testing.T, dir string) []string {
	t.Helper()
	lines := listTree(t, dir)
	for i, line := range lines {
		info, err := os.Lstat(filepath.Join(dir, strings.Fields(line)[3]))
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(info.ModTime()) > time.Hour && !info.IsDir() {
			lines[i] += info.ModTime().UTC().Format(" 2006-01-02T15:04:05")
		}
	}
	return lines
}

// dockerContext is what the cases of TestCopyAsDocker copy from.
func dockerContext(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	makeTree(t, folder,
		"a.txt", "b.txt mode=0600", "run mode=04755", "c.o",
		"dir/ mode=0711", "dir/f owner=5:6", "dir/g => dir/f", "dir/sub/ mode=0700", "dir/sub/h", "dir/empty/",
		"dir/up -> ../a.txt", "dir/abs -> /etc/passwd", "dir/dangling -> nowhere",
		"link.txt -> a.txt", "linkdir -> dir", "absdir -> /dir/sub", "loop -> loop", "out -> ../../../dir/sub/h",
		"other/sub/i", "other/f=second", "other/up=no_link", "spät", "in[1].x",
		"ignored/a", "ignored/keep/b", "ignored/keep/c", "deep/x/y/z.o", "deep/x/y/z",
		"etc/passwd=bob:x:1000:1001::/:", "etc/group=staff:x:50:",
	)
	old := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, name := range []string{"a.txt", "dir/f", "other/f", "run"} {
		if err := os.Chtimes(filepath.Join(folder, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	ignore := "**/*.o\nignored\n!ignored/keep\nignored/keep/c\n"
	if err := os.WriteFile(filepath.Join(folder, ".dockerignore"), []byte(ignore), 0o600); err != nil {
		t.Fatal(err)
	}
	entry := func(name string, mode int64) tar.Header {
		return tar.Header{Name: name, Mode: mode, Uid: 3, Gid: 4, ModTime: old}
	}
	tarball := tarOf(t, entry("t/", 0o711), entry("t/a", 0o640), entry("./t/sub/b", 0o600))
	if err := os.WriteFile(filepath.Join(folder, "t.tar"), tarball, 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

// TestCopyAsDocker: the same instructions, the same tree. Left out is what
// BuildKit does otherwise since: Docker 20.10 does not copy FIFOs, takes no
// special bits from --chmod, nor has it for parents, and does not chown what it
// unpacks.
func TestCopyAsDocker(t *testing.T) {
	d := startDocker(t)
	folder := dockerContext(t)
	cases := []string{
		"COPY a.txt /x",
		"COPY a.txt /x/",
		"COPY a.txt x/y",
		"COPY a.txt /",
		"COPY a.txt b.txt /x/",
		"COPY run /bin/run",
		"COPY *.txt /x/",
		"COPY nothing* /x/",
		"COPY d*/s* /x/",
		"COPY dir /x",
		"COPY dir/ /x/",
		"COPY dir/. /x/",
		"COPY dir /x/y/z/",
		"COPY . /",
		"COPY . /x/",
		"COPY ./dir/../dir/sub /x",
		"COPY ../../dir/sub /x",
		"COPY /dir/sub /x",
		"COPY dir other /x/",
		"COPY dir /x\nCOPY dir/sub /x",
		"COPY dir/f dir/g /x/",
		"COPY link.txt /x/",
		"COPY link.txt /x",
		"COPY linkdir /x",
		"COPY linkdir/sub /x",
		"COPY absdir /x",
		"COPY out /x",
		"COPY l*.txt /x/",
		"COPY dir/up /x",
		"COPY spät /x/",
		"COPY in[[]1].x /x/",
		"COPY ignored /x/",
		"COPY ignored/keep/b /x/",
		"COPY ignored/* /x/",
		"COPY deep /x/",
		"COPY dir /x\nCOPY --chmod=640 dir /x",
		"COPY --chmod=755 a.txt /x/y",
		"COPY --chown=5 dir /x/y",
		"COPY --chown=5:6 a.txt /x/y/",
		"COPY --chown=root a.txt /x/y/",
		"COPY etc /etc\nCOPY --chown=bob dir /x",
		"COPY etc /etc\nCOPY --chown=bob:staff run /x",
		"COPY etc /etc\nCOPY --chown=7:staff a.txt /x",
		"COPY a.txt /x\nCOPY b.txt /x",
		"COPY dir /x\nCOPY a.txt /x/sub",
		"COPY dir /x\nCOPY a.txt /x/up",
		"COPY dir /x\nCOPY a.txt /x/dangling",
		"COPY dir /x\nCOPY a.txt /x/dangling/b",
		"COPY dir /x\nCOPY a.txt /x/abs",
		"COPY other /x\nCOPY dir/up /x/up/",
		"COPY . /\nCOPY other /linkdir",
		"COPY . /\nCOPY other /linkdir/",
		"COPY . /\nCOPY other/f /absdir/",
		"COPY . /\nCOPY a.txt /linkdir/new/f",
		"COPY . /\nCOPY . /",
		"COPY dir /x\nCOPY other /x",
		"COPY other /x\nCOPY dir /x",
		"COPY linkdir /x\nCOPY other/sub /x/f",
		"COPY nothing /x/",
		"COPY c.o /x/",
		"COPY loop /x",
		"COPY dir/dangling /x",
		"COPY ignored/a /x/",
		"COPY ignored/keep/c /x/",
		"COPY a.txt /x\nCOPY dir /x",
		"COPY a.txt /x\nCOPY b.txt /x/y",
		"COPY . /\nCOPY a.txt /loop",
		"ADD a.txt /x/",
		"ADD dir /x",
		"ADD t.tar /x",
		"ADD t.tar /x/",
		"ADD t.tar a.txt /x/",
		"ADD t.tar /\nADD t.tar /t",
		"COPY t.tar /x/",
		"COPY --from=all / /",
		"COPY --from=all /dir /linkdir /x/",
		"COPY --from=all --chown=9 /dir/f /absdir/h /y/",
		"COPY --from=all c.o /x",
	}
	all := "FROM scratch AS all\nCOPY --chown=5:6 . /\n"

	// What works is built at once, each case a stage, and gathered.
	stages, gather := all, "FROM scratch\n"
	ours := map[string]string{}
	for i, c := range cases {
		root, err := buildByCopy(t, folder, all+"FROM scratch\n"+c)
		if err != nil {
			t.Run(c, func(t *testing.T) {
				_, terr := d.build(t, folder, all+"FROM scratch\n"+c)
				if terr == nil {
					t.Errorf("Docker copies that; here: %v", err)
				}
			})
			continue
		}
		ours[c] = root
		stages += fmt.Sprintf("FROM scratch AS case%d\n%s\n", i, c)
		gather += fmt.Sprintf("COPY --from=case%d / /%d/\n", i, i)
	}
	theirs, err := d.build(t, folder, stages+gather)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		if ours[c] == "" {
			continue
		}
		t.Run(c, func(t *testing.T) {
			got, want := dated(t, ours[c]), dated(t, filepath.Join(theirs, fmt.Sprint(i)))
			if !slices.Equal(got, want) {
				t.Errorf("only copied:\n%s\nonly Docker has:\n%s", without(got, want), without(want, got))
			}
		})
	}
}

// without are the lines of a that b does not have.
func without(a, b []string) string {
	a = slices.DeleteFunc(slices.Clone(a), func(line string) bool { return slices.Contains(b, line) })
	return strings.Join(a, "\n")
}
