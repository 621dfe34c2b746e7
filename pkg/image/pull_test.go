package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// upstream is a registry in memory, with faults, that counts what it sends.
type upstream struct {
	host string
	http.Handler

	mu   sync.Mutex
	sent map[string]int64 // body bytes by the last part of the path
	gets map[string]int
	// fault may answer instead of the registry.
	fault func(w http.ResponseWriter, r *http.Request) bool
	// cut is after how many bytes of a blob the connection breaks; 0 never.
	cut func() int64
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{sent: map[string]int64{}, gets: map[string]int{},
		Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	srv := httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(srv.Close)
	u.host = strings.TrimPrefix(srv.URL, "http://")
	return u
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	fault, cut := u.fault, u.cut
	u.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	c := &cutWriter{ResponseWriter: w, u: u, item: filepath.Base(r.URL.Path), left: 1 << 62}
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
		u.mu.Lock()
		u.gets[c.item]++
		u.mu.Unlock()
		if cut != nil {
			c.left = cut()
		}
	}
	u.Handler.ServeHTTP(c, r)
}

type cutWriter struct {
	http.ResponseWriter
	u    *upstream
	item string
	left int64
}

func (c *cutWriter) Write(p []byte) (int, error) {
	short := int64(len(p)) >= c.left
	if short {
		p = p[:c.left]
	}
	n, err := c.ResponseWriter.Write(p)
	c.left -= int64(n)
	c.u.mu.Lock()
	c.u.sent[c.item] += int64(n)
	c.u.mu.Unlock()
	if short {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func (u *upstream) put(t testing.TB, path, mediaType string, data []byte) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPut, path, bytes.NewReader(data))
	r.Header.Set("Content-Type", mediaType)
	w := httptest.NewRecorder()
	u.Handler.ServeHTTP(w, r)
	if w.Code >= 300 {
		t.Fatalf("PUT %s: %d %s", path, w.Code, w.Body)
	}
}

// push uploads the image of a under an index, and returns the index's digest.
func (u *upstream) push(t testing.TB, a *archive, repo, tag string) digest.Digest {
	t.Helper()
	a.seal(t)
	for name, data := range a.files {
		if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			r := httptest.NewRequest(http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest=sha256:"+hex, bytes.NewReader(data))
			w := httptest.NewRecorder()
			u.Handler.ServeHTTP(w, r)
			if w.Code != http.StatusCreated {
				t.Fatalf("upload: %d %s", w.Code, w.Body)
			}
		}
	}
	desc := a.index.Manifests[0]
	u.put(t, "/v2/"+repo+"/manifests/"+desc.Digest.String(), ispec.MediaTypeImageManifest, a.files["blobs/sha256/"+desc.Digest.Encoded()])
	desc.Annotations = nil
	desc.Platform = &a.config.Platform
	index := ispec.Index{MediaType: ispec.MediaTypeImageIndex, Manifests: []ispec.Descriptor{desc}}
	index.SchemaVersion = 2
	data, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	u.put(t, "/v2/"+repo+"/manifests/"+tag, ispec.MediaTypeImageIndex, data)
	return digest.FromBytes(data)
}

// noiseLayer is a layer that does not compress.
func noiseLayer(t testing.TB, size int) []byte {
	t.Helper()
	noise := make([]byte, size)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	return tarOf(t, file("noise", string(noise)))
}

func TestPull(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	a := newArchive(t, "x", tarOf(t, file("a", "1")), noiseLayer(t, 1<<20))
	root := u.push(t, a, "team/app", "v1")
	last := map[string]PullProgress{}
	img, err := s.Pull(t.Context(), u.host+"/team/app:v1", PullOptions{Progress: func(p PullProgress) { last[p.Item] = p }})
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != u.host+"/team/app:v1" || img.Source != SourceRegistry || img.Descriptor.Digest != a.index.Manifests[0].Digest {
		t.Errorf("pulled %+v", img)
	}
	for _, l := range img.Manifest.Layers {
		if p := last[l.Digest.String()]; p.Status != PullDone || p.Done != l.Size || p.Total != l.Size {
			t.Errorf("progress of %s: %+v", l.Digest, p)
		}
	}
	index, err := s.readIndex()
	if err != nil || index.Manifests[0].Annotations[annotationIndex] != root.String() {
		t.Errorf("index digest not recorded: %+v, %v", index.Manifests, err)
	}
	if _, err := os.Stat(s.blobPath(root)); err != nil {
		t.Errorf("index blob: %v", err)
	}
	if _, err := s.Unpack(t.Context(), img); err != nil {
		t.Error(err)
	}
	if left := listing(t, s.ingestDir()); len(left) > 0 {
		t.Errorf("left in ingest: %v", left)
	}
	// What is there is not fetched again, not even for another name.
	clear(u.gets)
	for _, ref := range []string{"/team/app:v1", "/team/app@" + root.String(), "/team/app:v1@" + img.Descriptor.Digest.String()} {
		if again, err := s.Pull(t.Context(), u.host+ref, PullOptions{}); err != nil || again.ID != img.ID {
			t.Errorf("%s: %v, %v", ref, again.ID, err)
		}
	}
	if len(u.gets) > 0 {
		t.Errorf("fetched again: %v", u.gets)
	}
}

