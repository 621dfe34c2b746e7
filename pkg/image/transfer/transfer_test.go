package transfer

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestOpen(t *testing.T) {
	for engine, want := range map[string]error{
		"docker": nil, "docker:unix:///run/docker.sock": nil, "docker:tcp://10.0.0.1:2375": nil, "containerd": nil, "containerd:k8s.io": nil,
		"": errdefs.ErrInvalidArgument, "podman": errdefs.ErrInvalidArgument, "docker:": errdefs.ErrInvalidArgument,
		"containerd:": errdefs.ErrInvalidArgument, "docker:nothing": errdefs.ErrInvalidArgument,
		"docker:ssh://me@there": errdefs.ErrNotImplemented,
	} {
		if _, err := Open(engine); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", engine, err, want)
		}
	}
}

// What is not in reach says where it was looked for, and what can be done.
func TestNotInReach(t *testing.T) {
	dir := t.TempDir()
	e, err := Open("docker:unix://" + dir + "/docker.sock")
	if err != nil {
		t.Fatal(err)
	}
	err = e.Save(t.Context(), []string{"app"}, io.Discard)
	if h, ok := errors.AsType[*hinted](err); !errdefs.IsUnavailable(err) || !ok || !strings.Contains(h.Hint(), "DOCKER_HOST") || !strings.Contains(err.Error(), dir) {
		t.Errorf("docker: %v", err)
	}
	if _, err := e.Load(t.Context(), strings.NewReader("x")); !errdefs.IsUnavailable(err) {
		t.Errorf("docker: %v", err)
	}
	t.Setenv("PATH", dir)
	e, err = Open("containerd")
	if err != nil {
		t.Fatal(err)
	}
	err = e.Save(t.Context(), []string{"app"}, io.Discard)
	if h, ok := errors.AsType[*hinted](err); !errdefs.IsFailedPrecondition(err) || !ok || !strings.Contains(h.Hint(), "install containerd") {
		t.Errorf("containerd: %v", err)
	}
	t.Setenv("CONTAINERD_ADDRESS", dir+"/sock")
	script := "#!/bin/sh\necho 'ctr: failed to dial \"" + dir + "/sock\": context deadline exceeded: connection error: desc = \"permission denied\"' >&2; exit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "ctr"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	err = e.Save(t.Context(), []string{"app"}, io.Discard)
	if h, ok := errors.AsType[*hinted](err); !errdefs.IsUnavailable(err) || !ok || !strings.Contains(h.Hint(), "sudo") {
		t.Errorf("containerd: %v", err)
	}
}

// TestLoaded has what versions of docker say.
func TestLoaded(t *testing.T) {
	for _, c := range []struct {
		answer string
		loaded []string
		class  error
	}{
		{`{"stream":"Loaded image: app:v1\n"}` + "\n" + `{"stream":"Loaded image ID: sha256:12\n"}`, []string{"app:v1", "sha256:12"}, nil},
		{`{"status":"Loading layer","progressDetail":{"current":1},"id":"12"}` + `{"stream":"The image app:v1 already exists, renaming the old one\n"}{"stream":"Loaded image: app:v1\nLoaded image: app:v2\n"}`, []string{"app:v1", "app:v2"}, nil},
		{`{"errorDetail":{"message":"write /data: no space left on device"},"error":"write /data: no space left on device"}`, nil, errdefs.ErrResourceExhausted},
		{`{"stream":"Loaded image: app:v1\n"}{"error":"archive/tar: invalid tar header"}`, []string{"app:v1"}, errdefs.ErrInvalidArgument},
		{`{"stream":`, nil, io.ErrUnexpectedEOF},
	} {
		loaded, err := readLoaded(strings.NewReader(c.answer))
		if !slices.Equal(loaded, c.loaded) || !errors.Is(err, c.class) {
			t.Errorf("%s: %q, %v", c.answer, loaded, err)
		}
	}
}
