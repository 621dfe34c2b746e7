package image

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestResolve(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "example.org/team/app:v1", tarOf(t, file("f", "1")))
	lib := importLayers(t, s, "toolbox", tarOf(t, file("f", "2")))
	for name, want := range map[string]Image{
		"toolbox":                   lib,
		"toolbox:latest":            lib,
		"docker.io/library/toolbox": lib,
		"toolbox@" + lib.Descriptor.Digest.String(): lib,
		"example.org/team/app:v1":                   img,
		img.ID.String():                             img,
		img.ID.Encoded():                            img,
		img.ID.Encoded()[:12]:                       img,
		"sha256:" + img.ID.Encoded()[:12]:           img,
		img.Descriptor.Digest.String():              img,
	} {
		got, err := s.Resolve(name)
		if err != nil || got.ID != want.ID || got.Name != want.Name {
			t.Errorf("Resolve(%q) = %s %s, %v; want %s", name, got.Name, got.ID, err, want.Name)
		}
	}
	if got, err := s.Resolve("toolbox"); err != nil || len(got.ChainIDs) != 1 || got.ChainIDs[0] != got.Config.RootFS.DiffIDs[0] || got.Source != SourceArchive {
		t.Errorf("toolbox: %+v, %v", got, err)
	}
	for _, name := range []string{"nginx", "toolbox:v2", "example.org/team/app", "abc123", "toolbox@" + img.Descriptor.Digest.String(), strings.Repeat("0", 64)} {
		_, err := s.Resolve(name)
		var missing *NotFoundError
		if !errdefs.IsNotFound(err) || !errors.As(err, &missing) || !strings.Contains(err.Error(), name) ||
			!strings.Contains(err.Error(), "local store, built-in") || !strings.Contains(missing.Hint(), "image import") {
			t.Errorf("Resolve(%q): %v", name, err)
		}
	}
	for _, name := range []string{"", "UPPER", "a b", "../x", "a:b:c"} {
		if _, err := s.Resolve(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Resolve(%q): %v, want an invalid argument", name, err)
		}
	}
}

