package image

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"log" //nolint:depguard // what the other registry wants, to be quiet
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// upstream is a registry in memory, with faults, that counts what it sends.
type upstream struct {
	host string
	http.Handler

	mu   sync.Mutex
	busy int              // requests being answered
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
	u.busy++
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		u.busy--
		u.mu.Unlock()
	}()
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

// idle waits until every request is answered: a client may have the last byte
// before it is counted. From then on nobody else touches u.
func (u *upstream) idle() {
	for {
		u.mu.Lock()
		busy := u.busy
		u.mu.Unlock()
		if busy == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// mend ends the faults and counts anew.
func (u *upstream) mend() {
	u.idle()
	u.cut, u.fault = nil, nil
	clear(u.sent)
	clear(u.gets)
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
