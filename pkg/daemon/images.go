package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Images is what the daemon does with images. emit tells what is under way; it
// may be called by several goroutines.
type Images interface {
	List(ctx context.Context) ([]api.Image, error)
	Inspect(ctx context.Context, ref string) (api.ImageDetail, error)
	Layers(ctx context.Context, ref string, tree bool) ([]api.ImageLayer, error)
	SBOM(ctx context.Context, ref string) (api.ImageSBOM, error)
	// Files lists the regular files of a folder of an image, and OpenFile opens
	// one.
	Files(ctx context.Context, ref, folder string) ([]api.ImageEntry, error)
	OpenFile(ctx context.Context, ref, path string) (*os.File, error)
	Tag(ctx context.Context, ref, name string) error
	// Remove forgets a name. An image that containers use stays, unless force.
	Remove(ctx context.Context, ref string, force bool) error
	Prune(ctx context.Context, opts api.ImagePrune) (api.Pruned, error)
	// Import reads an archive; a name is instead of the archive's own.
	Import(ctx context.Context, archive io.Reader, name string) ([]api.Image, error)
	// ImportMissing keeps of an archive what the store has not, and returns that.
	ImportMissing(ctx context.Context, archive io.Reader, progress func(bytes int64)) ([]api.Image, error)
	// Export finds everything first: an error before the first byte is written
	// is about what was asked for.
	Export(ctx context.Context, w io.Writer, refs []string, format string) error
	Pull(ctx context.Context, opts api.ImagePull, emit func(api.Frame)) (api.Pulled, error)
	// Build returns a report whenever there was something to build; it holds
	// the errors of the single images.
	Build(ctx context.Context, opts api.ImageBuild, emit func(api.Frame)) (api.BuildReport, error)
	Recipes(ctx context.Context, folder string) ([]api.Recipe, error)
}

func (d *Daemon) getImages(w http.ResponseWriter, r *http.Request) error {
	images, err := d.Images.List(r.Context())
	return respondList(w, images, err)
}

func (d *Daemon) getImage(w http.ResponseWriter, r *http.Request) error {
	img, err := d.Images.Inspect(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, img)
}

func (d *Daemon) getImageLayers(w http.ResponseWriter, r *http.Request) error {
	tree, err := queryBool(r, "tree")
	if err != nil {
		return err
	}
	layers, err := d.Images.Layers(r.Context(), r.PathValue("ref"), tree)
	return respondList(w, layers, err)
}

// getImageSBOM may look into the image, and attach what it finds.
func (d *Daemon) getImageSBOM(w http.ResponseWriter, r *http.Request) error {
	r, leave, err := d.enter(r)
	if err != nil {
		return err
	}
	defer leave()
	sbom, err := d.Images.SBOM(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, sbom)
}

func (d *Daemon) getImageFiles(w http.ResponseWriter, r *http.Request) error {
	files, err := d.Images.Files(r.Context(), r.PathValue("ref"), r.URL.Query().Get("folder"))
	return respondList(w, files, err)
}

// getImageFile sends a file as it is. Its length is told, so that one that is
// cut off shows.
func (d *Daemon) getImageFile(w http.ResponseWriter, r *http.Request) error {
	f, err := d.Images.OpenFile(r.Context(), r.PathValue("ref"), r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(st.Size(), 10))
	w.WriteHeader(http.StatusOK)
	_, _ = io.Copy(w, f) // the client has gone away, or sees that it ends too early
	return nil
}

func (d *Daemon) postImageTag(w http.ResponseWriter, r *http.Request) error {
	name := r.URL.Query().Get("name")
	if name == "" {
		return fmt.Errorf("query parameter name is missing: %w", errdefs.ErrInvalidArgument)
	}
	if err := d.Images.Tag(r.Context(), r.PathValue("ref"), name); err != nil {
		return err
	}
	return respond(w, http.StatusNoContent, nil)
}

func (d *Daemon) deleteImage(w http.ResponseWriter, r *http.Request) error {
	force, err := queryBool(r, "force")
	if err == nil {
		err = d.Images.Remove(r.Context(), r.PathValue("ref"), force)
	}
	if err != nil {
		return err
	}
	return respond(w, http.StatusNoContent, nil)
}

func (d *Daemon) getRecipes(w http.ResponseWriter, r *http.Request) error {
	recipes, err := d.Images.Recipes(r.Context(), r.URL.Query().Get("folder"))
	return respondList(w, recipes, err)
}

func (d *Daemon) postPrune(w http.ResponseWriter, r *http.Request) error {
	var opts api.ImagePrune
	if err := decodeBody(w, r, &opts); err != nil {
		return err
	}
	r, leave, err := d.enter(r)
	if err != nil {
		return err
	}
	defer leave()
	pruned, err := d.Images.Prune(r.Context(), opts)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, pruned)
}

