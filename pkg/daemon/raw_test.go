package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/client"
	"github.com/sandboxlabs/sandbox/pkg/embedded"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/internals"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"go.uber.org/zap"
)

// maxRSS is what the daemon may take with 20 containers, in KiB.
const maxRSS = 40 << 10

// offline keeps containers off the network, which these tests must not touch.
type offline struct{ *raw.Engine }

func (e offline) Create(ctx context.Context, spec api.ContainerSpec, trace *explain.Tracer) (api.Container, error) {
	spec.Network.Mode = "none"
	return e.Engine.Create(ctx, spec, trace)
}

var _ engine.Engine = offline{}

// rawDaemon is a daemon over the real engine, as a process of its own that can
// be killed. This binary is also its sandbox-runtime.
func rawDaemon(root string) {
	dirs := state.Dirs{Root: filepath.Join(root, "lib"), Run: filepath.Join(root, "run")}
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	store, err := image.Open(dirs)
	if err != nil {
		fail(err)
	}
	eng := raw.New(raw.Config{Dirs: dirs, Images: store, Log: zap.NewNop(), CgroupParent: "/" + filepath.Base(root)})
	none := func(context.Context) error { return nil }
	item := func(context.Context) (api.StatusItem, error) { return api.StatusItem{State: stack.StateUp}, nil }
	graph, err := stack.New(internals.New(internals.Config{
		Dirs: dirs, Engine: offline{eng}, Toolbox: "toolbox",
		Preflight: func(context.Context) ([]api.Finding, error) { return nil, nil },
		Runtime: func() (fs.File, error) {
			self, err := os.Executable()
			if err != nil {
				return nil, err
			}
			return os.Open(self)
		},
		Network: internals.Part{
			Ensure: func(context.Context, stack.Progress) (string, error) { return "none", nil },
			Remove: none, Status: item,
		},
		Image: internals.Part{
			Ensure: func(ctx context.Context, _ stack.Progress) (string, error) {
				f, err := embedded.Open(embedded.Toolbox)
				if err != nil {
					return "", err
				}
				defer f.Close()
				img, err := store.EnsureBuiltin(ctx, f)
				return img.Name, err
			},
			Status: item,
		},
		Purge: eng.Purge,
	}))
	if err != nil {
		fail(err)
	}
	err = New(Config{
		Dirs: dirs, Engine: offline{eng}, Stack: graph, Log: zap.NewNop(), Prepare: eng.Sweep,
	}).Run(context.Background())
	if err = errors.Join(err, eng.Close()); err != nil {
		fail(err)
	}
	os.Exit(0)
}

// hiddenCommands are what this binary is when it is not the test.
func hiddenCommands() {
	if root := os.Getenv("SBT_RAW_DAEMON"); root != "" && len(os.Args) == 1 {
		rawDaemon(root)
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "shim":
			os.Exit(shim.Main(os.Args[2:]))
		case "init":
			os.Exit(shim.Init(os.Args[2:]))
		}
	}
}

// rawTest is a rawDaemon with its client.
type rawTest struct {
	*client.Client
	t    *testing.T
	root string
	dirs state.Dirs
	cmd  *exec.Cmd
}

func startRaw(t *testing.T) *rawTest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to run containers")
	}
	f, err := embedded.Open(embedded.Toolbox)
	if err != nil {
		t.Skip(err)
	}
	f.Close()
	dirs := tempDirs(t)
	d := &rawTest{Client: client.New(dirs.Socket()), t: t, root: filepath.Dir(dirs.Root), dirs: dirs}
	t.Cleanup(d.cleanUp)
	d.spawn()
	d.change(d.Up(t.Context(), api.UpOptions{}))
	return d
}

func (d *rawTest) spawn() {
	d.t.Helper()
	d.cmd = exec.Command("/proc/self/exe")
	d.cmd.Env = append(os.Environ(), "SBT_RAW_DAEMON="+d.root)
	d.cmd.Stdout, d.cmd.Stderr = os.Stderr, os.Stderr
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	eventually(d.t, "the daemon answers", func() bool { _, err := d.Version(d.t.Context()); return err == nil })
}

