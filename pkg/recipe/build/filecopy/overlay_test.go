package filecopy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCopyIntoLayer: over an overlay, what is copied is all that is in its upper
// directory, and what was below is merged with it.
func TestCopyIntoLayer(t *testing.T) {
	dir := t.TempDir()
	from, lower, upper := dir+"/from", dir+"/lower", dir+"/upper"
	makeTree(t, from, "usr/bin/x mode=04755", "usr/bin/y => usr/bin/x", "usr/lib/l -> x", "usr/new/f", "etc/conf=new", "usr/lib/z mode=0600")
	makeTree(t, lower, "usr/bin/old", "usr/lib/z=old", "etc/conf=old", "etc/other", "bin -> usr/bin", "untouched/f")
	merged := filepath.Join(dir, "merged")
	for _, d := range []string{upper, dir + "/work", merged} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Setxattr(from+"/usr/bin/x", "user.a", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+dir+"/work"); err != nil {
		t.Skip("this host has no overlayfs here: ", err)
	}
	defer func() {
		if err := unix.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := Copy(t.Context(), Tree{Root: from}, []string{"."}, merged, "/", Options{}); err != nil {
		t.Fatal(err)
	}
	if err := Copy(t.Context(), Tree{Root: from}, []string{"etc/conf"}, merged, "/bin/", Options{Chown: "1"}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"d 0755 0:0 etc", "f 0644 0:0 etc/conf new",
		"d 0755 0:0 usr", "d 0755 0:0 usr/bin", "f 0644 1:1 usr/bin/conf new", "f 4755 0:0 usr/bin/x usr/bin/x", "h 4755 0:0 usr/bin/y usr/bin/x",
		"d 0755 0:0 usr/lib", "l 0777 0:0 usr/lib/l x", "f 0600 0:0 usr/lib/z usr/lib/z", "d 0755 0:0 usr/new", "f 0644 0:0 usr/new/f usr/new/f",
	}
	if got := listTree(t, upper); !slices.Equal(got, want) {
		t.Errorf("the layer is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	value := make([]byte, 8)
	if n, err := unix.Getxattr(upper+"/usr/bin/y", "user.a", value); err != nil || string(value[:n]) != "1" {
		t.Errorf("xattr is %q, %v", value[:max(n, 0)], err)
	}
	if data, err := os.ReadFile(merged + "/usr/bin/old"); err != nil || string(data) != "usr/bin/old" {
		t.Errorf("below there is %q, %v", data, err)
	}
	// From a view of layers to another place: owners and digests as before.
	if a, b := mustDigest(t, Tree{Root: merged}, Options{KeepOwner: true}, "usr"), mustDigest(t, Tree{Root: upper}, Options{KeepOwner: true}, "usr"); a == b {
		t.Error("the view has no more than its upper layer")
	}
	to := t.TempDir()
	if err := Copy(t.Context(), Tree{Root: merged}, []string{"/"}, to, "/", Options{KeepOwner: true}); err != nil {
		t.Fatal(err)
	}
	if a, b := mustDigest(t, Tree{Root: merged}, Options{KeepOwner: true}, "."), mustDigest(t, Tree{Root: to}, Options{KeepOwner: true}, "."); a != b {
		t.Error("the copy of a view has another digest")
	}
}
