package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandboxlabs/sandbox/pkg/recipe/bundle"
)

func write(t *testing.T, file, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func recipes(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/a/recipe.yaml", "name: a\n", 0o600)
	write(t, dir+"/a/.dockerignore", "x\n", 0o644)
	write(t, dir+"/a/files/run.sh", "#!/bin/sh\n", 0o700)
	write(t, dir+"/a/go.mod", "module a\n", 0o644)
	write(t, dir+"/b/recipe.yaml", "name: b\n", 0o644)
	write(t, dir+"/schema.json", "{}\n", 0o644)
	write(t, dir+"/images_test.go", "package images\n", 0o644)
	write(t, dir+"/notes/README.md", "no recipe\n", 0o644)
	write(t, dir+"/.hidden/recipe.yaml", "name: hidden\n", 0o644)
	if err := os.Symlink("/etc/passwd", dir+"/a/link"); err != nil {
		t.Fatal(err)
	}
	return dir
}

func pack(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := bundle.Pack(dir, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	dir := recipes(t)
	data := pack(t, dir)
	// The same files, copied later by somebody else, are the same archive.
	again := t.TempDir()
	if err := os.CopyFS(again, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(again+"/a/recipe.yaml", time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pack(t, again), data) {
		t.Error("the archive depends on more than the files")
	}

	root := filepath.Join(t.TempDir(), "recipes")
	out, err := bundle.Unpack(t.Context(), bytes.NewReader(data), root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = filepath.Walk(out, func(p string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			rel, _ := filepath.Rel(out, p)
			got = append(got, info.Mode().String()+" "+rel)
		}
		return err
	})
	want := []string{
		"-rw-r--r-- a/.dockerignore", "-rwxr-xr-x a/files/run.sh", "-rw-r--r-- a/go.mod", "-rw-r--r-- a/recipe.yaml",
		"-rw-r--r-- b/recipe.yaml", "-rw-r--r-- schema.json",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("unpacked: %q, %v", got, err)
	}
	if names, err := bundle.Names(out); err != nil || !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("%q, %v", names, err)
	}

	// Once more, it is left alone; another archive takes its place, and what a
	// killed process has left is taken away.
	write(t, out+"/a/mark", "", 0o644)
	if err := os.Mkdir(root+"/.new-1", 0o755); err != nil {
		t.Fatal(err)
	}
	if same, err := bundle.Unpack(t.Context(), bytes.NewReader(data), root); err != nil || same != out {
		t.Errorf("%s, %v", same, err)
	}
	if _, err := os.Stat(out + "/a/mark"); err != nil {
		t.Error("it was unpacked again")
	}
	write(t, dir+"/b/more", "x", 0o644)
	other, err := bundle.Unpack(t.Context(), bytes.NewReader(pack(t, dir)), root)
	if err != nil || other == out {
		t.Errorf("%s, %v", other, err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 1 || left[0].Name() != filepath.Base(other) {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Stages that come up side by side all ask for the recipes first.
func TestUnpackTogether(t *testing.T) {
	archive := pack(t, recipes(t))
	for range 20 {
		root := t.TempDir()
		var all errgroup.Group
		for range 20 {
			all.Go(func() error {
				dir, err := bundle.Unpack(t.Context(), bytes.NewReader(archive), root)
				if err == nil {
					_, err = os.Stat(filepath.Join(dir, "a", bundle.FileName))
				}
				return err
			})
		}
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHostile(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"../out":    {{Name: "../out", Typeflag: tar.TypeReg}},
		"/out":      {{Name: "/out", Typeflag: tar.TypeReg}},
		"symlink":   {{Name: "l", Linkname: "/", Typeflag: tar.TypeSymlink}},
		"twice":     {{Name: "f", Typeflag: tar.TypeReg}, {Name: "f", Typeflag: tar.TypeReg}},
		"no parent": {{Name: "d/f", Typeflag: tar.TypeReg}},
	} {
		var b bytes.Buffer
		zw := gzip.NewWriter(&b)
		tw := tar.NewWriter(zw)
		for _, hdr := range entries {
			if err := tw.WriteHeader(&hdr); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = tw.Close(), zw.Close()
		root := filepath.Join(t.TempDir(), "recipes")
		if _, err := bundle.Unpack(t.Context(), &b, root); err == nil || !strings.Contains(err.Error(), "entry ") {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
			t.Errorf("%s leaves %v, %v", name, left, err)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(root), "out")); err == nil {
			t.Errorf("%s: a file outside", name)
		}
	}
	if _, err := bundle.Unpack(t.Context(), strings.NewReader("no archive"), t.TempDir()); err == nil {
		t.Error("what is no archive is unpacked")
	}
}