func (d *rawTest) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// cleanUp takes away what a test that failed has left.
func (d *rawTest) cleanUp() {
	defer d.Close()
	if d.cmd == nil || d.cmd.ProcessState != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if all, err := d.ListContainers(ctx); err == nil {
		for _, c := range all {
			_ = d.RemoveContainer(ctx, c.ID, true) // the purge says what is left
		}
	}
	ref, err := d.Down(ctx, api.DownOptions{Purge: true})
	if err == nil {
		_, err = d.FollowChange(ctx, ref.ID, nil)
	}
	if err != nil {
		d.t.Errorf("clean up: %v", err)
	}
	d.kill()
}

// change follows a change to its good end.
func (d *rawTest) change(ref api.ChangeRef, err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
	c, err := d.FollowChange(d.t.Context(), ref.ID, nil)
	if err != nil || c.Status != api.Done {
		d.t.Fatalf("change %s: %+v %v, %v", ref.ID, c, c.Error, err)
	}
}

// purge ends the daemon and proves that nothing is left.
func (d *rawTest) purge() {
	d.t.Helper()
	d.change(d.Down(d.t.Context(), api.DownOptions{Purge: true}))
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("the daemon after a purge: %v", err)
	}
	if left, err := os.ReadDir(d.root); err != nil || len(left) != 0 {
		d.t.Errorf("left of the state: %v, %v", left, err)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte(d.root+"/")) {
			d.t.Errorf("process left: %q", b)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(d.root)) {
		d.t.Errorf("mounts are left, or not to be seen: %v", err)
	}
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(d.root))
	more, _ := filepath.Glob("/sys/fs/cgroup/" + filepath.Base(d.root))
	if len(cgroups)+len(more) != 0 {
		d.t.Errorf("cgroups left: %v %v", cgroups, more)
	}
}

func script(text string) api.ContainerSpec {
	return api.ContainerSpec{Image: "toolbox", Command: []string{"sh", "-c", text}}
}

func (d *rawTest) run(spec api.ContainerSpec) (api.Container, error) {
	c, err := d.CreateContainer(d.t.Context(), spec, nil)
	if err == nil {
		c, err = d.StartContainer(d.t.Context(), c.ID, nil)
	}
	return c, err
}

