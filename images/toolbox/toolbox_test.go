// Package toolbox holds the test of the toolbox image; see README.md.
package toolbox

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/overlay"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

func build(t *testing.T, out string) []byte {
	t.Helper()
	cmd := exec.Command("../../scripts/build-toolbox", out)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestToolbox(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if os.Getenv("SANDBOX_VM") != "" {
		t.Skip("the virtual machine has no Go to build with; the image is the same")
	}
	tmp := t.TempDir()
	data := build(t, filepath.Join(tmp, "one"))
	if !bytes.Equal(data, build(t, filepath.Join(tmp, "two"))) {
		t.Error("built twice, it is not the same")
	}
	if len(data) > 5<<20 {
		t.Errorf("%d bytes: too much for every copy of sandbox to carry", len(data))
	}

	store, err := image.Open(state.Dirs{Root: tmp})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	archive, err := os.Open(filepath.Join(tmp, "one"))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	img, err := store.EnsureBuiltin(t.Context(), archive)
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != "toolbox:latest" || img.Source != image.SourceBuiltin || len(img.Manifest.Layers) != 3 || len(img.Config.History) != 3 {
		t.Errorf("image: %+v", img)
	}
	lower, err := store.Unpack(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(tmp, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := overlay.Mount(root, lower, "", "", overlay.Options{}, nil); err != nil {
		t.Fatal(err)
	}
	defer overlay.Unmount(root, nil)

	for command, want := range map[string]string{
		"ping -c 1 -W 1 localhost":                 "1 packets received",
		"id learner":                               "uid=1000(learner) gid=1000(learner)",
		"cd /tmp && stat -c %a . /root":            "1777\n700",
		". /etc/os-release; echo $ID":              "toolbox",
		"stress --cpu 1 --timeout 100ms":           "of CPU in",
		"cat /usr/share/licenses/*/S*":             "apt-get source busybox=",
		"ls /usr/share/licenses/*":                 "GPL-2",
		"which ps mount wget nc vi sh":             "/bin/ps\n/bin/mount\n/usr/bin/wget\n/usr/bin/nc\n/bin/vi\n/bin/sh",
		"readlink /bin/sh; readlink /usr/bin/wget": "busybox\n../../bin/busybox",
		"which nslookup ping ip unshare":           "/usr/bin/nslookup\n/bin/ping\n/sbin/ip\n/usr/bin/unshare",
		`find / -xdev -type l ! -exec test -e {} \; -print | grep -v mtab; true`: "",
	} {
		cmd := exec.Command("/bin/sh", "-c", command)
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		cmd.Dir = "/"
		cmd.Env = img.Config.Config.Env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
		if got := strings.TrimSpace(string(out)); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: got %q, want %q", command, got, want)
		}
	}
}

// The Dockerfile compiles stress by itself, with the modules that sandbox has.
func TestStressModule(t *testing.T) {
	for ours, theirs := range map[string]string{"stress.mod": "../../go.mod", "stress.sum": "../../go.sum"} {
		own, err := os.ReadFile(ours)
		if err != nil {
			t.Fatal(err)
		}
		all, err := os.ReadFile(theirs)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for line := range strings.Lines(string(own)) {
			_, module, ok := strings.Cut(line, "golang.org/")
			if !ok {
				continue
			}
			found++
			if !strings.Contains(string(all), "golang.org/"+module) {
				t.Errorf("%s: %q is not in %s", ours, strings.TrimSpace(line), theirs)
			}
		}
		if found == 0 {
			t.Errorf("%s names no module", ours)
		}
	}
}
