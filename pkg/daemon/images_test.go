package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// images is the daemon's fake store.
func (d *daemonTest) images() *fakeImages { return d.config.Images.(*fakeImages) }

func TestImages(t *testing.T) {
	d := start(t)
	ctx := t.Context()
	// A name with slashes, a tag and a digest is one segment of a path.
	const long = "registry.example:5000/team/app:v1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	if img, err := d.InspectImage(ctx, long); err != nil || img.Names[0] != long {
		t.Errorf("%+v, %v", img, err)
	}
	if _, err := d.InspectImage(ctx, "unknown"); err == nil {
		t.Error("an unknown image is found")
	} else {
		wantClass(t, err, api.ClassNotFound, "unknown")
	}
	if layers, err := d.ImageLayers(ctx, long, true); err != nil || len(layers) != 1 || len(layers[0].Tree) != 1 {
		t.Errorf("%+v, %v", layers, err)
	}
	if sbom, err := d.ImageSBOM(ctx, "toolbox"); err != nil || !strings.Contains(string(sbom.Document), "SPDX-2.3") {
		t.Errorf("%s, %v", sbom.Document, err)
	}
	if err := d.TagImage(ctx, long, "team/app:v2"); err != nil || d.images().tagged[0] != long+" team/app:v2" {
		t.Errorf("%q, %v", d.images().tagged, err)
	}
	wantClass(t, d.TagImage(ctx, long, ""), api.ClassInvalidArgument, "name")
	wantClass(t, d.RemoveImage(ctx, "used", false), api.ClassConflict, "container web")
	if err := d.RemoveImage(ctx, "used", true); err != nil || !slices.Equal(d.images().removed, []string{"used"}) {
		t.Errorf("%q, %v", d.images().removed, err)
	}
	if pruned, err := d.PruneImages(ctx, api.ImagePrune{All: true}); err != nil || pruned.Bytes != 4096 {
		t.Errorf("%+v, %v", pruned, err)
	}
	if recipes, err := d.Recipes(ctx, "/some where"); err != nil || recipes[0].Description != "/some where" {
		t.Errorf("%+v, %v", recipes, err)
	}
}

func TestPullAndBuild(t *testing.T) {
	d := start(t)
	var seen []api.Frame
	keep := func(f api.Frame) { seen = append(seen, f) }
	got, err := d.PullImage(t.Context(), api.ImagePull{Name: "app"}, keep)
	if err != nil || got.Image.Name != "app" || len(seen) != 1 || seen[0].Progress.Total != 10 {
		t.Errorf("%+v, %v, frames %+v", got, err, seen)
	}
	if got, err = d.PullImage(t.Context(), api.ImagePull{Name: "app"}, nil); err != nil || got.From != "registry" {
		t.Errorf("without a stream: %+v, %v", got, err)
	}
	_, err = d.PullImage(t.Context(), api.ImagePull{Name: "unknown"}, keep)
	wantClass(t, err, api.ClassNotFound, "unknown")

	seen = nil
	opts := api.ImageBuild{Dir: "/x", Args: map[string]string{"A": "1"}, Dockerfile: []byte("FROM scratch\n")}
	report, err := d.BuildImages(t.Context(), opts, keep)
	if err != nil || len(report.Images) != 1 || report.Images[0].Error.Class != api.ClassNotFound || len(seen) != 2 || seen[0].Build == nil || seen[1].Explain == nil {
		t.Errorf("%+v, %v, frames %+v", report, err, seen)
	}
	if b := d.images().build; string(b.Dockerfile) != "FROM scratch\n" || b.Args["A"] != "1" {
		t.Errorf("the daemon was asked for %+v", b)
	}
}

