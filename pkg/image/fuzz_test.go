package image

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
		x, err := newExtractor(root, extractLimits{files: 1000, bytes: 1 << 20, words: "1 MiB"})
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

// FuzzImport: whatever an archive holds, it is imported whole or not at all.
func FuzzImport(f *testing.F) {
	good := newArchive(f, "app", tarOf(f, file("f", "1"))).seal(f).bytes(f)
	f.Add(good)
	f.Add(good[:len(good)/2])
	packed, err := compress(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	layer := tarOf(f, file("f", "1"))
	config := dockerConfig(layer)
	for _, entries := range [][]tar.Header{
		{file("l/layer.tar", string(layer)), file("c.json", config), manifestJSON(f, dockerImage{"c.json", []string{"app"}, []string{"l/layer.tar"}})},
		{symlink("l/layer.tar", "../m/layer.tar"), file("m/layer.tar", string(layer)), file("c.json", config), manifestJSON(f, dockerImage{"c.json", nil, []string{"l/layer.tar"}})},
		{manifestJSON(f, dockerImage{"../c", []string{"app"}, []string{"/l"}}), symlink("s", "s"), hardlink("h", "../h")},
		{file("repositories", "{}")},
	} {
		f.Add(tarOf(f, entries...))
	}
	f.Add(tarOf(f, file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", `{"manifests":[{}]}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newStore(t)
		s.limits.Archive = 1 << 20
		images, err := s.Import(t.Context(), bytes.NewReader(data), ImportOptions{})
		list, lerr := s.List()
		if lerr != nil {
			t.Fatal(lerr)
		}
		if err != nil && len(list) > 0 || err == nil && len(list) == 0 {
			t.Fatalf("import: %v, %v; the store lists %v", images, err, list)
		}
		checkClean(t, s)
	})
}
