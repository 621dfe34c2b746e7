package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	validator "github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/api"
)

func export(t testing.TB, s *Store, format string, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	must(t, s.Export(t.Context(), &out, names, ExportOptions{Format: format}))
	return out.Bytes()
}

func TestExport(t *testing.T) {
	s := newStore(t)
	shared := tarOf(t, file("shared", "1"))
	a := importLayers(t, s, "app:v1", shared, tarOf(t, file("a", "1")))
	importLayers(t, s, "example.org/team/b", shared, tarOf(t, file("b", "1")))
	must(t, s.Tag(t.Context(), "app:v1", "app:v2"))
	_, err := s.AddReferrer(t.Context(), a, spdx, []byte(`{"sbom":1}`), nil)
	must(t, err)
	names := []string{"app:v1", "app:v2", "example.org/team/b", "app:v1"}

	for _, format := range []string{FormatOCI, FormatDocker} {
		t.Run(format, func(t *testing.T) {
			data := export(t, s, format, names...)
			if !bytes.Equal(data, export(t, s, format, names...)) {
				t.Error("a second export has other bytes")
			}
			if format == FormatOCI && !bytes.Equal(data, export(t, s, "", names...)) {
				t.Error("OCI is not the default")
			}
			other := newStore(t)
			images, err := other.Import(t.Context(), bytes.NewReader(data), ImportOptions{})
			must(t, err)
			var got []string
			for _, img := range images {
				got = append(got, img.Name)
				if from, err := s.Resolve(img.Name); err != nil || from.Descriptor.Digest != img.Descriptor.Digest {
					t.Errorf("%s: %s, %v", img.Name, img.Descriptor.Digest, err)
				}
				if _, err := other.Unpack(t.Context(), img); err != nil {
					t.Error(err)
				}
			}
			if want := []string{"app:v1", "app:v2", "example.org/team/b:latest"}; !slices.Equal(got, want) {
				t.Errorf("images %v, want %v", got, want)
			}
			refs, err := other.Referrers(a.Descriptor.Digest, spdx)
			must(t, err)
			if format == FormatDocker {
				if len(refs) > 0 {
					t.Errorf("docker would take %v for an image", refs)
				}
			} else if len(refs) != 1 {
				t.Errorf("referrers %v", refs)
			} else if data, err := other.ReadReferrer(refs[0]); err != nil || string(data) != `{"sbom":1}` {
				t.Errorf("referrer %q, %v", data, err)
			}
			checkClean(t, other)
			checkForeign(t, data, format, a)
		})
	}
	// One image alone, by its ID; what refers to the other stays behind.
	if entries := entriesOf(t, export(t, s, FormatOCI, "example.org/team/b")); len(entries) != 2+4 {
		t.Errorf("one image is %v", entries)
	}
	if data := export(t, s, FormatOCI, a.ID.String()); len(entriesOf(t, data)) != 2+4+3 {
		t.Errorf("by ID: %v", entriesOf(t, data))
	}
}

// checkForeign lets another implementation read the archive.
func checkForeign(t *testing.T, data []byte, format string, want Image) {
	t.Helper()
	root := t.TempDir()
	path := filepath.Join(root, "archive.tar")
	must(t, os.WriteFile(path, data, 0o600))
	if format == FormatDocker {
		img, err := tarball.ImageFromPath(path, nil)
		if err == nil || !strings.Contains(err.Error(), "multiple images") && img != nil {
			t.Errorf("an archive of two images: %v", err)
		}
		manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) })
		must(t, err)
		if len(manifest) != 2 || strings.Join(manifest[0].RepoTags, " ") != "app:v1 app:v2" {
			t.Errorf("manifest.json: %+v", manifest)
		}
	}
	tr := tar.NewReader(bytes.NewReader(data))
	for hdr, err := tr.Next(); err == nil; hdr, err = tr.Next() {
		mkdir(t, filepath.Dir(filepath.Join(root, hdr.Name)))
		content, err := io.ReadAll(tr)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(root, hdr.Name), content, 0o600))
		if hdr.Format == tar.FormatPAX || !hdr.ModTime.Equal(hdr.ModTime.Truncate(1)) || hdr.Uid != 0 || hdr.Mode != 0o644 {
			t.Errorf("header %+v", hdr)
		}
	}
	index, err := layout.ImageIndexFromPath(root)
	must(t, err)
	hash, err := index.IndexManifest()
	must(t, err)
	img, err := index.Image(hash.Manifests[0].Digest)
	must(t, err)
	must(t, validator.Image(img))
	if hash.Manifests[0].Digest.String() != want.Descriptor.Digest.String() || hash.Manifests[0].Annotations[ispec.AnnotationRefName] != "app:v1" ||
		hash.Manifests[0].Annotations[annotationContainerdName] != "docker.io/library/app:v1" || hash.Manifests[0].Platform.OS != "linux" {
		t.Errorf("index.json: %+v", hash.Manifests[0])
	}
}

