package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/image/internal/tartest"
)

func extract(t *testing.T, entries ...tar.Header) (string, error) {
	t.Helper()
	root := tempDir(t)
	return root, Extract(root, bytes.NewReader(tarOf(t, entries...)), Limits{Files: 1000, Bytes: 1 << 20, Words: "1 MiB"})
}

// Links lead where they will lead in the container, and never out of the layer.
func TestExtractLinksInRoot(t *testing.T) {
	passwd := func(more ...tar.Header) []tar.Header {
		return append([]tar.Header{dir("etc"), file("etc/passwd", "inside")}, more...)
	}
	for _, c := range []struct {
		name    string
		entries []tar.Header
		file    string // that has "inside"
		link    string // the symlink that stays one
	}{
		{"absolute name", []tar.Header{file("/etc/passwd", "inside")}, "etc/passwd", ""},
		{"absolute name with slashes", []tar.Header{dir("//"), file("///etc//passwd", "inside")}, "etc/passwd", ""},
		{"absolute symlink", []tar.Header{dir("etc"), symlink("l", "/etc"), file("l/passwd", "inside")}, "etc/passwd", "l"},
		{"symlink to what comes later", []tar.Header{symlink("var/run", "/run"), file("var/run/x/f", "inside"), dir("run")}, "run/x/f", "var/run"},
		{"symlink up and out", []tar.Header{dir("etc"), symlink("l", "../../../../etc"), file("l/passwd", "inside")}, "etc/passwd", "l"},
		{"symlink up and out, to nothing", []tar.Header{symlink("d/l", "../../../../new/e"), file("d/l/passwd", "inside")}, "new/e/passwd", "d/l"},
		{"symlinks in steps", []tar.Header{dir("d"), symlink("d/a", ".."), symlink("b", "d/a/.."), file("b/f", "inside")}, "f", "b"},
		{"symlink to a symlink", []tar.Header{symlink("a", "/b"), symlink("b", "/c/d"), file("a/f", "inside")}, "c/d/f", "a"},
		{"symlink to the process", []tar.Header{symlink("l", "/proc/self/root"), file("l/f", "inside")}, "proc/self/root/f", "l"},
		{"whiteout through a symlink", passwd(symlink("l", "/etc"), file("l/.wh.shadow", "")), "etc/passwd", "l"},
		{"opaque through a symlink", passwd(symlink("l", "/etc"), file("l/.wh..wh..opq", "")), "etc/passwd", "l"},
		{"hard link to an absolute name", passwd(hardlink("f", "/etc/passwd")), "f", ""},
		{"hard link through a symlink", passwd(symlink("l", "/etc"), hardlink("f", "l/passwd")), "f", "l"},
		{"hard link through a way out", passwd(symlink("d/l", "../../../etc"), hardlink("d/f", "/d/l/passwd")), "d/f", "d/l"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, err := extract(t, c.entries...)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(filepath.Join(root, c.file)); string(b) != "inside" {
				t.Errorf("%s is %q, %v; all: %v", c.file, b, err, listing(t, root))
			}
			if info, err := os.Lstat(filepath.Join(root, c.link)); c.link != "" && (err != nil || info.Mode().Type() != os.ModeSymlink) {
				t.Errorf("%s is no symlink: %v, %v", c.link, info, err)
			}
		})
	}
	for _, path := range []string{"/f", "/new", "/etc/.wh.shadow", "/run/x"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s was written", path)
		}
	}
}

// Of several entries of one name the last wins, whatever came before.
func TestExtractLastWins(t *testing.T) {
	old, recent := time.Unix(1_000_000, 0), time.Unix(2_000_000, 0)
	at := func(h tar.Header, when time.Time) tar.Header { h.ModTime = when; return h }
	root, err := extract(t,
		at(dir("d"), old), file("d/f", "1"), at(dir("d/e"), old), at(file("d", "2"), recent),
		dir("l"), file("l/f", "1"), symlink("l", "d"),
		at(dir("again"), recent), at(dir("again"), old),
		dir("w"), at(dir("w/sub"), old), tar.Header{Typeflag: tar.TypeChar, Name: "w"},
	)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(listing(t, root), " "), "again d l w"; got != want {
		t.Errorf("layer holds %s, want %s", got, want)
	}
	for name, want := range map[string]time.Time{"d": recent, "again": old} {
		if info, err := os.Lstat(filepath.Join(root, name)); err != nil || !info.ModTime().Equal(want) {
			t.Errorf("%s is of %v, %v, want %v", name, info.ModTime(), err, want)
		}
	}
	if info, err := os.Lstat(root + "/w"); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("w is no whiteout: %v, %v", info, err)
	}
}

// Old base images have a /dev. Nothing of it gets onto this machine.
func TestExtractLeavesDevicesOut(t *testing.T) {
	device := func(name string, flag byte, major int64) tar.Header {
		return tar.Header{Typeflag: flag, Name: name, Mode: 0o666, Devmajor: major, Devminor: 1}
	}
	entries := []tar.Header{
		dir("dev"), device("dev/sda", tar.TypeBlock, 8), device("dev/mem", tar.TypeChar, 1), hardlink("dev/kmem", "./dev/mem"),
		symlink("dev/core", "/proc/kcore"), file("was", "1"), device("was", tar.TypeChar, 5),
		device("is", tar.TypeChar, 5), file("is", "1"), hardlink("is2", "is"),
	}
	root, err := extract(t, entries...)
	if err != nil {
		t.Fatal(err)
	}
	want := "dev dev/core is is2"
	if got := strings.Join(listing(t, root), " "); got != want {
		t.Errorf("layer holds %s, want %s", got, want)
	}
	plain, err := os.Open(tempDir(t))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	data := tartest.Of(t, dir("dev"), device("dev/sda", tar.TypeBlock, 8), device("dev/zero", tar.TypeChar, 0))
	err = ExtractPlain(bytes.NewReader(data), plain, PlainOptions{Limits: Limits{Files: 10, Bytes: 1}})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "device node 8:1") {
		t.Errorf("what is being built: %v", err)
	}
}
