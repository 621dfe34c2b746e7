// Package registry serves the image store as a read-only OCI registry
// (distribution-spec 1.1, the "pull" category), so that Docker and cluster
// nodes take images straight from it.
//
// Names are those of the store, as docker spells them: "prometheus",
// "library/prometheus" and "docker.io/library/prometheus" are one. A mirror's
// client, such as containerd, names the registry that it stands in for by
// ?ns=, which is then put before the name.
package registry

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
)

// Options are the choices of New.
type Options struct {
	// Upstream fetches an image that the store lacks, by its whole name, into
	// the store: Store.Pull, as a rule. With nil what is missing is not found.
	Upstream func(ctx context.Context, ref string) (image.Image, error)
	// Context ends fetches from Upstream. They outlive the request that began
	// them, for others wait for the same. Background when nil.
	Context context.Context //nolint:containedctx // of the handler, which has no call to hand it to
	// Referrers lists the manifests that refer to subject, of one artifact
	// type or all (""): Store.Referrers when nil.
	Referrers func(subject digest.Digest, artifactType string) ([]ispec.Descriptor, error)
	// Hosts are names and addresses, without port, by which this registry may
	// be called, besides those of the loopback interface. Others are refused:
	// they are a web page's attempt to reach it by a name of its own (DNS
	// rebinding).
	Hosts []string
	Log   *zap.Logger // may be nil
}

type handler struct {
	store   *image.Store
	opts    Options
	log     *zap.Logger
	fetches singleflight.Group
}

// New returns the handler of /v2/.
func New(store *image.Store, opts Options) http.Handler {
	h := &handler{store: store, opts: opts, log: opts.Log}
	if h.log == nil {
		h.log = zap.NewNop()
	}
	if h.opts.Referrers == nil {
		h.opts.Referrers = store.Referrers
	}
	if h.opts.Context == nil {
		h.opts.Context = context.Background()
	}
	return h
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch {
	case !h.allowed(r.Host):
		refuse(w, http.StatusForbidden, codeDenied, "this registry is not to be called "+r.Host)
	case r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "":
		refuse(w, http.StatusForbidden, codeDenied, "this registry is not for browsers")
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, codeUnsupported, "this registry is read-only")
	default:
		if err := h.route(w, r); err != nil {
			h.fail(w, r, err)
		}
	}
}

func (h *handler) allowed(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	host = strings.Trim(host, "[]")
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback() || slices.Contains(h.opts.Hosts, host)
}

// route takes paths apart from their end: names contain slashes, and may
// contain any of the words.
func (h *handler) route(w http.ResponseWriter, r *http.Request) error {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case r.URL.Path == "/v2" || ok && path == "":
		return sendJSON(w, r, "application/json", struct{}{})
	case !ok:
		return noSuchPath
	case path == "_catalog":
		return h.catalog(w, r)
	}
	if name, ok := strings.CutSuffix(path, "/tags/list"); ok {
		return h.tags(w, r, name)
	}
	rest, last, _ := cutLast(path)
	name, kind, _ := cutLast(rest)
	if name == "" {
		return noSuchPath
	}
	switch kind {
	case "manifests":
		return h.manifest(w, r, name, last)
	case "blobs":
		return h.blob(w, r, last)
	case "referrers":
		return h.referrers(w, r, last)
	}
	return noSuchPath
}

func cutLast(path string) (before, after string, ok bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

// repository is what a client's name means in the store.
func repository(r *http.Request, name string) (reference.Named, error) {
	if ns := r.URL.Query().Get("ns"); ns != "" {
		name = ns + "/" + name
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil || !reference.IsNameOnly(named) {
		return nil, &apiError{http.StatusBadRequest, codeNameInvalid, "name " + name + " is invalid"}
	}
	return named, nil
}

// resolve returns the image of a tag, from the store or from upstream.
func (h *handler) resolve(r *http.Request, name, tag string) (image.Image, error) {
	named, err := repository(r, name)
	if err != nil {
		return image.Image{}, err
	}
	tagged, err := reference.WithTag(named, tag)
	if err != nil {
		return image.Image{}, &apiError{http.StatusBadRequest, codeManifestInvalid, "tag " + tag + " is invalid"}
	}
	img, err := h.store.Resolve(tagged.String())
	if errdefs.IsNotFound(err) && h.opts.Upstream != nil {
		return h.fetch(r.Context(), tagged.String())
	}
	return img, err
}

// fetch brings an image from upstream, once for all who wait for it.
func (h *handler) fetch(ctx context.Context, ref string) (image.Image, error) {
	result := h.fetches.DoChan(ref, func() (any, error) {
		// A fetch may have ended between the caller's look and this one.
		if img, err := h.store.Resolve(ref); err == nil {
			return img, nil
		}
		h.log.Info("fetch image from upstream", zap.String("image", ref))
		return h.opts.Upstream(h.opts.Context, ref)
	})
	select {
	case got := <-result:
		img, _ := got.Val.(image.Image)
		return img, got.Err
	case <-ctx.Done():
		return image.Image{}, context.Cause(ctx)
	}
}