// TestPullCancelled: a client that goes ends its pull, and waits for that.
func TestPullCancelled(t *testing.T) {
	d := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	_, err := d.PullImage(ctx, api.ImagePull{Name: "endless"}, func(api.Frame) {
		if n++; n == 100 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || err.Error() != context.Canceled.Error() {
		t.Errorf("cancelled: %v", err)
	}
	if !d.images().cancelled.Load() {
		t.Error("the pull goes on without its client")
	}
}

// TestPullUnread: the daemon does not pile up what its client does not read.
func TestPullUnread(t *testing.T) {
	d := start(t)
	images := d.images()
	conn, err := net.Dial("unix", d.dirs.Socket())
	if err != nil {
		t.Fatal(err)
	}
	body := `{"name":"endless"}`
	request := strings.Replace(post("/v1/pull", body), "\r\n\r\n", "\r\nAccept: "+api.NDJSON+"\r\n\r\n", 1)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	conn.Close() // without having read a byte
	d.end()
	// What fits into the queue, one batch of it on its way, and the socket.
	if images.emitted.Load() > 20*maxQueue || !images.cancelled.Load() {
		t.Errorf("%d frames for nobody, cancelled %t", images.emitted.Load(), images.cancelled.Load())
	}
}

func TestImport(t *testing.T) {
	d := start(t)
	// More than a request that is JSON may have, and slower than it may be.
	const size = 3 * maxBody
	got, err := d.ImportImages(t.Context(), io.LimitReader(zeros{}, size), "app:v1")
	if err != nil || got[0].Size != size || got[0].Name != "app:v1" {
		t.Errorf("%+v, %v", got, err)
	}
	// What is refused at once is said at once, in full, however much is to come.
	for range 20 {
		_, err = d.ImportImages(t.Context(), io.LimitReader(zeros{}, 1<<30), "broken")
		wantClass(t, err, api.ClassInvalidArgument, "this is no archive")
	}
	// A reader that fails is the client's own error.
	broken := errors.New("the disk is gone")
	if _, err = d.ImportImages(t.Context(), io.MultiReader(io.LimitReader(zeros{}, 1<<20), failing{broken}), ""); !errors.Is(err, broken) {
		t.Errorf("a file that cannot be read: %v", err)
	}
	// An interrupt does not wait for a stdin that has nothing to say.
	silent, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err = d.ImportImages(ctx, silent, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("interrupted: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestExport(t *testing.T) {
	d := start(t)
	var out bytes.Buffer
	if err := d.ExportImages(t.Context(), &out, []string{"a/b", "c"}, "oci"); err != nil || out.Len() != 300*1000 {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	out.Reset()
	wantClass(t, d.ExportImages(t.Context(), &out, []string{"unknown"}, "oci"), api.ClassNotFound, "unknown")
	if out.Len() != 0 {
		t.Errorf("an error was written into the archive: %q", &out)
	}
	wantClass(t, d.ExportImages(t.Context(), io.Discard, []string{"broken"}, "oci"), api.ClassInternal, "blob sha256:12 is missing")
	wantClass(t, d.ExportImages(t.Context(), io.Discard, nil, ""), api.ClassInvalidArgument, "name")

	full := errors.New("disk full")
	if err := d.ExportImages(t.Context(), failingWriter{full}, []string{"endless"}, "oci"); !errors.Is(err, full) {
		t.Errorf("a file that cannot be written: %v", err)
	}
	eventually(t, "the export ends with its client", func() bool { return d.images().cancelled.Load() })
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

// TestPurgeEndsPulls: what a purge takes away is not made any more.
func TestPurgeEndsPulls(t *testing.T) {
	d := start(t)
	pulled, begun := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		_, err := d.PullImage(context.Background(), api.ImagePull{Name: "endless"}, func(api.Frame) {
			select {
			case begun <- struct{}{}:
			default:
			}
		})
		pulled <- err
	}()
	<-begun
	ref, err := d.Down(t.Context(), api.DownOptions{Purge: true})
	if err != nil || !d.images().cancelled.Load() {
		t.Errorf("the purge begins before the pull has ended: %v", err)
	}
	wantClass(t, <-pulled, api.ClassUnavailable, "a purge is under way")
	if c, err := d.FollowChange(t.Context(), ref.ID, nil); err == nil && c.Status != api.Done {
		t.Errorf("%+v", c)
	}
	eventually(t, "the daemon ends", func() bool { _, err := d.Version(t.Context()); return err != nil })
}

func TestGate(t *testing.T) {
	g := newGate()
	ctx, leave, err := g.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := g.close(soon); !errors.Is(err, context.DeadlineExceeded) || context.Cause(ctx) != errPurging {
		t.Errorf("%v, %v", err, context.Cause(ctx))
	}
	if _, _, err := g.enter(t.Context()); !errors.Is(err, errPurging) {
		t.Errorf("a shut gate lets in: %v", err)
	}
	leave()
	if err := g.close(t.Context()); err != nil {
		t.Error(err)
	}
	g.open()
	if _, leave, err = g.enter(t.Context()); err != nil {
		t.Errorf("an open gate: %v", err)
	}
	leave()
}