// Every connection breaks after 300 kB; no byte comes twice.
func TestPullResumesWithinOnePull(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	u.push(t, newArchive(t, "x", noiseLayer(t, 2<<20), noiseLayer(t, 1<<20)), "app", "latest")
	u.cut = func() int64 { return 300_000 }
	img, err := s.Pull(t.Context(), u.host+"/app", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range img.Manifest.Layers {
		if got := u.sent[l.Digest.String()]; got != l.Size {
			t.Errorf("layer of %d bytes: %d were sent", l.Size, got)
		}
		if u.gets[l.Digest.String()] < 4 {
			t.Errorf("layer came in %d requests", u.gets[l.Digest.String()])
		}
	}
	checkCleanPull(t, s)
}

// checkCleanPull is checkClean for an image whose index blob is kept.
func checkCleanPull(t testing.TB, s *Store) {
	t.Helper()
	if left := listing(t, s.ingestDir()); len(left) > 0 {
		t.Errorf("left in ingest: %v", left)
	}
}

// A pull is interrupted ten times at random points; GC runs in between. The
// next one comes to the same result with what is missing.
func TestPullInterrupted(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	layer := noiseLayer(t, 8<<20)
	u.push(t, newArchive(t, "x", layer, noiseLayer(t, 2<<20)), "app", "latest")
	interrupted := 0
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		u.mu.Lock()
		u.cut = func() int64 {
			return 1 + mathrand.Int64N(800_000)
		}
		u.mu.Unlock()
		stop := 1 + mathrand.IntN(3)
		_, err := s.Pull(ctx, u.host+"/app", PullOptions{Progress: func(p PullProgress) {
			if p.Status == PullFetches {
				if stop--; stop == 0 {
					cancel()
				}
			}
		}})
		cancel()
		if err == nil {
			break
		}
		interrupted++
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if images, err := s.List(); err != nil || len(images) != 0 {
			t.Fatalf("an interrupted pull left %v, %v", images, err)
		}
		if _, err := s.GC(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		for _, name := range listing(t, s.ingestDir()) {
			if !strings.HasPrefix(name, partialDir) || strings.HasSuffix(name, stagingLock) {
				t.Errorf("left in ingest: %s", name)
			}
		}
	}
	if interrupted == 0 {
		t.Error("no pull was interrupted")
	}
	u.cut = nil
	clear(u.sent)
	have := map[string]int64{}
	for _, name := range listing(t, s.ingestDir()) {
		if info, err := os.Stat(filepath.Join(s.ingestDir(), name)); err == nil {
			have["sha256:"+filepath.Base(name)] = info.Size()
		}
	}
	img, err := s.Pull(t.Context(), u.host+"/app", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if img.Config.RootFS.DiffIDs[0] != digest.FromBytes(layer) {
		t.Error("another image")
	}
	if _, err := s.Unpack(t.Context(), img); err != nil {
		t.Error(err)
	}
	for _, l := range img.Manifest.Layers {
		if got, want := u.sent[l.Digest.String()], l.Size-have[l.Digest.String()]; got != want {
			t.Errorf("layer of %d bytes, %d missing: %d were sent", l.Size, want, got)
		}
	}
	t.Logf("%d interruptions", interrupted)
	checkCleanPull(t, s)
}

const pullEnv = "SBT_PULL" // STORE REF

func TestPullProcess(t *testing.T) {
	root, ref, ok := strings.Cut(os.Getenv(pullEnv), " ")
	if !ok {
		t.Skip("run by TestPullTogether")
	}
	if _, err := openStore(t, root).Pull(t.Context(), ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Three processes and three goroutines want the same: each blob comes once.
func TestPullTogether(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	u.push(t, newArchive(t, "x", noiseLayer(t, 4<<20), noiseLayer(t, 1<<20)), "app", "latest")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestPullProcess$")
			cmd.Env = append(os.Environ(), pullEnv+"="+filepath.Dir(s.images)+" "+u.host+"/app")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		wg.Go(func() {
			if _, err := s.Pull(t.Context(), u.host+"/app", PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for item, n := range u.gets {
		if n != 1 {
			t.Errorf("blob %s was fetched %d times", item, n)
		}
	}
	checkCleanPull(t, s)
}

func TestPullWrongContent(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	root := u.push(t, newArchive(t, "x", noiseLayer(t, 1<<20)), "app", "latest")
	var layer digest.Digest
	u.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet {
			rec := httptest.NewRecorder()
			u.Handler.ServeHTTP(rec, r)
			if rec.Body.Len() > 1<<20 {
				layer = digest.Digest(filepath.Base(r.URL.Path))
				rec.Body.Bytes()[1000]++
				_, _ = w.Write(rec.Body.Bytes())
				return true
			}
		}
		return false
	}
	_, err := s.Pull(t.Context(), u.host+"/app", PullOptions{})
	if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), layer.String()) {
		t.Errorf("forged layer: %v", err)
	}
	// The config, which is well, waits for the next pull.
	if left := listing(t, s.ingestDir()); len(left) != 2 || filepath.Join(s.ingestDir(), left[1]) == s.partialPath(layer) {
		t.Errorf("left in ingest: %v", left)
	}
	// A damaged partial costs a second request and no more.
	u.fault = nil
	if err := os.MkdirAll(filepath.Dir(s.partialPath(layer)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.partialPath(layer), []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), u.host+"/app", PullOptions{}); err != nil {
		t.Error(err)
	}
	checkCleanPull(t, s)
	u.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", ispec.MediaTypeImageManifest)
		fmt.Fprint(w, "{}")
		return true
	}
	if _, err := s.Pull(t.Context(), u.host+"/app@"+root.String(), PullOptions{}); !errdefs.IsDataLoss(err) {
		t.Errorf("another manifest than the pin: %v", err)
	}
}

func TestPullRefused(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	u.push(t, newArchive(t, "x", tarOf(t, file("a", "1"))), "app", "latest")
	for _, c := range []struct {
		code int
		is   func(error) bool
		hint string
	}{
		{401, errdefs.IsUnauthorized, "docker login"},
		{403, errdefs.IsPermissionDenied, "docker login"},
		{404, errdefs.IsNotFound, "name and tag"},
		{429, errdefs.IsResourceExhausted, "mirror"},
	} {
		u.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/v2/" {
				return false
			}
			w.WriteHeader(c.code)
			return true
		}
		_, err := s.Pull(t.Context(), u.host+"/app", PullOptions{})
		e, ok := errors.AsType[*RegistryError](err)
		if !c.is(err) || !ok || !strings.Contains(e.Hint(), c.hint) {
			t.Errorf("%d: %v", c.code, err)
		}
	}
	failures := 2
	u.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if failures--; failures >= 0 {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	}
	if _, err := s.Pull(t.Context(), u.host+"/app", PullOptions{}); err != nil {
		t.Errorf("502 twice: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = s.Pull(t.Context(), l.Addr().String()+"/app", PullOptions{})
	if e, ok := errors.AsType[*RegistryError](err); !errdefs.IsUnavailable(err) || !ok || !strings.Contains(e.Hint(), "image import") {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := s.Pull(t.Context(), "app", PullOptions{Platform: "plan9/amd64"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("other platform: %v", err)
	}
}

// A registry that wants a token, which its token server gives for a password.
func TestPullToken(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	u.push(t, newArchive(t, "x", noiseLayer(t, 1<<10)), "team/app", "latest")
	u.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			user, password, _ := r.BasicAuth()
			if user != "ada" || password != "secret" || r.FormValue("scope") != "repository:team/app:pull" {
				w.WriteHeader(http.StatusUnauthorized)
			} else {
				fmt.Fprint(w, `{"token":"letmein"}`)
			}
			return true
		}
		if r.Header.Get("Authorization") != "Bearer letmein" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+u.host+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	}
	if _, err := s.Pull(t.Context(), u.host+"/team/app", PullOptions{ConfigDir: t.TempDir()}); !errdefs.IsUnauthorized(err) {
		t.Errorf("without credentials: %v", err)
	}
	config := t.TempDir()
	auths, err := json.Marshal(map[string]any{"auths": map[string]any{u.host: authn.AuthConfig{Username: "ada", Password: "secret"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "config.json"), auths, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), u.host+"/team/app", PullOptions{ConfigDir: config}); err != nil {
		t.Error(err)
	}
}

// A full disk leaves what has come, and with room the pull goes on.
func TestPullDiskFull(t *testing.T) {
	s, u := openStore(t, smallDisk(t)), newUpstream(t)
	u.push(t, newArchive(t, "x", noiseLayer(t, 5<<20)), "app", "latest")
	filler := filepath.Join(filepath.Dir(s.images), "filler")
	if err := os.WriteFile(filler, make([]byte, 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.Pull(t.Context(), u.host+"/app", PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("full disk: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), u.host+"/app", PullOptions{}); err != nil {
		t.Error(err)
	}
	checkCleanPull(t, s)
}
