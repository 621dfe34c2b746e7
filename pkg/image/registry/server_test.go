package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
)

func TestServer(t *testing.T) {
	from, to := newStore(t), newStore(t)
	want := put(t, from, "app:v1")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s := &registry.Server{Store: from, Addr: "127.0.0.1:0"}
	if item, ok := s.Status(); !ok || item.State != "degraded" {
		t.Errorf("before the start: %+v, %t", item, ok)
	}
	s.Start(ctx)
	item, ok := s.Status()
	if !ok || item.State != "up" || strings.HasSuffix(item.Where, ":0") {
		t.Fatalf("%+v, %t", item, ok)
	}
	if got, err := to.Pull(t.Context(), item.Where+"/app:v1", image.PullOptions{}); err != nil || got.Descriptor.Digest != want.Descriptor.Digest {
		t.Errorf("pulled %v, %v", got.Descriptor.Digest, err)
	}

	// A second one finds the port taken, says by whom, and goes on.
	second := &registry.Server{Store: to, Addr: item.Where}
	second.Start(t.Context())
	if other, _ := second.Status(); other.State != "degraded" || !strings.Contains(other.Note, fmt.Sprintf("(pid %d)", os.Getpid())) || !strings.Contains(other.Note, "--registry") {
		t.Errorf("a port that is taken: %+v", other)
	}
	err := second.ServeAt(netip.MustParseAddr("127.0.0.2"))
	hint, ok := errors.AsType[interface {
		error
		Hint() string
	}](err)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "is taken by") || !ok || !strings.Contains(hint.Hint(), "SANDBOX_REGISTRY") {
		t.Errorf("a port that is taken: %v", err)
	}

	// Its end is that of the context, with the connections that are open.
	resp, err := http.Get("http://" + item.Where + "/v2/")
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%+v, %v", resp, err)
	}
	resp.Body.Close()
	stop()
	gone := false
	for range 500 {
		conn, err := net.Dial("tcp", item.Where)
		if gone = err != nil; gone {
			break
		}
		conn.Close()
		time.Sleep(10 * time.Millisecond)
	}
	if !gone {
		t.Fatal("it serves after its end")
	}

	// The port is free: the second tries again when it is asked to serve.
	if err := second.ServeAt(netip.MustParseAddr("127.0.0.2")); err != nil {
		t.Error(err)
	}
	if other, _ := second.Status(); other.State != "up" {
		t.Errorf("a port that was taken: %+v", other)
	}
}

// TestServeAt: the same images at a second address of this host, by which it
// may then be called, and not by others.
func TestServeAt(t *testing.T) {
	store := newStore(t)
	put(t, store, "app:v1")
	ctx, stop := context.WithCancel(t.Context())
	s := &registry.Server{Store: store, Addr: "127.0.0.1:0"}
	if err := s.ServeAt(netip.MustParseAddr("127.0.0.2")); err == nil {
		t.Error("it serves before its start")
	}
	s.Start(ctx)
	for range 2 {
		if err := s.ServeAt(netip.MustParseAddr("127.0.0.2")); err != nil {
			t.Fatal(err)
		}
	}
	item, _ := s.Status()
	other := "127.0.0.2" + strings.TrimPrefix(item.Where, "127.0.0.1")
	resp, err := http.Get("http://" + other + "/v2/library/app/manifests/v1?ns=docker.io")
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%+v, %v", resp, err)
	}
	resp.Body.Close()
	if err := s.ServeAt(netip.MustParseAddr("192.0.2.1")); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "192.0.2.1:") {
		t.Errorf("an address of no link: %v", err)
	}
	stop()
	for range 500 {
		conn, err := net.Dial("tcp", other)
		if err != nil {
			return
		}
		conn.Close()
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("it serves after its end")
}

func TestServerOff(t *testing.T) {
	s := &registry.Server{Addr: registry.Off}
	s.Start(t.Context())
	if item, ok := s.Status(); ok {
		t.Errorf("%+v", item)
	}
	for addr, ok := range map[string]bool{
		"off": true, "": true, "127.0.0.1:0": true, "[::1]:5055": true, "10.0.0.1:80": true,
		"localhost:5055": false, ":5055": false, "127.0.0.1": false, "5055": false, "127.0.0.1:99999": false,
	} {
		if err := registry.CheckAddr(addr); (err == nil) != ok {
			t.Errorf("%q: %v", addr, err)
		}
	}
}
