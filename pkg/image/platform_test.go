package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// platformArchive returns an archive of an index of images, one for each
// platform, whose configuration it has too, and their manifests.
func platformArchive(t *testing.T, platforms ...*ispec.Platform) (*archive, []ispec.Descriptor) {
	t.Helper()
	a := newArchive(t, "app", tarOf(t, file("f", "1")))
	var all []ispec.Descriptor
	for i, p := range platforms {
		config := a.config
		config.Author = fmt.Sprint(i)
		if p != nil {
			config.Platform = *p
		}
		manifest := a.manifest
		manifest.Config = a.document(t, ispec.MediaTypeImageConfig, config)
		desc := a.document(t, ispec.MediaTypeImageManifest, manifest)
		desc.Platform = p
		all = append(all, desc)
	}
	return a, all
}

func importIndex(t *testing.T, a *archive, manifests []ispec.Descriptor) (Image, error) {
	t.Helper()
	a.manifest.Config = manifests[0]
	name := a.index.Manifests[0].Annotations
	a.index.Manifests[0] = a.document(t, ispec.MediaTypeImageIndex, ispec.Index{Manifests: manifests})
	a.index.Manifests[0].Annotations = name
	images, err := newStore(t).Import(t.Context(), bytes.NewReader(a.seal(t).bytes(t)), ImportOptions{})
	if err != nil {
		return Image{}, err
	}
	return images[0], nil
}

func TestChoosePlatform(t *testing.T) {
	linux := func(arch, variant string) *ispec.Platform {
		return &ispec.Platform{OS: "linux", Architecture: arch, Variant: variant}
	}
	host, other := runtime.GOARCH, "s390x"
	alias := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[host]
	attestation := &ispec.Platform{OS: "unknown", Architecture: "unknown"}
	for name, c := range map[string]struct {
		platforms []*ispec.Platform
		want      int
	}{
		"the others first":             {[]*ispec.Platform{linux(other, ""), linux("arm", "v7"), linux(host, "")}, 2},
		"an attestation first":         {[]*ispec.Platform{attestation, linux(host, "")}, 1},
		"none said, and one that fits": {[]*ispec.Platform{nil, linux(host, "")}, 1},
		"the first that fits":          {[]*ispec.Platform{linux(host, ""), linux(host, "")}, 0},
		"another spelling":             {[]*ispec.Platform{linux(other, ""), linux(alias, "")}, 1},
		"a variant of another time":    {[]*ispec.Platform{linux(host, "v99"), linux(host, "")}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			a, manifests := platformArchive(t, c.platforms...)
			img, err := importIndex(t, a, manifests)
			if err != nil || img.Descriptor.Digest != manifests[c.want].Digest {
				t.Errorf("chose %s, %v; want %d of %v", img.Descriptor.Digest, err, c.want, manifests)
			}
		})
	}
	t.Run("by the configuration", func(t *testing.T) {
		a, manifests := platformArchive(t, linux(other, ""), linux(host, ""))
		for i := range manifests {
			manifests[i].Platform = nil
		}
		if img, err := importIndex(t, a, manifests); err != nil || img.Descriptor.Digest != manifests[1].Digest {
			t.Errorf("chose %s, %v", img.Descriptor.Digest, err)
		}
	})
	t.Run("in the second index", func(t *testing.T) {
		a, manifests := platformArchive(t, linux(other, ""), linux(host, ""))
		var nested []ispec.Descriptor
		for _, m := range manifests {
			nested = append(nested, a.document(t, ispec.MediaTypeImageIndex, ispec.Index{Manifests: []ispec.Descriptor{m}}))
		}
		unknown := a.document(t, "application/xml", "x")
		if img, err := importIndex(t, a, append([]ispec.Descriptor{unknown}, nested...)); err != nil || img.Descriptor.Digest != manifests[1].Digest {
			t.Errorf("chose %s, %v", img.Descriptor.Digest, err)
		}
	})
	t.Run("none", func(t *testing.T) {
		a, manifests := platformArchive(t, linux(other, ""), linux("arm", "v6"))
		_, err := importIndex(t, a, manifests)
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "it has: linux/s390x, linux/arm/v6") {
			t.Errorf("nothing fits: %v", err)
		}
	})
}

