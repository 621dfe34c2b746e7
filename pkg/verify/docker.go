package verify

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
)

// Docker is the Docker engine of the stack.
type Docker interface {
	Run(ctx context.Context, s docker.Service, p stack.Progress) error
	Remove(ctx context.Context, stage string, volumes bool) error
	Digests(ctx context.Context, s docker.Service) ([]string, error)
}

// stageName is in the labels of what a walk makes in Docker, so that it is found
// again, also by `down`.
const stageName = "verify"

// answersDocker has Docker take the image from the store's endpoint, and run it.
func (w *Walk) answersDocker(ctx context.Context, p stack.Progress) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/version", port)
	s := docker.Service{
		Stage: stageName, Name: "verify-docker", Image: demoApp,
		Ports: []docker.Port{{Host: port, Container: appPort}},
		Ready: func(ctx context.Context) error { return get(ctx, url, "", nil) },
	}
	begun := time.Now()
	if err := w.Docker.Run(ctx, s, p); err != nil {
		return err
	}
	took := time.Since(begun)
	img, err := w.Images.Ensure(ctx, demoApp, p)
	if err != nil {
		return err
	}
	digests, err := w.Docker.Digests(ctx, s)
	if err != nil {
		return err
	}
	if !slices.Contains(digests, img.Digest) {
		return fmt.Errorf("docker runs an image with the digests %q, and not %s@%s", digests, img.Name, img.Digest)
	}
	p.Note("%s answers after %.1f s; the image is %s", url, took.Seconds(), short(img.Digest))
	return w.Docker.Remove(ctx, stageName, true)
}

// freePort is one that nobody listened at a moment ago.
func freePort() (uint16, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), l.Close()
}

// short is the beginning of a digest.
func short(digest string) string { return digest[:min(len(digest), len("sha256:")+12)] }
