package layer

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/image/internal/tartest"
)

var (
	file, dir, symlink, hardlink = tartest.File, tartest.Dir, tartest.Symlink, tartest.Hardlink
	tarOf                        = tartest.Of
)

// tempDir is on the disk of the virtual machine when in it, since the layers
// of its root file system are hostfs.
func tempDir(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("layers have owners: this needs root")
	}
	parent := ""
	if os.Getenv("SANDBOX_VM") != "" {
		parent = "/mnt/disk"
	}
	dir, err := os.MkdirTemp(parent, "sbt-layer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// listing is every path below dir, relative to it.
func listing(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err == nil && p != dir {
			names = append(names, strings.TrimPrefix(p, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// The layers of an image merged by overlayfs look as image-spec says.
func TestExtractWhiteouts(t *testing.T) {
	for name, whiteout := range map[string]func(int, string) error{"device": makeWhiteout, "xattr": makeXattrWhiteout} {
		t.Run(name, func(t *testing.T) {
			if name == "xattr" && os.Getenv("SANDBOX_VM") != "" {
				t.Skip("this kernel's overlayfs (before 6.7) has no xattr whiteouts")
			}
			tmp := tempDir(t)
			layers := [][]byte{
				tarOf(t, file("keep", "1"), file("gone", "1"), dir("d"), file("d/a", "1"), file("d/b", "1"), dir("o"), file("o/old", "1"),
					dir("again"), file("again/old", "1"), dir("both"), file("both/old", "1"), file("file", "1")),
				tarOf(t, file(".wh.gone", ""), file("d/.wh.a", ""), dir("o"), file("o/.wh..wh..opq", ""), file("o/new", "2"),
					// Removed and made anew, in either order.
					file(".wh.again", ""), dir("again"), file("again/new", "2"),
					dir("both"), file("both/new", "2"), file(".wh.both", ""),
					file("file", "2"), file(".wh.file", ""),
					file(".wh..wh.plnk", ""), dir(".wh..wh.orph")),
			}
			var lower []string
			for i, data := range layers {
				root := filepath.Join(tmp, strconv.Itoa(i))
				if err := os.Mkdir(root, 0o755); err != nil {
					t.Fatal(err)
				}
				x, err := newExtractor(root, Limits{Files: 100, Bytes: 1 << 20})
				if err != nil {
					t.Fatal(err)
				}
				x.whiteout = whiteout
				if err := x.extract(bytes.NewReader(data)); err != nil {
					t.Fatal(err)
				}
				x.close()
				lower = append([]string{root}, lower...)
			}
			target := mount(t, lower)
			want := "again again/new both both/new d d/b file keep o o/new"
			if got := strings.Join(listing(t, target), " "); got != want {
				t.Errorf("merged: %s\nwant:   %s", got, want)
			}
			if b, err := os.ReadFile(target + "/file"); string(b) != "2" {
				t.Errorf("file made anew: %q, %v", b, err)
			}
		})
	}
}

// A sparse file claims more than its tar holds: the claim counts.
func TestExtractCountsSparseFiles(t *testing.T) {
	x, err := newExtractor(tempDir(t), Limits{Files: 10, Bytes: 1 << 20, Words: "1 MiB"})
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	if err := x.charge(1, 1<<40); !errdefs.IsInvalidArgument(err) {
		t.Errorf("1 TiB within 1 MiB: %v", err)
	}
	if err := x.charge(1, 1<<63-1); !errdefs.IsInvalidArgument(err) {
		t.Errorf("overflow: %v", err)
	}
	if err := x.charge(1, -1); !errdefs.IsInvalidArgument(err) {
		t.Errorf("negative size: %v", err)
	}
}
