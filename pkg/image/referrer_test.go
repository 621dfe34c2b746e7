package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const spdx = "application/spdx+json"

func TestReferrers(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "app", tarOf(t, file("f", "1")))
	notes := map[string]string{"note": "x", ispec.AnnotationRefName: "evil"}
	sbom, err := s.AddReferrer(t.Context(), img, spdx, []byte(`{"spdxVersion":"SPDX-2.3"}`), notes)
	must(t, err)
	if again, err := s.AddReferrer(t.Context(), img, spdx, []byte(`{"spdxVersion":"SPDX-2.3"}`), notes); err != nil || again.Digest != sbom.Digest {
		t.Errorf("again: %v, %v; want %s", again.Digest, err, sbom.Digest)
	}
	licences, err := s.AddReferrer(t.Context(), img, "text/plain", nil, nil)
	must(t, err)
	// A signature of the SBOM refers to a referrer.
	stage, err := s.newStaging()
	must(t, err)
	m := ispec.Manifest{ArtifactType: "sig", Config: ispec.DescriptorEmptyJSON, Subject: &sbom}
	m.SchemaVersion = 2
	sig, err := stage.document(ispec.MediaTypeImageManifest, m)
	must(t, err)
	must(t, s.update(t.Context(), func(index *ispec.Index) error {
		addReferrer(index, sig, "sig")
		return s.commit(stage, []digest.Digest{sig.Digest})
	}))
	must(t, stage.close())

	check := func(subject digest.Digest, kind string, want ...digest.Digest) {
		t.Helper()
		found, err := s.Referrers(subject, kind)
		must(t, err)
		var got []digest.Digest
		for _, d := range found {
			got = append(got, d.Digest)
		}
		if !slices.Equal(got, want) {
			t.Errorf("referrers of %s (%s): %v, want %v", subject, kind, got, want)
		}
	}
	subject := img.Descriptor.Digest
	check(subject, "", sbom.Digest, licences.Digest)
	check(subject, spdx, sbom.Digest)
	check(subject, "other")
	check(sbom.Digest, "", sig.Digest)
	check(digest.FromString("x"), "")
	found, err := s.Referrers(subject, spdx)
	must(t, err)
	if found[0].ArtifactType != spdx || found[0].Annotations["note"] != "x" || found[0].MediaType != ispec.MediaTypeImageManifest {
		t.Errorf("descriptor %+v", found[0])
	}
	if data, err := s.ReadReferrer(found[0]); err != nil || string(data) != `{"spdxVersion":"SPDX-2.3"}` {
		t.Errorf("content %q, %v", data, err)
	}
	if data, err := s.ReadReferrer(licences); err != nil || len(data) > 0 {
		t.Errorf("empty content %q, %v", data, err)
	}
	// They are no images, under whatever name.
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("list %v, %v", list, err)
	}
	for _, name := range []string{"evil", sbom.Digest.String(), sbom.Digest.Encoded()[:12]} {
		if _, err := s.Resolve(name); !errdefs.IsNotFound(err) {
			t.Errorf("Resolve(%s): %v", name, err)
		}
	}

	// They live as long as a name of their subject.
	must(t, s.Tag(t.Context(), "app", "second"))
	must(t, s.Remove(t.Context(), "app"))
	checkClean(t, s)
	check(subject, "", sbom.Digest, licences.Digest)
	must(t, s.Remove(t.Context(), "second"))
	_, err = s.GC(t.Context(), nil)
	must(t, err)
	check(subject, "")
	check(sbom.Digest, "")
	if left := listing(t, filepath.Dir(s.blobPath(emptyDigest))); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if index, err := s.readIndex(); err != nil || len(index.Manifests) > 0 {
		t.Errorf("index has %v, %v", index.Manifests, err)
	}
	if _, err := s.AddReferrer(t.Context(), img, spdx, nil, nil); !errdefs.IsNotFound(err) {
		t.Errorf("for an image that is gone: %v", err)
	}
	checkClean(t, s)
}