func TestRawRun(t *testing.T) {
	d := startRaw(t)
	ctx := t.Context()
	for range 5 {
		spec := script("cat; echo problem >&2; exit 3")
		spec.AutoRemove, spec.OpenStdin = true, true
		explained := 0
		c, err := d.CreateContainer(ctx, spec, func(f api.Frame) {
			if f.Explain != nil {
				explained++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		s, err := d.Attach(ctx, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.StartContainer(ctx, c.ID, func(api.Frame) {}); err != nil {
			t.Fatal(err)
		}
		text := strings.Repeat("all of it\n", 20000)
		go func() {
			_, _ = io.WriteString(s, text)
			_ = s.CloseWrite()
		}()
		var stdout, stderr bytes.Buffer
		if err := s.CopyOutput(&stdout, &stderr); err != nil || stdout.String() != text || stderr.String() != "problem\n" {
			t.Errorf("%d bytes of %d, %q, %v", stdout.Len(), len(text), &stderr, err)
		}
		if exit, err := s.Wait(ctx); err != nil || exit.Code != 3 {
			t.Errorf("exit: %+v, %v", exit, err)
		}
		s.Close()
		if explained == 0 {
			t.Error("nothing was explained")
		}
	}
	if all, err := d.ListContainers(ctx); err != nil || len(all) != 0 {
		t.Errorf("left: %v, %v", all, err)
	}

	c, err := d.run(script("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Exec(ctx, c.ID, api.ExecSpec{Command: []string{"sh", "-c", "read x; stty size; exit 5"}, TTY: true, OpenStdin: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Resize(ctx, 33, 99); err != nil {
		t.Error(err)
	}
	_, _ = io.WriteString(s, "go\n")
	var out bytes.Buffer
	if err := s.CopyOutput(&out, io.Discard); err != nil || !strings.Contains(out.String(), "33 99") {
		t.Errorf("%q, %v", &out, err)
	}
	if exit, err := s.Wait(ctx); err != nil || exit.Code != 5 {
		t.Errorf("exec: %+v, %v", exit, err)
	}
	s.Close()

	var lines []string
	follow, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = d.Logs(follow, c.ID, client.LogOptions{Follow: true, Tail: -1}, func(l api.LogLine) error {
		lines = append(lines, l.Data)
		return d.StopContainer(ctx, c.ID, client.SpecGrace) // which ends the logs
	})
	if err != nil || strings.Join(lines, "") != "ready\n" {
		t.Errorf("logs: %q, %v", lines, err)
	}
	if exit, err := d.WaitContainer(ctx, c.ID); err != nil || exit.Code != 9 {
		t.Errorf("stopped: %+v, %v", exit, err)
	}
	d.purge()
}

// TestRawKill9: the daemon is killed while 20 containers run. Some end without
// it, some after; all exit codes are kept.
func TestRawKill9(t *testing.T) {
	d := startRaw(t)
	const n = 20
	ids := make([]string, n)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			end := "sleep 1"
			if i%2 == 1 {
				end = "trap 'exit " + fmt.Sprint(i) + "' TERM; while :; do sleep 0.1; done"
			}
			spec := script(fmt.Sprintf("%s; exit %d", end, i))
			spec.Name = fmt.Sprintf("sbt-%d", i)
			spec.AutoRemove = i == 7
			c, err := d.run(spec)
			if err != nil {
				t.Error(err)
			}
			ids[i] = c.ID
		})
	}
	wg.Wait()
	if rss := rssOf(t, d.cmd.Process.Pid); rss > maxRSS && !raceEnabled {
		t.Errorf("the daemon takes %d KiB with %d containers", rss, n)
	} else {
		t.Logf("RSS with %d containers: %d KiB", n, rss)
	}
	d.kill()
	time.Sleep(1500 * time.Millisecond) // the even ones end
	d.spawn()
	all, err := d.ListContainers(t.Context())
	if err != nil || len(all) != n {
		t.Fatalf("%d containers, %v", len(all), err)
	}
	for i, id := range ids {
		if i%2 == 1 {
			if err := d.StopContainer(t.Context(), id, 10*time.Second); err != nil {
				t.Errorf("stop %d: %v", i, err)
			}
		}
		if exit, err := d.WaitContainer(t.Context(), id); err != nil || exit.Code != i {
			t.Errorf("container %d: %+v, %v", i, exit, err)
		}
	}
	if _, err := d.InspectContainer(t.Context(), ids[7]); err == nil {
		t.Error("the one with AutoRemove is still there")
	}
	d.purge()
}

// TestRawDisconnect: clients that go away at any moment of a create, and
// daemons that are killed at any moment of an up, leave nothing.
func TestRawDisconnect(t *testing.T) {
	d := startRaw(t)
	undone := 0
	for range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(20000))*time.Microsecond)
		c, err := d.CreateContainer(ctx, script("true"), nil)
		cancel()
		if err != nil {
			if undone++; err.Error() != context.DeadlineExceeded.Error() {
				t.Errorf("a create that was cut off: %v", err)
			}
		} else if err := d.RemoveContainer(t.Context(), c.ID, false); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d of 40 creates were cut off", undone)
	// At once: a create returns when it is undone.
	if all, err := d.ListContainers(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("containers are left: %+v, %v", all, err)
	}
	if files, err := os.ReadDir(d.dirs.Containers()); err != nil || len(files) != 0 {
		t.Errorf("folders are left: %v, %v", files, err)
	}
	for range 5 {
		ref, err := d.Up(t.Context(), api.UpOptions{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		d.kill()
		d.spawn()
		d.change(ref, nil)
	}
	if all, err := d.ListContainers(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	d.purge()
}

// rssOf reads a process's resident set, in KiB.
func rssOf(t *testing.T, pid int) (kib int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	fmt.Sscan(after, &kib)
	return kib
}
