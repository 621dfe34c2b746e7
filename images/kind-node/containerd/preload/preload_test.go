package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

const epoch = 1700000000

// fixture is a folder of trees and a list of enough images for a database of
// many pages: in one of few, buckets lie in their parents' pages, in order.
func fixture(t *testing.T) (trees, list string) {
	t.Helper()
	trees = t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(trees, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Unix(epoch-1000, 0)
	var entries []entry
	for _, tree := range []string{"base", "more"} {
		write(tree+"/etc/same", "the same in both")
		write(tree+"/etc/other", "differs in "+tree)
		for _, f := range []string{"same", "other"} {
			if err := os.Chtimes(filepath.Join(trees, tree, "etc", f), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("base/etc/gone", "only below")
	write("more/etc/new", "only above")
	entries = append(entries,
		entry{Names: []string{"example.org/base:1"}, Trees: []string{"base"}},
		entry{Names: []string{"example.org/more:1", "example.org/more:latest"}, Trees: []string{"base", "more"},
			Config: ispec.ImageConfig{Entrypoint: []string{"/more"}, User: "65532"}})
	for i := range 60 {
		name := fmt.Sprintf("one%d", i)
		write(name+"/bin/"+name, strings.Repeat(name, 1000))
		entries = append(entries, entry{Names: []string{"example.org/" + name + ":1"}, Trees: []string{name}})
	}
	// Once more a layer that has long been written.
	entries = append(entries, entry{Names: []string{"example.org/again:1"}, Trees: []string{"base"},
		Config: ispec.ImageConfig{Cmd: []string{"/again"}}})
	b, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	list = filepath.Join(t.TempDir(), "images.json")
	if err := os.WriteFile(list, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return trees, list
}

func preload(t *testing.T, list, trees string, more ...string) (root string, err error) {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", fmt.Sprint(epoch))
	root = filepath.Join(t.TempDir(), "containerd")
	var out bytes.Buffer
	err = run(t.Context(), append([]string{"-images", list, "-trees", trees, "-root", root}, more...), &out)
	return root, err
}

// sums maps the names below root to modes and digests.
func sums(t *testing.T, root string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		sum := fi.Mode().String()
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum += fmt.Sprintf(" %x", sha256.Sum256(b))
		}
		m[strings.TrimPrefix(path, root)] = sum
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTwoRunsAreTheSame(t *testing.T) {
	trees, list := fixture(t)
	var first map[string]string
	for i := range 3 {
		root, err := preload(t, list, trees)
		if err != nil {
			t.Fatal(err)
		}
		have := sums(t, root)
		if i == 0 {
			first = have
			continue
		}
		if len(have) != len(first) {
			t.Errorf("run %d made %d files, the first %d", i+1, len(have), len(first))
		}
		for name, sum := range have {
			if first[name] != sum {
				t.Errorf("run %d: %q is %s, was %s", i+1, name, sum, first[name])
			}
		}
	}
	for name := range first {
		if strings.Contains(name, ".preload") || strings.Contains(name, "/ingest/") {
			t.Errorf("left over: %s", name)
		}
	}
}

// open opens a store that preload made, to be written to.
func open(t *testing.T, root string) (context.Context, *metadata.DB) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), namespace)
	db, closeDB, err := openStore(ctx, root, filepath.Join(root, metadataDir, database), &bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closeDB(); err != nil {
			t.Error(err)
		}
	})
	return ctx, db
}

func TestGarbageCollectionKeepsEverything(t *testing.T) {
	trees, list := fixture(t)
	root, err := preload(t, list, trees)
	if err != nil {
		t.Fatal(err)
	}
	before := sums(t, filepath.Join(root, contentDir, "blobs"))
	ctx, db := open(t, root)
	// One image less: its blobs must go, so that the collection did run.
	is := metadata.NewImageStore(db)
	img, err := is.Get(ctx, "example.org/one7:1")
	if err != nil {
		t.Fatal(err)
	}
	id, err := configDigest(ctx, db.ContentStore(), img.Target)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{img.Name, id.String()} {
		if err := is.Delete(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.GarbageCollect(ctx); err != nil {
		t.Fatal(err)
	}
	after := sums(t, filepath.Join(root, contentDir, "blobs"))
	if gone := len(before) - len(after); gone != 3 {
		t.Errorf("%d blobs were collected, want the deleted image's 3", gone)
	}
	left, err := is.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// 63 images, of which one has two names, each with its ID; less one.
	if want := 63 + 1 + 63 - 2; len(left) != want {
		t.Errorf("%d names, want %d", len(left), want)
	}
	for _, img := range left {
		if !img.CreatedAt.Equal(time.Unix(epoch, 0)) || !img.UpdatedAt.Equal(img.CreatedAt) {
			t.Errorf("%s: created %s, updated %s", img.Name, img.CreatedAt, img.UpdatedAt)
		}
		for k, v := range labels {
			if img.Labels[k] != v {
				t.Errorf("%s: label %s is %q", img.Name, k, img.Labels[k])
			}
		}
	}
}

func TestLayersUnpackToTheTree(t *testing.T) {
	trees, list := fixture(t)
	root, err := preload(t, list, trees)
	if err != nil {
		t.Fatal(err)
	}
	ctx, db := open(t, root)
	cs := db.ContentStore()
	manifest := func(name string) (m ispec.Manifest) {
		img, err := metadata.NewImageStore(db).Get(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if m, err = images.Manifest(ctx, cs, img.Target, nil); err != nil {
			t.Fatal(err)
		}
		return m
	}
	base, more := manifest("example.org/base:1"), manifest("example.org/more:latest")
	if len(more.Layers) != 2 || more.Layers[0].Digest != base.Layers[0].Digest {
		t.Fatalf("layers are %v, want %s and another", more.Layers, base.Layers[0].Digest)
	}
	apply := func(dir string, l ispec.Descriptor) {
		ra, err := cs.ReaderAt(ctx, l)
		if err != nil {
			t.Fatal(err)
		}
		defer ra.Close()
		plain, err := compression.DecompressStream(content.NewReader(ra))
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		if _, err := archive.Apply(ctx, dir, plain); err != nil {
			t.Fatal(err)
		}
	}
	names := func(dir string) (names []string) {
		entries, err := os.ReadDir(filepath.Join(dir, "etc"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	alone, both := t.TempDir(), t.TempDir()
	apply(alone, more.Layers[1])
	if have := names(alone); !slices.Equal(have, []string{"new", "other"}) {
		t.Errorf("the second layer alone has %q, want what changes only", have)
	}
	for _, l := range more.Layers {
		apply(both, l)
	}
	if have := names(both); !slices.Equal(have, []string{"new", "other", "same"}) {
		t.Errorf("both layers have %q", have)
	}
	if b, err := os.ReadFile(filepath.Join(both, "etc/other")); err != nil || string(b) != "differs in more" {
		t.Errorf("etc/other is %q, %v", b, err)
	}
	for _, name := range []string{"etc", "etc/new", "etc/other", "etc/same"} {
		if fi, err := os.Stat(filepath.Join(both, name)); err != nil || fi.ModTime().Unix() != epoch {
			t.Errorf("%s: %v, %v; want a time of %d", name, fi.ModTime(), err, epoch)
		}
	}
}

func TestBadInputIsRefused(t *testing.T) {
	trees, good := fixture(t)
	dir := t.TempDir()
	file := func(text string) string {
		f, err := os.CreateTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	list := func(names, tree string) string {
		return file(`[{"names":[` + names + `],"trees":["` + tree + `"]}]`)
	}
	for _, c := range []struct {
		what, list string
		more       []string
		want       string
	}{
		{"no registry", list(`"busybox:1"`, "base"), nil, "must be whole"},
		{"no tag", list(`"example.org/a"`, "base"), nil, "must be whole"},
		{"no name at all", list(`"A b"`, "base"), nil, `name "A b"`},
		{"a name twice", list(`"example.org/a:1","example.org/a:1"`, "base"), nil, "listed twice"},
		{"a tree outside", list(`"example.org/a:1"`, "../base"), nil, "within"},
		{"a tree that is not there", list(`"example.org/a:1"`, "nowhere"), nil, "nowhere is no folder"},
		{"a field that is none", file(`[{"name":"example.org/a:1"}]`), nil, "unknown field"},
		{"a required image that lacks", good, []string{"-required", file("example.org/base:1\nexample.org/lacks:2\n")}, "example.org/lacks:2"},
		{"nothing required", good, []string{"-required", file("\n")}, "there are none"},
	} {
		if _, err := preload(t, c.list, trees, c.more...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", c.what, err, c.want)
		}
	}
}

func TestNoDateIsRefused(t *testing.T) {
	trees, list := fixture(t)
	t.Setenv("SOURCE_DATE_EPOCH", "")
	err := run(t.Context(), []string{"-images", list, "-trees", trees, "-root", t.TempDir()}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("error %v", err)
	}
}