// Builders that say nothing of the platform mean the machine that they run on.
func TestImportWithoutPlatform(t *testing.T) {
	a := newArchive(t, "app", tarOf(t, file("f", "1")))
	a.config.Platform = ispec.Platform{}
	images, err := newStore(t).Import(t.Context(), bytes.NewReader(a.seal(t).bytes(t)), ImportOptions{})
	if err != nil || images[0].Config.OS != "linux" || images[0].Config.Architecture != runtime.GOARCH {
		t.Errorf("imported %+v, %v", images, err)
	}
}

// An index.json may name images for other machines, and what is no image.
func TestImportLayoutOfSeveral(t *testing.T) {
	a, manifests := platformArchive(t, &ispec.Platform{OS: "linux", Architecture: "s390x"}, &ispec.Platform{OS: "linux", Architecture: runtime.GOARCH})
	a.index.Manifests = append(manifests, a.document(t, "application/xml", "x"))
	a.manifest.Config = manifests[0]
	images, err := newStore(t).Import(t.Context(), bytes.NewReader(a.seal(t).bytes(t)), ImportOptions{})
	if err != nil || len(images) != 1 || images[0].Descriptor.Digest != manifests[1].Digest {
		t.Errorf("imported %+v, %v", images, err)
	}
}

// docker save of an image without a name, by 25.0: the layout names none.
func TestImportLayoutWithoutIndex(t *testing.T) {
	a := newArchive(t, "app", tarOf(t, file("f", "1"))).seal(t)
	list, err := json.Marshal([]dockerImage{{
		Config: "blobs/sha256/" + a.manifest.Config.Digest.Encoded(),
		Layers: []string{"blobs/sha256/" + a.manifest.Layers[0].Digest.Encoded()},
	}})
	if err != nil {
		t.Fatal(err)
	}
	a.add("manifest.json", list)
	a.add("index.json", []byte(`{"schemaVersion":2,"manifests":null}`))
	images, err := newStore(t).Import(t.Context(), bytes.NewReader(a.bytes(t)), ImportOptions{})
	if err != nil || len(images) != 1 || images[0].ID != a.manifest.Config.Digest || images[0].Name != "" {
		t.Errorf("imported %+v, %v", images, err)
	}
}

// A document that is both a manifest and an index is neither.
func TestImportAmbiguousDocuments(t *testing.T) {
	const manifest, index = ispec.MediaTypeImageManifest, ispec.MediaTypeImageIndex
	for name, c := range map[string]struct{ mediaType, says, more, want string }{
		"a manifest with manifests":       {manifest, manifest, `"manifests":[]`, "an index, and not the manifest"},
		"a manifest that says index":      {manifest, index, `"x":1`, "an index, and not the manifest"},
		"docker's manifest that says so":  {dockerManifest, dockerManifestList, `"x":1`, "an index, and not the manifest"},
		"an index that says manifest":     {index, manifest, `"manifests":[]`, "a manifest, and not the index"},
		"an index with layers":            {index, index, `"layers":[]`, "a manifest, and not the index"},
		"docker's list with a config":     {dockerManifestList, "", `"config":{}`, "a manifest, and not the index"},
		"a manifest of the first format":  {manifest, "", `"fsLayers":[]`, "first format"},
		"the first format by its content": {"application/vnd.docker.distribution.manifest.v1+prettyjws", "", `"x":1`, "first format"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newArchive(t, "app", tarOf(t, file("f", "1")))
			a.manifest.Config = a.document(t, ispec.MediaTypeImageConfig, a.config)
			a.index.Manifests[0] = a.blob(c.mediaType, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,%s}`, c.says, c.more))
			_, err := newStore(t).Import(t.Context(), bytes.NewReader(a.seal(t).bytes(t)), ImportOptions{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}
