package registry_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

func newStore(t *testing.T) *image.Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("layers have owners: this needs root")
	}
	s, err := image.Open(state.Dirs{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// put imports an image of one file with random content.
func put(t *testing.T, s *image.Store, name string) image.Image {
	t.Helper()
	data := make([]byte, 1<<20)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	var layer, archive bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "data", Mode: 0o644, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	config := ispec.Image{Platform: ispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	if _, err := image.WriteArchive(&archive, name, config, []image.Layer{{Tar: layer.Bytes(), CreatedBy: "test"}}); err != nil {
		t.Fatal(err)
	}
	images, err := s.Import(t.Context(), &archive, image.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return images[0]
}

func serve(t *testing.T, s *image.Store, opts registry.Options) (host string) {
	t.Helper()
	srv := httptest.NewServer(registry.New(s, opts))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// Another implementation reads every byte and checks every digest.
func TestRemote(t *testing.T) {
	s := newStore(t)
	img := put(t, s, "prometheus")
	host := serve(t, s, registry.Options{})
	for _, ref := range []string{"/prometheus", "/library/prometheus:latest", "/docker.io/library/prometheus", "/prometheus@" + img.Descriptor.Digest.String()} {
		parsed, err := name.ParseReference(host + ref)
		if err != nil {
			t.Fatal(err)
		}
		got, err := remote.Image(parsed)
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		if err := validate.Image(got); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		if d, err := got.Digest(); err != nil || d.String() != img.Descriptor.Digest.String() {
			t.Errorf("%s: %v, %v", ref, d, err)
		}
	}
}

// What is attached to an image is found as other clients look for it.
func TestRemoteReferrers(t *testing.T) {
	s := newStore(t)
	img := put(t, s, "app:v1")
	if _, err := s.AddReferrer(t.Context(), img, "application/spdx+json", []byte(`{"a":1}`), map[string]string{"note": "x"}); err != nil {
		t.Fatal(err)
	}
	subject, err := name.NewDigest(serve(t, s, registry.Options{}) + "/app@" + img.Descriptor.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Referrers(subject, remote.WithFilter("artifactType", "application/spdx+json"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil || len(list.Manifests) != 1 || list.Manifests[0].ArtifactType != "application/spdx+json" || list.Manifests[0].Annotations["note"] != "x" {
		t.Fatalf("referrers %+v, %v", list, err)
	}
	got, err := remote.Image(subject.Context().Digest(list.Manifests[0].Digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := got.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers %v, %v", layers, err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if data, err := io.ReadAll(r); err != nil || string(data) != `{"a":1}` {
		t.Errorf("content %q, %v", data, err)
	}
}

func TestOwnPull(t *testing.T) {
	from, to := newStore(t), newStore(t)
	want := put(t, from, "app:v1")
	host := serve(t, from, registry.Options{})
	got, err := to.Pull(t.Context(), host+"/app:v1", image.PullOptions{})
	if err != nil || got.Descriptor.Digest != want.Descriptor.Digest {
		t.Errorf("pulled %v, %v", got.Descriptor.Digest, err)
	}
	if _, err := to.Pull(t.Context(), host+"/nothing", image.PullOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("missing: %v", err)
	}
}

func do(t *testing.T, method, url string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestProtocol(t *testing.T) {
	s := newStore(t)
	img := put(t, s, "app:v1")
	put(t, s, "app:v2")
	put(t, s, "quay.io/team/tool")
	subject := img.Descriptor.Digest
	url := "http://" + serve(t, s, registry.Options{Hosts: []string{"gateway"}, Referrers: func(d digest.Digest, kind string) ([]ispec.Descriptor, error) {
		if d != subject || kind != "" && kind != "application/spdx+json" {
			return nil, nil
		}
		return []ispec.Descriptor{{MediaType: ispec.MediaTypeImageManifest, ArtifactType: "application/spdx+json", Digest: subject, Size: 1}}, nil
	}})
	manifest, layer, config := subject.String(), img.Manifest.Layers[0].Digest.String(), img.ID.String()
	missing := digest.FromString("nothing").String()
	header := func(key, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(key, value) }
	}
	for _, c := range []struct {
		method, path string
		change       func(*http.Request)
		status       int
		want         string // in the body
	}{
		{"GET", "/v2/", nil, 200, "{}"},
		{"GET", "/v2/app/manifests/v1", nil, 200, layer},
		{"HEAD", "/v2/app/manifests/v1", nil, 200, ""},
		{"GET", "/v2/team/tool/manifests/latest?ns=quay.io", nil, 200, "layers"},
		{"GET", "/v2/library/app/manifests/v2?ns=docker.io", nil, 200, "layers"},
		{"GET", "/v2/app/manifests/" + manifest, nil, 200, layer},
		{"GET", "/v2/app/manifests/" + config, nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/app/manifests/" + layer, nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/app/manifests/v3", nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/app/manifests/" + missing, nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/app/manifests/sha256:12", nil, 400, "DIGEST_INVALID"},
		{"GET", "/v2/APP/manifests/v1", nil, 400, "NAME_INVALID"},
		{"GET", "/v2/app/blobs/" + config, nil, 200, "rootfs"},
		{"GET", "/v2/app/blobs/" + missing, nil, 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/app/blobs/sha256:../../../index.json", nil, 404, "UNSUPPORTED"},
		{"GET", "/v2/app/tags/list", nil, 200, `{"name":"app","tags":["v1","v2"]}`},
		{"GET", "/v2/app/tags/list?n=1", nil, 200, `["v1"]`},
		{"GET", "/v2/app/tags/list?n=1&last=v1", nil, 200, `["v2"]`},
		{"GET", "/v2/app/tags/list?n=x", nil, 400, "PAGINATION"},
		{"GET", "/v2/nothing/tags/list", nil, 404, "NAME_UNKNOWN"},
		{"GET", "/v2/_catalog", nil, 200, `{"repositories":["app","quay.io/team/tool"]}`},
		{"GET", "/v2/app/referrers/" + manifest, nil, 200, "spdx"},
		{"GET", "/v2/app/referrers/" + manifest + "?artifactType=other", nil, 200, `"manifests":[]`},
		{"GET", "/v2/app/referrers/" + missing, nil, 200, `"manifests":[]`},
		{"GET", "/v3/", nil, 404, "UNSUPPORTED"},
		{"PUT", "/v2/app/manifests/v1", nil, 405, "UNSUPPORTED"},
		{"POST", "/v2/app/blobs/uploads/", nil, 405, "UNSUPPORTED"},
		{"DELETE", "/v2/app/manifests/v1", nil, 405, "UNSUPPORTED"},
		{"GET", "/v2/", header("Origin", "http://evil.example"), 403, "DENIED"},
		{"GET", "/v2/", header("Sec-Fetch-Site", "none"), 403, "DENIED"},
		{"GET", "/v2/", func(r *http.Request) { r.Host = "evil.example" }, 403, "DENIED"},
		{"GET", "/v2/", func(r *http.Request) { r.Host = "gateway:5000" }, 200, "{}"},
	} {
		resp, body := do(t, c.method, url+c.path, c.change)
		if resp.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s, want %d with %s", c.method, c.path, resp.StatusCode, body, c.status, c.want)
		}
		if c.status >= 400 && (!json.Valid([]byte(body)) || !strings.HasPrefix(body, `{"errors":[{"code":`)) {
			t.Errorf("%s %s: error is no error of the specification: %s", c.method, c.path, body)
		}
	}
	resp, body := do(t, "GET", url+"/v2/app/blobs/"+layer, header("Range", "bytes=10-19"))
	if resp.StatusCode != 206 || len(body) != 10 || resp.Header.Get("Docker-Content-Digest") != layer {
		t.Errorf("range: %d, %d bytes, %v", resp.StatusCode, len(body), resp.Header)
	}
	etag := resp.Header.Get("Etag")
	if resp, _ = do(t, "GET", url+"/v2/app/blobs/"+layer, header("If-None-Match", etag)); resp.StatusCode != 304 {
		t.Errorf("If-None-Match: %d", resp.StatusCode)
	}
	resp, _ = do(t, "HEAD", url+"/v2/app/manifests/v1", nil)
	if resp.Header.Get("Content-Type") != ispec.MediaTypeImageManifest || resp.ContentLength != img.Descriptor.Size ||
		resp.Header.Get("Docker-Content-Digest") != manifest {
		t.Errorf("manifest: %v", resp.Header)
	}
}

// Ten clients ask for what only upstream has: it is asked once.
func TestPullThrough(t *testing.T) {
	far, near := newStore(t), newStore(t)
	want := put(t, far, "team/app:v1")
	farHost := serve(t, far, registry.Options{})
	var asked atomic.Int32
	url := "http://" + serve(t, near, registry.Options{Upstream: func(ctx context.Context, ref string) (image.Image, error) {
		asked.Add(1)
		return near.Pull(ctx, ref, image.PullOptions{})
	}})
	path := "/v2/team/app/manifests/v1?ns=" + farHost
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			resp, body := do(t, "GET", url+path, nil)
			if resp.StatusCode != 200 || resp.Header.Get("Docker-Content-Digest") != want.Descriptor.Digest.String() {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
	wg.Wait()
	n := asked.Load()
	if n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
	if resp, _ := do(t, "GET", url+path, nil); resp.StatusCode != 200 || asked.Load() != n {
		t.Errorf("what is here: %d, asked %d times", resp.StatusCode, asked.Load()-n)
	}
	if resp, body := do(t, "GET", url+"/v2/team/none/manifests/v1?ns="+farHost, nil); resp.StatusCode != 404 || !strings.Contains(body, "MANIFEST_UNKNOWN") {
		t.Errorf("not there either: %d %s", resp.StatusCode, body)
	}
}

func TestUpstreamFails(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{errdefs.ErrUnavailable, 503}, {errdefs.ErrResourceExhausted, 429}, {errdefs.ErrUnauthenticated, 403},
		{errdefs.ErrNotFound, 404}, {errors.New("other"), 500},
	} {
		url := "http://" + serve(t, newStore(t), registry.Options{Upstream: func(context.Context, string) (image.Image, error) {
			return image.Image{}, fmt.Errorf("pull: %w", c.err)
		}})
		if resp, _ := do(t, "GET", url+"/v2/app/manifests/v1", nil); resp.StatusCode != c.status {
			t.Errorf("%v: %d, want %d", c.err, resp.StatusCode, c.status)
		}
	}
}