func TestRemoveAndGC(t *testing.T) {
	s := newStore(t)
	shared := tarOf(t, file("shared", "1"))
	a := importLayers(t, s, "a", shared, tarOf(t, file("a", "1")))
	b := importLayers(t, s, "b", shared, tarOf(t, file("b", "1")))
	dirsA, err := s.Unpack(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	dirsB, err := s.Unpack(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if dirsA[1] != dirsB[1] {
		t.Error("the shared layer is unpacked twice")
	}
	if err := s.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve("a"); !errdefs.IsNotFound(err) {
		t.Errorf("removed image: %v", err)
	}

	// A container still runs from a's layers.
	got, err := s.GC(t.Context(), dirsA)
	if err != nil || got.Layers != 0 || got.Blobs != 3 || got.Bytes == 0 {
		t.Errorf("GC with a container: %+v, %v; want 3 blobs: manifest, config, layer", got, err)
	}
	got, err = s.GC(t.Context(), nil)
	if err != nil || got.Layers != 1 || got.Blobs != 0 {
		t.Errorf("GC without: %+v, %v; want one layer", got, err)
	}
	for _, d := range dirsB {
		if !isDir(d) {
			t.Errorf("GC took layer %s of an image that is there", d)
		}
	}
	if err := s.Remove(t.Context(), b.ID.Encoded()[:10]); err != nil {
		t.Error(err)
	}
	if _, err := s.GC(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if left := append(listing(t, s.layers), listing(t, s.images+"/blobs/sha256")...); len(left) > 0 {
		t.Errorf("an empty store holds %v", left)
	}
	if err := s.Remove(t.Context(), "b"); !errdefs.IsNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestRemoveIDWithSeveralNames(t *testing.T) {
	s := newStore(t)
	layer := tarOf(t, file("f", "1"))
	img := importLayers(t, s, "one", layer)
	importLayers(t, s, "two", layer)
	if err := s.Remove(t.Context(), img.ID.String()); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "one:latest, two:latest") {
		t.Errorf("got %v, want a conflict that tells the names", err)
	}
	if err := s.Remove(t.Context(), "one"); err != nil {
		t.Error(err)
	}
	if got, err := s.Resolve(img.ID.String()); err != nil || got.Name != "two:latest" {
		t.Errorf("other name is gone too: %v %v", got.Name, err)
	}
}

func TestNameMoves(t *testing.T) {
	s := newStore(t)
	importLayers(t, s, "app", tarOf(t, file("f", "old")))
	img := importLayers(t, s, "app", tarOf(t, file("f", "new")))
	list, err := s.List()
	if err != nil || len(list) != 1 || list[0].ID != img.ID {
		t.Errorf("List = %+v, %v; want the new image only", list, err)
	}
}

// A sweep clears what killed processes left.
func TestGCSweepsLeftovers(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "a", tarOf(t, file("f", "1")))
	dirs, err := s.Unpack(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	s.Close() // or the layer may be pending still
	layer := strings.TrimSuffix(dirs[0], "/fs")
	for _, path := range []string{s.ingestDir() + "/123", layer + "/unpack-9/d", s.layers + "/" + strings.Repeat("a", 64) + "/unpack-1/x"} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{s.blobPath(emptyDigest), s.ingestDir() + "/124.lock"} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got, want := listing(t, s.layers), []string{img.Config.RootFS.DiffIDs[0].Encoded()}; len(got) != 4 || got[0] != want[0] {
		t.Errorf("layers hold %v, want the one layer's fs with f, and lock", got)
	}
	checkClean(t, s)
}

func TestEnsureBuiltin(t *testing.T) {
	s := newStore(t)
	var archive bytes.Buffer
	created := time.Unix(0, 0)
	config := ispec.Image{Created: &created, Platform: hostPlatform(), Config: ispec.ImageConfig{Cmd: []string{"sh"}}}
	layers := []Layer{{Tar: tarOf(t, file("f", strings.Repeat("data", 1<<18))), CreatedBy: "test"}}
	desc, err := WriteArchive(&archive, "toolbox", config, layers)
	if err != nil {
		t.Fatal(err)
	}
	ensure := func() (Image, int) {
		t.Helper()
		f := &fakeFile{r: bytes.NewReader(archive.Bytes())}
		img, err := s.EnsureBuiltin(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		return img, f.read
	}
	img, _ := ensure()
	if img.Name != "toolbox:latest" || img.Source != SourceBuiltin || img.Descriptor.Digest != desc.Digest || img.Config.Config.Cmd[0] != "sh" {
		t.Errorf("image: %+v", img)
	}
	if _, n := ensure(); n > 8<<10 {
		t.Errorf("read %d bytes of an archive that is imported already", n)
	}
	// A damaged store is repaired.
	if err := os.Remove(s.blobPath(img.Manifest.Layers[0].Digest)); err != nil {
		t.Fatal(err)
	}
	ensure()
	if !s.complete(img) {
		t.Error("missing layer was not imported again")
	}
	// A new version takes the name.
	archive.Reset()
	if _, err := WriteArchive(&archive, "toolbox", config, append(layers, Layer{Tar: tarOf(t)})); err != nil {
		t.Fatal(err)
	}
	if img, _ := ensure(); len(img.Manifest.Layers) != 2 {
		t.Error("new version was not imported")
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
}

type fakeFile struct {
	r    io.Reader
	read int
}

func (f *fakeFile) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	f.read += n
	return n, err
}
func (*fakeFile) Stat() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }
func (*fakeFile) Close() error               { return nil }

// Imports, removals, unpackings and sweeps at once, by several stores, as
// several processes have them.
func TestConcurrentUse(t *testing.T) {
	root := newStore(t).images + "/.."
	shared := tarOf(t, file("shared", strings.Repeat("x", 1<<20)))
	archives := map[string][]byte{}
	for _, name := range []string{"a", "b", "c"} {
		archives[name] = newArchive(t, name, shared, tarOf(t, file(name, name))).seal(t).bytes(t)
	}
	var group sync.WaitGroup
	for name, data := range archives {
		for range 2 {
			s := openStore(t, root)
			group.Go(func() {
				for range 10 {
					imgs, err := s.Import(t.Context(), bytes.NewReader(data), ImportOptions{})
					if err != nil {
						t.Errorf("import %s: %v", name, err)
						return
					}
					// Another one may remove the image meanwhile, and a sweep
					// its blobs: that is all that may go wrong.
					if _, err := s.Unpack(t.Context(), imgs[0]); err != nil && !errdefs.IsNotFound(err) {
						t.Errorf("unpack %s: %v", name, err)
					}
					if err := s.Remove(t.Context(), name); err != nil && !errdefs.IsNotFound(err) {
						t.Errorf("remove %s: %v", name, err)
					}
				}
			})
		}
	}
	sweeper := openStore(t, root)
	done := make(chan struct{})
	var sweeps sync.WaitGroup
	sweeps.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := sweeper.GC(t.Context(), nil); err != nil {
				t.Errorf("GC: %v", err)
			}
		}
	})
	group.Wait()
	close(done)
	sweeps.Wait()
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for n := range archives {
			if !yield(n) {
				return
			}
		}
	}) {
		img := importLayers(t, sweeper, name, shared, tarOf(t, file(name, name)))
		dirs, err := sweeper.Unpack(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(dirs[0] + "/" + name); err != nil || string(b) != name {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	checkClean(t, sweeper)
}
