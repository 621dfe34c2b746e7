package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestImportForms(t *testing.T) {
	layer := tarOf(t, dir("d"), file("d/f", "content"))
	plain := newArchive(t, "app:v1", layer).seal(t).bytes(t)
	gzipped, err := compress(plain)
	if err != nil {
		t.Fatal(err)
	}
	// A layer compressed by zstd, an archive compressed by zstd.
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	z := newArchive(t, "app:v1")
	z.manifest.Layers = []ispec.Descriptor{z.blob(ispec.MediaTypeImageLayerZstd, enc.EncodeAll(layer, nil))}
	z.config.RootFS.DiffIDs = []digest.Digest{digest.FromBytes(layer)}
	zstded := enc.EncodeAll(z.seal(t).bytes(t), nil)
	// The image behind an index for several platforms, which the archive has not all.
	multi := newArchive(t, "latest", layer).seal(t)
	desc := multi.index.Manifests[0]
	host := hostPlatform()
	desc.Platform, desc.Annotations = &host, nil
	other := ispec.Descriptor{MediaType: ispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 3, Platform: &ispec.Platform{OS: "linux", Architecture: "s390x"}}
	multi.index.Manifests[0] = multi.document(t, ispec.MediaTypeImageIndex, ispec.Index{Manifests: []ispec.Descriptor{other, desc}})
	multi.index.Manifests[0].Annotations = map[string]string{annotationContainerdName: "docker.io/library/app:v1", ispec.AnnotationRefName: "v1"}
	multi.seal(t)

	for name, data := range map[string][]byte{"plain": plain, "gzip": gzipped, "zstd": zstded, "index": multi.bytes(t)} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			var progress int64
			images, err := s.Import(t.Context(), bytes.NewReader(data), ImportOptions{Progress: func(n int64) { progress = n }})
			if err != nil {
				t.Fatal(err)
			}
			if len(images) != 1 || images[0].Name != "app:v1" || progress == 0 {
				t.Errorf("images %+v, progress %d", images, progress)
			}
			dirs, err := s.Unpack(t.Context(), images[0])
			if err != nil {
				t.Fatal(err)
			}
			if got := listing(t, dirs[0]); strings.Join(got, " ") != "d d/f" {
				t.Errorf("layer holds %v", got)
			}
			checkClean(t, s)
		})
	}
}