// Docker before 23 cannot read zstd.
func TestExportZstdForDocker(t *testing.T) {
	s := newStore(t)
	layer := tarOf(t, file("f", strings.Repeat("content", 100_000)))
	enc, err := zstd.NewWriter(nil)
	must(t, err)
	a := newArchive(t, "app", tarOf(t, file("g", "1")))
	a.manifest.Layers = append(a.manifest.Layers, a.blob(ispec.MediaTypeImageLayerZstd, enc.EncodeAll(layer, nil)))
	a.config.RootFS.DiffIDs = append(a.config.RootFS.DiffIDs, digest.FromBytes(layer))
	images, err := s.Import(t.Context(), bytes.NewReader(a.seal(t).bytes(t)), ImportOptions{})
	must(t, err)
	data := export(t, s, FormatDocker, "app")
	if entries := strings.Join(entriesOf(t, data), " "); strings.Contains(entries, "index.json") || !strings.Contains(entries, digest.FromBytes(layer).Encoded()) {
		t.Errorf("archive of %s", entries)
	}
	other := newStore(t)
	got, err := other.Import(t.Context(), bytes.NewReader(data), ImportOptions{})
	must(t, err)
	if got[0].ID != images[0].ID || got[0].Manifest.Layers[1].MediaType != ispec.MediaTypeImageLayer {
		t.Errorf("image %+v", got[0].Manifest)
	}
	if _, err := other.Unpack(t.Context(), got[0]); err != nil {
		t.Error(err)
	}
	if got := entriesOf(t, export(t, s, FormatOCI, "app")); len(got) != 2+4 {
		t.Errorf("as OCI: %v", got)
	}
}

func TestExportFails(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "app", tarOf(t, file("f", noise(t, 1<<20))))
	fails := func(want string, class func(error) bool, w io.Writer, names []string, opts ExportOptions) {
		t.Helper()
		if err := s.Export(t.Context(), w, names, opts); err == nil || !strings.Contains(err.Error(), want) || class != nil && !class(err) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	app := []string{"app"}
	fails("no image is named", errdefs.IsInvalidArgument, io.Discard, nil, ExportOptions{})
	fails(`format "zip"`, errdefs.IsInvalidArgument, io.Discard, app, ExportOptions{Format: "zip"})
	fails("not found", errdefs.IsNotFound, io.Discard, []string{"app", "none"}, ExportOptions{})
	fails("no room", nil, failingWriter{}, app, ExportOptions{})

	ctx, cancel := context.WithCancel(t.Context())
	var told []api.ImageProgress
	err := s.Export(ctx, io.Discard, app, ExportOptions{Progress: func(p api.ImageProgress) {
		told = append(told, p)
		if strings.HasSuffix(p.Item, img.Descriptor.Digest.Encoded()) {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || len(told) == 0 {
		t.Errorf("cancelled: %v, %v", err, told)
	}
	// An image that goes meanwhile is whole nevertheless.
	var out bytes.Buffer
	must(t, s.Export(t.Context(), &out, app, ExportOptions{Progress: func(p api.ImageProgress) {
		if p.Item == ispec.ImageLayoutFile {
			must(t, s.Remove(t.Context(), "app"))
			_, err := s.GC(t.Context(), nil)
			must(t, err)
		}
	}}))
	if _, err := s.Import(t.Context(), &out, ImportOptions{}); err != nil {
		t.Error(err)
	}
	// A damaged one is not.
	layer := s.blobPath(img.Manifest.Layers[0].Digest)
	data, err := os.ReadFile(layer)
	must(t, err)
	data[1000]++
	must(t, os.WriteFile(layer, data, 0o600))
	fails("is not that of its digest", errdefs.IsDataLoss, io.Discard, app, ExportOptions{})
	must(t, os.Remove(layer))
	fails("is missing", errdefs.IsNotFound, io.Discard, app, ExportOptions{})
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no room") }