func (d *Daemon) postPull(w http.ResponseWriter, r *http.Request) error {
	var opts api.ImagePull
	if err := decodeBody(w, r, &opts); err != nil {
		return err
	}
	r, leave, err := d.enter(r)
	if err != nil {
		return err
	}
	defer leave()
	return streamed(w, r, func(emit func(api.Frame)) (api.Pulled, error) {
		return d.Images.Pull(r.Context(), opts, emit)
	})
}

func (d *Daemon) postBuild(w http.ResponseWriter, r *http.Request) error {
	var opts api.ImageBuild
	if err := decodeBody(w, r, &opts); err != nil {
		return err
	}
	r, leave, err := d.enter(r)
	if err != nil {
		return err
	}
	defer leave()
	return streamed(w, r, func(emit func(api.Frame)) (api.BuildReport, error) {
		return d.Images.Build(r.Context(), opts, emit)
	})
}

// postImport reads the archive as it comes.
func (d *Daemon) postImport(w http.ResponseWriter, r *http.Request) error {
	defer debug.FreeOSMemory() // images pass through it
	r, leave, err := d.enter(r)
	if err != nil {
		return err
	}
	defer leave()
	images, err := d.Images.Import(r.Context(), r.Body, r.URL.Query().Get("name"))
	if err == nil {
		// What follows the archive is padding; unread, it would cost the
		// client its connection.
		_, err = io.Copy(io.Discard, r.Body)
	}
	if err != nil {
		return err
	}
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return respondList(w, images, nil)
}

// getExport writes the archive as it is made. Once it has begun, only the
// trailer can tell of an error; a daemon that dies leaves the archive without
// its end, which HTTP notices.
func (d *Daemon) getExport(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if len(q["name"]) == 0 {
		return fmt.Errorf("query parameter name is missing: %w", errdefs.ErrInvalidArgument)
	}
	w.Header().Set("Trailer", api.ExportTrailer)
	out := &archiveWriter{w: w}
	err := d.Images.Export(r.Context(), out, q["name"], q.Get("format"))
	if err != nil && !out.begun {
		w.Header().Del("Trailer")
		return err
	}
	reason := ""
	if err != nil {
		e, _ := wireError(err)
		b, jerr := json.Marshal(e)
		if jerr != nil {
			return errors.Join(err, jerr)
		}
		reason = string(b)
	}
	w.Header().Set(api.ExportTrailer, reason)
	return err
}

// archiveWriter sends the header with the first byte.
type archiveWriter struct {
	w     http.ResponseWriter
	begun bool
}

func (a *archiveWriter) Write(b []byte) (int, error) {
	if !a.begun {
		a.begun = true
		a.w.Header().Set("Content-Type", api.TarType)
		a.w.WriteHeader(http.StatusOK)
	}
	return a.w.Write(b)
}

// enter lets a request that works on images through the gate.
func (d *Daemon) enter(r *http.Request) (*http.Request, func(), error) {
	ctx, leave, err := d.gate.enter(r.Context())
	if err != nil {
		return r, nil, err
	}
	return r.WithContext(ctx), leave, nil
}

// respondList answers with a list, which is [] on the wire, not null.
func respondList[T any](w http.ResponseWriter, list []T, err error) error {
	if err != nil {
		return err
	}
	if list == nil {
		list = []T{}
	}
	return respond(w, http.StatusOK, list)
}

// streamed answers with what do returns: alone, or, for a client that accepts
// a stream, after frames of what do does.
func streamed[T any](w http.ResponseWriter, r *http.Request, do func(emit func(api.Frame)) (T, error)) error {
	defer debug.FreeOSMemory() // images pass through it
	if !wantsStream(r) {
		result, err := do(func(api.Frame) {})
		if err != nil {
			return err
		}
		return respond(w, http.StatusOK, result)
	}
	f := newFrames(w)
	defer f.end() // also when do panics
	result, err := do(func(frame api.Frame) { f.post(r.Context(), frame) })
	if err != nil {
		if cause := context.Cause(r.Context()); cause == errStopping || cause == errPurging {
			err = fmt.Errorf("%w: %w", cause, errdefs.ErrUnavailable)
		}
		e, _ := wireError(err)
		f.send(api.Frame{Error: e})
		return nil
	}
	b, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	f.send(api.Frame{Result: b})
	return nil
}

// WireError is an error as clients see it, for reports that hold errors.
func WireError(err error) *api.Error {
	if err == nil {
		return nil
	}
	e, _ := wireError(err)
	return e
}
