package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Fuzz with -fuzzminimizetime 10x: minimizing takes most of the time otherwise.

// FuzzExtract: whatever a layer holds, nothing outside its root changes, and
// nothing within it is a device but a whiteout.
func FuzzExtract(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("layers have owners: this needs root")
	}
	for _, entries := range [][]tar.Header{
		{dir("d"), file("d/f", "1"), symlink("l", "d"), file("l/g", "2"), hardlink("h", "d/f"), file("d/.wh.x", ""), file("d/.wh..wh..opq", "")},
		{symlink("out", ".."), file("out/sentinel", "x")},
		{symlink("out", "../sentinel"), hardlink("h", "out"), file("h", "x")},
		{hardlink("h", "../sentinel")},
		{file("../sentinel", "x")},
		{dir("a"), symlink("a/b", "../.."), dir("a/b/c")},
		{{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}},
		{{Typeflag: tar.TypeChar, Name: "white"}, dir("white")},
	} {
		f.Add(tarOf(f, entries...))
	}
	f.Fuzz(func(t *testing.T, layer []byte) {
		base := t.TempDir()
		root, sentinel := filepath.Join(base, "root"), filepath.Join(base, "sentinel")
		if err := os.Mkdir(root, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(sentinel, []byte("untouched"), 0o600); err != nil {
			t.Fatal(err)
		}
		before, err := os.Stat(sentinel)
		if err != nil {
			t.Fatal(err)
		}
		x, err := newExtractor(root, Limits{Files: 1000, Bytes: 1 << 20, Words: "1 MiB"})
		if err != nil {
			t.Fatal(err)
		}
		_ = x.extract(bytes.NewReader(layer))
		x.close()
		if got := strings.Join(topLevel(t, base), " "); got != "root sentinel" {
			t.Fatalf("beside the root there is now %s", got)
		}
		after, err := os.Stat(sentinel)
		if err != nil || after.Mode() != before.Mode() || after.ModTime() != before.ModTime() || after.Size() != before.Size() {
			t.Fatalf("sentinel changed: %v, %v", after, err)
		}
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.Type()&os.ModeDevice == 0 {
				return nil
			}
			if info, err := d.Info(); err == nil && info.Sys().(*syscall.Stat_t).Rdev != 0 {
				t.Errorf("%s is a device", path)
			}
			return nil
		})
	})
}

func topLevel(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
