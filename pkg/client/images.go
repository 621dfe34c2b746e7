package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

func imagePath(ref, verb string) string {
	p := "/images/" + url.PathEscape(ref)
	if verb != "" {
		p += "/" + verb
	}
	return p
}

// Images lists the images in the local store.
func (c *Client) Images(ctx context.Context) ([]api.Image, error) {
	var out []api.Image
	err := c.call(ctx, request{method: http.MethodGet, path: "/images"}, &out)
	return out, err
}

// InspectImage returns one image.
func (c *Client) InspectImage(ctx context.Context, ref string) (api.ImageDetail, error) {
	var out api.ImageDetail
	err := c.call(ctx, request{method: http.MethodGet, path: imagePath(ref, "")}, &out)
	return out, err
}

// ImageLayers returns what each instruction of an image's build did, bottom
// first; with tree, to which files.
func (c *Client) ImageLayers(ctx context.Context, ref string, tree bool) ([]api.ImageLayer, error) {
	var out []api.ImageLayer
	r := request{method: http.MethodGet, path: imagePath(ref, "layers")}
	if tree {
		r.query = url.Values{"tree": {"true"}}
	}
	err := c.call(ctx, r, &out)
	return out, err
}

// ImageSBOM returns what an image is made of.
func (c *Client) ImageSBOM(ctx context.Context, ref string) (api.ImageSBOM, error) {
	var out api.ImageSBOM
	err := c.call(ctx, request{method: http.MethodGet, path: imagePath(ref, "sbom")}, &out)
	return out, err
}

// TagImage gives an image a further name, taking it from another that has it.
func (c *Client) TagImage(ctx context.Context, ref, name string) error {
	return c.call(ctx, request{method: http.MethodPost, path: imagePath(ref, "tag"), query: url.Values{"name": {name}}}, nil)
}

// RemoveImage forgets a name, and the image with its last name. One that
// containers use stays, unless force.
func (c *Client) RemoveImage(ctx context.Context, ref string, force bool) error {
	r := request{method: http.MethodDelete, path: imagePath(ref, "")}
	if force {
		r.query = url.Values{"force": {"true"}}
	}
	return c.call(ctx, r, nil)
}

// Recipes lists the recipes in folder, or with "" those that sandbox comes
// with.
func (c *Client) Recipes(ctx context.Context, folder string) ([]api.Recipe, error) {
	var out []api.Recipe
	r := request{method: http.MethodGet, path: "/recipes"}
	if folder != "" {
		r.query = url.Values{"folder": {folder}}
	}
	err := c.call(ctx, r, &out)
	return out, err
}

// PruneImages removes what nobody needs.
func (c *Client) PruneImages(ctx context.Context, opts api.ImagePrune) (api.Pruned, error) {
	var out api.Pruned
	err := c.call(ctx, request{method: http.MethodPost, path: "/prune", body: opts}, &out)
	return out, err
}

// PullImage brings an image into the store. onFrame, which may be nil, is told
// of the progress. When ctx ends, so does the pull.
func (c *Client) PullImage(ctx context.Context, opts api.ImagePull, onFrame func(api.Frame)) (api.Pulled, error) {
	return framed[api.Pulled](ctx, c, request{method: http.MethodPost, path: "/pull", body: opts}, onFrame)
}

// ImageFiles lists the regular files of a folder of an image.
func (c *Client) ImageFiles(ctx context.Context, ref, folder string) ([]api.ImageEntry, error) {
	var out []api.ImageEntry
	r := request{method: http.MethodGet, path: "/images/" + url.PathEscape(ref) + "/files", query: url.Values{"folder": {folder}}}
	err := c.call(ctx, r, &out)
	return out, err
}

// ImageFile writes a file of an image to w.
func (c *Client) ImageFile(ctx context.Context, w io.Writer, ref, path string) error {
	resp, err := c.send(ctx, request{method: http.MethodGet, path: "/images/" + url.PathEscape(ref) + "/file", query: url.Values{"path": {path}}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("file %s of image %s: %w", path, ref, err)
	}
	return nil
}

// BuildImages builds images. onFrame, which may be nil, is told of each
// instruction and of what it says. When ctx ends, so does the build, and
// BuildImages returns when nothing of it runs any more.
func (c *Client) BuildImages(ctx context.Context, opts api.ImageBuild, onFrame func(api.Frame)) (api.BuildReport, error) {
	return framed[api.BuildReport](ctx, c, request{method: http.MethodPost, path: "/build", body: opts}, onFrame)
}

// ImportImages sends an archive to the store and returns its images. A name is
// instead of the archive's own.
func (c *Client) ImportImages(ctx context.Context, archive io.Reader, name string) ([]api.Image, error) {
	// A request that is cancelled waits for its body, which may have nothing to
	// read for a long time.
	pipe, w := io.Pipe()
	defer pipe.Close()
	defer context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })()
	go func() {
		_, err := io.Copy(w, archive)
		w.CloseWithError(err)
	}()
	body := &source{r: pipe}
	r := request{method: http.MethodPost, path: "/import", stream: body, last: true}
	if name != "" {
		r.query = url.Values{"name": {name}}
	}
	var out []api.Image
	err := c.call(ctx, r, &out)
	if failed := body.failed.Load(); failed != nil && err != nil {
		err = *failed // the reason, and not what became of the request
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return out, err
}

// source is a request's body that remembers how it failed. It hides whether
// its reader can be closed, which is the caller's to do.
type source struct {
	r      io.Reader
	failed atomic.Pointer[error]
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		s.failed.Store(&err)
	}
	return n, err
}

// ExportImages writes an archive of images to w, in the format "oci" (the
// default) or "docker". After an error what was written is no archive.
func (c *Client) ExportImages(ctx context.Context, w io.Writer, refs []string, format string) error {
	q := url.Values{"name": refs}
	if format != "" {
		q.Set("format", format)
	}
	resp, err := c.send(ctx, request{method: http.MethodGet, path: "/export", query: q})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("export images: %w", err)
	}
	// A trailer that has not come means that the daemon had no time for one.
	reason, ok := resp.Trailer[http.CanonicalHeaderKey(api.ExportTrailer)]
	switch {
	case !ok || len(reason) != 1:
		return fmt.Errorf("export images: the daemon went away: %w", io.ErrUnexpectedEOF)
	case reason[0] == "":
		return nil
	}
	var e api.Error
	if err := json.Unmarshal([]byte(reason[0]), &e); err != nil {
		return fmt.Errorf("export images: %s", reason[0])
	}
	return &e
}