func TestImportNames(t *testing.T) {
	s := newStore(t)
	data := newArchive(t, "", tarOf(t, file("f", "1"))).seal(t).bytes(t)
	for range 2 { // a nameless image is there once
		images, err := s.Import(t.Context(), bytes.NewReader(data), ImportOptions{})
		if err != nil || images[0].Name != "" {
			t.Fatalf("without a name: %+v, %v", images, err)
		}
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	images, err := s.Import(t.Context(), bytes.NewReader(data), ImportOptions{Name: "mine", Source: SourceRegistry})
	if err != nil || images[0].Name != "mine:latest" || images[0].Source != SourceRegistry {
		t.Errorf("with a name: %+v, %v", images, err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("a name makes the nameless entry go: %v, %v", list, err)
	}
	if _, err := s.Import(t.Context(), bytes.NewReader(data), ImportOptions{Name: "Bad Name"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad name: %v", err)
	}
}

func TestImportRefusesBadArchives(t *testing.T) {
	layer := tarOf(t, file("f", "1"))
	good := func() *archive { return newArchive(t, "app", layer) }
	raw := func(entries ...tar.Header) func() []byte {
		return func() []byte { return tarOf(t, entries...) }
	}
	edit := func(change func(a *archive)) func() []byte {
		return func() []byte {
			a := good()
			change(a)
			return a.seal(t).bytes(t)
		}
	}
	after := func(change func(a *archive)) func() []byte {
		return func() []byte {
			a := good().seal(t)
			change(a)
			return a.bytes(t)
		}
	}
	layerName := func(a *archive) string { return "blobs/sha256/" + a.manifest.Layers[0].Digest.Encoded() }
	for _, c := range []struct {
		name string
		data func() []byte
		want string
	}{
		{"nothing", func() []byte { return nil }, "no image archive"},
		{"garbage", func() []byte { return bytes.Repeat([]byte("garbage!"), 200) }, "read archive"},
		{"truncated", func() []byte { b := good().seal(t).bytes(t); return b[:540] }, "unexpected EOF"},
		{"truncated gzip", func() []byte { b, _ := compress(good().seal(t).bytes(t)); return b[:len(b)/2] }, "unexpected EOF"},
		{"damaged gzip", func() []byte { b, _ := compress(good().seal(t).bytes(t)); b[len(b)/2] ^= 0xff; return b }, ""},
		{"not a layout", raw(file("hello", "world")), "lacks oci-layout"},
		{"docker archive of none", raw(file("manifest.json", "[]")), "holds no image"},
		{"docker archive before 1.10", raw(file("repositories", "{}")), "before 1.10"},
		{"absolute path", raw(file("/blobs/sha256/x", "")), `"/blobs/sha256/x": absolute path`},
		{"path out", raw(file("blobs/../../x", "")), `"blobs/../../x": path with ".."`},
		{"odd blob name", raw(file("blobs/sha256/nothex", "x")), `"blobs/sha256/nothex": digest`},
		{"bad JSON", raw(file("index.json", "{")), `"index.json"`},
		{"large index", raw(file("index.json", strings.Repeat(" ", 5<<20))), "at most"},
		{"wrong blob digest", after(func(a *archive) { a.files[layerName(a)] = []byte("other") }), "another digest"},
		{"missing layer", after(func(a *archive) { a.order = a.order[1:] }), "is missing"},
		{"no image", edit(func(a *archive) { a.index.Manifests[0].Digest = digest.FromString("x") }), "media type"},
		{"unknown layout version", after(func(a *archive) { a.files["oci-layout"] = []byte(`{"imageLayoutVersion":"9"}`) }), "layout version"},
		{"layer size", edit(func(a *archive) { a.manifest.Layers[0].Size++ }), "its descriptor says"},
		{"layer type", edit(func(a *archive) { a.manifest.Layers[0].MediaType = "text/plain" }), `media type "text/plain"`},
		{"layer digest", edit(func(a *archive) { a.manifest.Layers[0].Digest = "sha256:../../../etc/passwd" }), "digest"},
		{"layer digest sha512", edit(func(a *archive) { a.manifest.Layers[0].Digest = digest.SHA512.FromString("x") }), "only sha256"},
		{"diff ID", edit(func(a *archive) { a.config.RootFS.DiffIDs[0] = "sha256:.." }), "diff ID 0"},
		{"too few diff IDs", edit(func(a *archive) { a.config.RootFS.DiffIDs = nil }), "1 layers, its config 0 diff IDs"},
		{"no layers", edit(func(a *archive) { a.config.RootFS.DiffIDs, a.manifest.Layers = nil, nil }), "0 layers"},
		{"rootfs type", edit(func(a *archive) { a.config.RootFS.Type = "disk" }), "rootfs type"},
		{"schema version", edit(func(a *archive) { a.manifest.SchemaVersion = 1 }), "schema version 1"},
		{"other machine", edit(func(a *archive) { a.config.Architecture = "s390x" }), "linux/s390x"},
		{"config size", edit(func(a *archive) {
			a.manifest.Config = a.document(t, ispec.MediaTypeImageConfig, a.config)
			a.manifest.Config.Size = 5 << 20
		}), "is more than"},
		{"manifest type", edit(func(a *archive) {
			a.manifest.Config = a.document(t, ispec.MediaTypeImageConfig, a.config)
			a.index.Manifests[0] = a.document(t, "application/x-unknown", a.manifest)
		}), "media type"},
		{"too many layers", edit(func(a *archive) {
			for range 500 {
				a.manifest.Layers = append(a.manifest.Layers, a.manifest.Layers[0])
				a.config.RootFS.DiffIDs = append(a.config.RootFS.DiffIDs, a.config.RootFS.DiffIDs[0])
			}
		}), "501 layers"},
		{"index in index in index", edit(func(a *archive) {
			a.manifest.Config = a.document(t, ispec.MediaTypeImageConfig, a.config)
			desc := a.document(t, ispec.MediaTypeImageManifest, a.manifest)
			for range 5 {
				desc = a.document(t, ispec.MediaTypeImageIndex, ispec.Index{Manifests: []ispec.Descriptor{desc}})
			}
			a.index.Manifests[0] = desc
		}), "nested too deep"},
		{"other platform only", edit(func(a *archive) {
			a.manifest.Config = a.document(t, ispec.MediaTypeImageConfig, a.config)
			desc := a.document(t, ispec.MediaTypeImageManifest, a.manifest)
			desc.Platform = &ispec.Platform{OS: "linux", Architecture: "s390x"}
			a.index.Manifests[0] = a.document(t, ispec.MediaTypeImageIndex, ispec.Index{Manifests: []ispec.Descriptor{desc}})
		}), "it has: linux/s390x"},
		{"bad name", edit(func(a *archive) { a.index.Manifests[0].Annotations[ispec.AnnotationRefName] = "../../x" }), "image name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			images, err := s.Import(t.Context(), bytes.NewReader(c.data()), ImportOptions{})
			if err == nil {
				t.Fatalf("imported %+v", images)
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "import image: ") {
				t.Errorf("got %q, want it to say %q", err, c.want)
			}
			if errdefs.IsInternal(err) || !(errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err) ||
				errdefs.IsFailedPrecondition(err) || errdefs.IsDataLoss(err)) {
				t.Errorf("no class fits %q", err)
			}
			if list, err := s.List(); err != nil || len(list) > 0 {
				t.Errorf("a refused image is listed: %v, %v", list, err)
			}
			checkClean(t, s)
		})
	}
}

func TestImportBounds(t *testing.T) {
	data := newArchive(t, "app", tarOf(t, file("f", strings.Repeat("x", 1000)))).seal(t).bytes(t)
	for want, change := range map[string]func(*Limits){
		"more than 3 files":      func(l *Limits) { l.Files = 3 },
		"more than 400 bytes":    func(l *Limits) { l.Archive = 400 },
		"at most 10 are allowed": func(l *Limits) { l.Document = 10 },
	} {
		s := newStore(t)
		change(&s.limits)
		if _, err := s.Import(t.Context(), bytes.NewReader(data), ImportOptions{}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		checkClean(t, s)
	}
}

func TestImportCancelled(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	data := newArchive(t, "app", tarOf(t, file("f", "1"))).seal(t).bytes(t)
	_, err := s.Import(ctx, bytes.NewReader(data), ImportOptions{Progress: func(int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want cancelled", err)
	}
	checkClean(t, s)
}

// The store is an OCI image layout, for any tool that reads one.
func TestStoreIsLayout(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "app", tarOf(t, file("f", "1")))
	var index ispec.Index
	index, err := s.readIndex()
	if err != nil || index.SchemaVersion != 2 || len(index.Manifests) != 1 || index.Manifests[0].MediaType != ispec.MediaTypeImageManifest ||
		index.Manifests[0].Digest != img.Descriptor.Digest || index.Manifests[0].Annotations[ispec.AnnotationRefName] != "app:latest" {
		b, _ := json.Marshal(index)
		t.Errorf("index %s, %v", b, err)
	}
}

// TestImportMissing keeps of an archive what the store has not, and leaves alone
// what it has under the same name.
func TestImportMissing(t *testing.T) {
	from, to := newStore(t), newStore(t)
	importLayers(t, from, "app:v1", tarOf(t, file("a", "theirs")))
	importLayers(t, from, "app:v2", tarOf(t, file("b", "2")))
	ours := importLayers(t, to, "app:v1", tarOf(t, file("a", "ours")))
	data := export(t, from, "", "app:v1", "app:v2")
	for _, want := range []string{"app:v2", ""} {
		images, err := to.Import(t.Context(), bytes.NewReader(data), ImportOptions{Missing: true})
		must(t, err)
		var got []string
		for _, img := range images {
			got = append(got, img.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("imported %q, want %q", got, want)
		}
		if img, err := to.Resolve("app:v1"); err != nil || img.ID != ours.ID {
			t.Errorf("ours is %v, %v", img.ID, err)
		}
		checkClean(t, to)
	}
	if _, err := to.Import(t.Context(), bytes.NewReader(data[:len(data)/2]), ImportOptions{Missing: true}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("half an archive of which nothing is missing: %v", err)
	}
}