func TestReferrerRefused(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "app", tarOf(t, file("f", "1")))
	s.limits.Artifact = 10
	if _, err := s.AddReferrer(t.Context(), img, spdx, make([]byte, 11), nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "at most 10") {
		t.Errorf("large: %v", err)
	}
	if _, err := s.AddReferrer(t.Context(), img, "", nil, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no type: %v", err)
	}
	if _, err := s.ReadReferrer(img.Descriptor); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an image as referrer: %v", err)
	}
	desc, err := s.AddReferrer(t.Context(), img, spdx, []byte("12345"), nil)
	must(t, err)
	m, err := readReferrer(s.blobFile, desc)
	must(t, err)
	must(t, os.WriteFile(s.blobPath(m.Layers[0].Digest), []byte("other"), 0o600))
	if _, err := s.ReadReferrer(desc); !errdefs.IsDataLoss(err) {
		t.Errorf("damaged content: %v", err)
	}
	// A manifest that is damaged says nothing, and GC clears it away.
	must(t, os.WriteFile(s.blobPath(desc.Digest), []byte("{}"), 0o600))
	if found, err := s.Referrers(img.Descriptor.Digest, ""); err != nil || len(found) > 0 {
		t.Errorf("damaged manifest: %v, %v", found, err)
	}
	_, err = s.GC(t.Context(), nil)
	must(t, err)
	if index, err := s.readIndex(); err != nil || len(index.Manifests) != 1 {
		t.Errorf("index has %v, %v", index.Manifests, err)
	}
	if _, err := s.Resolve("app"); err != nil {
		t.Error(err)
	}
}

// Another reader of image layouts finds referrers as manifests of index.json.
func TestReferrersInLayout(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "app", tarOf(t, file("f", "1")))
	_, err := s.AddReferrer(t.Context(), img, spdx, []byte("{}"), nil)
	must(t, err)
	index, err := layout.ImageIndexFromPath(s.images)
	must(t, err)
	m, err := index.IndexManifest()
	must(t, err)
	if len(m.Manifests) != 2 || m.Manifests[1].ArtifactType != spdx {
		t.Fatalf("index holds %+v", m.Manifests)
	}
	ref, err := index.Image(m.Manifests[1].Digest)
	must(t, err)
	rm, err := ref.Manifest()
	must(t, err)
	if rm.Subject == nil || rm.Subject.Digest.String() != img.Descriptor.Digest.String() {
		t.Errorf("subject %+v", rm.Subject)
	}
}

// What a build keeps survives a collection: blobs and folders by digest, and
// folders by path.
func TestGCKeeps(t *testing.T) {
	s := newStore(t)
	_, layers, err := commitOver(t, s, "app", func(root string) { write(t, root+"/f", "1") })
	must(t, err)
	s.Close() // so that no layer is pending
	must(t, s.Remove(t.Context(), "app"))
	must(t, s.Remove(t.Context(), "base"))
	top := layers[1]
	dir, _ := s.LayerDir(top.DiffID)
	for _, keep := range [][]string{{top.DiffID.String(), top.Descriptor.Digest.String()}, {dir, top.Descriptor.Digest.String()}} {
		_, err := s.GC(t.Context(), keep)
		must(t, err)
		if _, ok := s.LayerDir(top.DiffID); !ok {
			t.Errorf("keeping %v: the folder is gone", keep)
		}
		if left := listing(t, filepath.Dir(s.blobPath(emptyDigest))); len(left) != 1 || left[0] != top.Descriptor.Digest.Encoded() {
			t.Errorf("keeping %v: blobs %v", keep, left)
		}
	}
	// An image can be made of it again.
	_, _, err = s.Commit(t.Context(), Commit{Names: []string{"again"}, Epoch: epoch, Layers: []LayerSource{{Packed: &top}}})
	must(t, err)
	must(t, s.Remove(t.Context(), "again"))
	got, err := s.GC(t.Context(), nil)
	if err != nil || got.Layers != 1 || got.Blobs != 3 {
		t.Errorf("without: %+v, %v", got, err)
	}
	got.Add(Reclaimed{1, 2, 3})
	if got.Layers != 3 || got.Blobs != 4 {
		t.Errorf("sum %+v", got)
	}
}

func TestRemoveForce(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "one", tarOf(t, file("f", "1")))
	must(t, s.Tag(t.Context(), "one", "two"))
	other := importLayers(t, s, "other", tarOf(t, file("f", "2")))
	gone, err := s.RemoveImage(t.Context(), img.ID.String(), RemoveOptions{Force: true})
	if err != nil || !slices.Equal(gone, []string{"one:latest", "two:latest"}) {
		t.Errorf("removed %v, %v", gone, err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].ID != other.ID {
		t.Errorf("left %v, %v", list, err)
	}
	must(t, s.Tag(t.Context(), "other", "more"))
	if gone, err = s.RemoveImage(t.Context(), "other", RemoveOptions{Force: true}); err != nil || !slices.Equal(gone, []string{"other:latest"}) {
		t.Errorf("by name: %v, %v", gone, err)
	}
}
