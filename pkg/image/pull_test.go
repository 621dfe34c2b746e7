package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

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
	checkClean(t, s) // the index is no garbage
	for _, name := range []string{u.host + "/team/app@" + root.String(), root.String()} {
		if got, err := s.Resolve(name); err != nil || got.ID != img.ID {
			t.Errorf("Resolve(%s): %v, %v", name, got.ID, err)
		}
	}
	if _, err := s.Unpack(t.Context(), img); err != nil {
		t.Error(err)
	}
	if left := listing(t, s.ingestDir()); len(left) > 0 {
		t.Errorf("left in ingest: %v", left)
	}
	// What is there is not fetched again, not even for another name.
	u.mend()
	for _, ref := range []string{"/team/app:v1", "/team/app@" + root.String(), "/team/app:v1@" + img.Descriptor.Digest.String()} {
		if again, err := s.Pull(t.Context(), u.host+ref, PullOptions{}); err != nil || again.ID != img.ID {
			t.Errorf("%s: %v, %v", ref, again.ID, err)
		}
	}
	u.idle()
	if len(u.gets) > 0 {
		t.Errorf("fetched again: %v", u.gets)
	}
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
	u.mend()
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
	if _, err := s.Pull(t.Context(), u.host+"/team/app", PullOptions{ConfigDir: dockerLogin(t, u.host)}); err != nil {
		t.Error(err)
	}
}

// dockerLogin is the folder of a docker configuration with Ada's password.
func dockerLogin(t testing.TB, host string) string {
	t.Helper()
	config := t.TempDir()
	auths, err := json.Marshal(map[string]any{"auths": map[string]any{host: authn.AuthConfig{Username: "ada", Password: "secret"}}})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(config, "config.json"), auths, 0o600))
	return config
}

// Plain HTTP goes to this machine only, whatever an answer redirects to.
func TestPullPlain(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "127.9.9.9": true, "[::1]:5000": true,
		"docker.io": false, "10.0.0.1:5000": false, "192.168.1.1": false, "localhost.example:80": false, "x.localhost": false,
	} {
		if isLoopback(host) != want {
			t.Errorf("isLoopback(%q) is %t", host, !want)
		}
	}
	s, u := newStore(t), newUpstream(t)
	_, port, err := net.SplitHostPort(u.host)
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	u.fault = func(http.ResponseWriter, *http.Request) bool { asked = true; return false }
	// An address that is this machine's too, but does not look like it.
	if _, err := s.Pull(t.Context(), "0.0.0.0:"+port+"/app", PullOptions{}); !errdefs.IsUnavailable(err) || asked {
		t.Errorf("plain HTTP: asked %t, %v", asked, err)
	}
	u.push(t, newArchive(t, "x", tarOf(t, file("a", "1"))), "app", "latest")
	if _, err := s.Pull(t.Context(), "0.0.0.0:"+port+"/app", PullOptions{Insecure: true}); err != nil {
		t.Errorf("with leave: %v", err)
	}
}
