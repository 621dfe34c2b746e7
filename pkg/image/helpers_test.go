package image

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image/internal/tartest"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// newStore returns a store in a temporary folder: on the disk of the virtual
// machine when in it, since the layers of its root file system are hostfs.
func newStore(t testing.TB) *Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("layers have owners: this needs root")
	}
	return openStore(t, tempDir(t))
}

func openStore(t testing.TB, root string) *Store {
	t.Helper()
	s, err := Open(state.Dirs{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

func tempDir(t testing.TB) string {
	t.Helper()
	parent := ""
	if os.Getenv("SANDBOX_VM") != "" {
		parent = "/mnt/disk"
	}
	dir, err := os.MkdirTemp(parent, "sbt-image-")
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

// Tars in short.
var (
	file, dir, symlink, hardlink = tartest.File, tartest.Dir, tartest.Symlink, tartest.Hardlink
	tarOf                        = tartest.Of
)

// archive is an OCI archive that tests take apart and put together wrongly.
type archive struct {
	files    map[string][]byte // by their name in the archive
	order    []string
	config   ispec.Image
	manifest ispec.Manifest
	index    ispec.Index
}

// newArchive returns an archive of one image with these layers, bottom first.
func newArchive(t testing.TB, name string, layers ...[]byte) *archive {
	t.Helper()
	a := &archive{files: map[string][]byte{}}
	a.config = ispec.Image{
		Platform: ispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS:   ispec.RootFS{Type: "layers"},
	}
	a.manifest = ispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageManifest}
	for _, l := range layers {
		packed, err := compress(l)
		if err != nil {
			t.Fatal(err)
		}
		a.manifest.Layers = append(a.manifest.Layers, a.blob(ispec.MediaTypeImageLayerGzip, packed))
		a.config.RootFS.DiffIDs = append(a.config.RootFS.DiffIDs, digest.FromBytes(l))
	}
	a.index.SchemaVersion = 2
	a.index.Manifests = []ispec.Descriptor{{Annotations: map[string]string{ispec.AnnotationRefName: name}}}
	return a
}

func (a *archive) add(name string, data []byte) {
	if _, ok := a.files[name]; !ok {
		a.order = append(a.order, name)
	}
	a.files[name] = data
}

func (a *archive) blob(mediaType string, data []byte) ispec.Descriptor {
	d := digest.FromBytes(data)
	a.add("blobs/sha256/"+d.Encoded(), data)
	return ispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (a *archive) document(t testing.TB, mediaType string, v any) ispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return a.blob(mediaType, data)
}

// seal adds config, manifest and index, as they are by now.
func (a *archive) seal(t testing.TB) *archive {
	t.Helper()
	if a.manifest.Config.Digest == "" {
		a.manifest.Config = a.document(t, ispec.MediaTypeImageConfig, a.config)
	}
	if a.index.Manifests[0].Digest == "" {
		desc := a.document(t, ispec.MediaTypeImageManifest, a.manifest)
		desc.Annotations = a.index.Manifests[0].Annotations
		a.index.Manifests[0] = desc
	}
	index, err := json.Marshal(a.index)
	if err != nil {
		t.Fatal(err)
	}
	a.add("index.json", index)
	a.add("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return a
}

func (a *archive) bytes(t testing.TB) []byte {
	t.Helper()
	var entries []tar.Header
	for _, name := range a.order {
		entries = append(entries, file(name, string(a.files[name])))
	}
	return tarOf(t, entries...)
}

// importLayers imports an image of these layers and returns it.
func importLayers(t testing.TB, s *Store, name string, layers ...[]byte) Image {
	t.Helper()
	images, err := s.Import(t.Context(), bytes.NewReader(newArchive(t, name, layers...).seal(t).bytes(t)), ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return images[0]
}

// noise does not get smaller when it is compressed.
func noise(t testing.TB, size int) string {
	t.Helper()
	data := make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	return string(data)
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

// checkClean fails when the store holds what no image has.
func checkClean(t testing.TB, s *Store) {
	t.Helper()
	if left := listing(t, s.ingestDir()); len(left) > 0 {
		t.Errorf("left in ingest: %v", left)
	}
	got, err := s.GC(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Blobs > 0 {
		t.Errorf("%d blobs without an image", got.Blobs)
	}
	for _, name := range listing(t, s.layers) {
		if parts := strings.Split(name, "/"); len(parts) == 2 && parts[1] != layerFS && parts[1] != layerLock && parts[1] != layerPending {
			t.Errorf("left in layers: %s", name)
		}
	}
}
