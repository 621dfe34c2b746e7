package registry

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image"
)

func (h *handler) manifest(w http.ResponseWriter, r *http.Request, name, ref string) error {
	d := digest.Digest(ref)
	if !strings.Contains(ref, ":") {
		img, err := h.resolve(r, name, ref)
		if err != nil {
			return unknown(err, codeManifestUnknown, "no manifest for "+name+":"+ref)
		}
		return h.sendManifest(w, r, img.Descriptor.Digest)
	}
	if d.Validate() != nil {
		return &apiError{http.StatusBadRequest, codeDigestInvalid, "digest " + ref + " is invalid"}
	}
	err := h.sendManifest(w, r, d)
	if errdefs.IsNotFound(err) && h.opts.Upstream != nil {
		named, bad := repository(r, name)
		if bad != nil {
			return bad
		}
		if _, err := h.fetch(r.Context(), named.Name()+"@"+ref); err != nil {
			return unknown(err, codeManifestUnknown, "no manifest "+ref)
		}
		err = h.sendManifest(w, r, d)
	}
	return unknown(err, codeManifestUnknown, "no manifest "+ref)
}

// sendManifest serves a document with the media type that it was stored with:
// its own, or that of the descriptor by which the store knows it.
func (h *handler) sendManifest(w http.ResponseWriter, r *http.Request, d digest.Digest) error {
	f, err := h.store.OpenBlob(d)
	if err != nil {
		return err
	}
	defer f.Close()
	mediaType, err := h.mediaType(f, d)
	if err != nil {
		return err
	}
	serve(w, r, f, d, mediaType)
	return nil
}

// manifestTypes are all that a document may say of itself: it comes from
// anywhere, and a Content-Type is something that clients act upon.
var manifestTypes = []string{
	ispec.MediaTypeImageManifest,
	ispec.MediaTypeImageIndex,
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
}

func (h *handler) mediaType(f *os.File, d digest.Digest) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	var document struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Config    json.RawMessage `json:"config"`
	}
	if info.Size() > image.DefaultLimits().Document || json.NewDecoder(f).Decode(&document) != nil {
		return "", errdefs.ErrNotFound // a layer, or a blob of whatever kind
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if slices.Contains(manifestTypes, document.MediaType) {
		return document.MediaType, nil
	}
	if document.MediaType != "" {
		return "", errdefs.ErrNotFound
	}
	images, err := h.store.List()
	if err != nil {
		return "", err
	}
	for _, img := range images {
		if img.Descriptor.Digest == d {
			return img.Descriptor.MediaType, nil
		}
	}
	// OCI's documents may leave the media type out; an image's configuration,
	// which is no manifest, has neither of these as objects with a digest.
	var config ispec.Descriptor
	switch {
	case document.Manifests != nil:
		return ispec.MediaTypeImageIndex, nil
	case json.Unmarshal(document.Config, &config) == nil && config.Digest != "":
		return ispec.MediaTypeImageManifest, nil
	}
	return "", errdefs.ErrNotFound
}

// blob serves any blob of the store, whatever name it is asked for under. All
// names are open to whoever can reach this registry, so that a blob is never
// a secret, and a client that knows its digest from one image may take it
// under the name of another, as with a mount across repositories.
func (h *handler) blob(w http.ResponseWriter, r *http.Request, ref string) error {
	d := digest.Digest(ref)
	if d.Validate() != nil {
		return &apiError{http.StatusBadRequest, codeDigestInvalid, "digest " + ref + " is invalid"}
	}
	f, err := h.store.OpenBlob(d)
	if err != nil {
		return unknown(err, codeBlobUnknown, "no blob "+ref)
	}
	defer f.Close()
	serve(w, r, f, d, "application/octet-stream")
	return nil
}

// serve sends content that its digest names; it never changes, but a tag by
// which it was asked for may come to mean another.
func serve(w http.ResponseWriter, r *http.Request, f *os.File, d digest.Digest, mediaType string) {
	header := w.Header()
	header.Set("Content-Type", mediaType)
	header.Set("Docker-Content-Digest", d.String())
	header.Set("Etag", strconv.Quote(d.String()))
	if strings.HasSuffix(r.URL.Path, "/"+d.String()) {
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		header.Set("Cache-Control", "no-cache")
	}
	http.ServeContent(w, r, "", time.Time{}, f)
}

func (h *handler) tags(w http.ResponseWriter, r *http.Request, name string) error {
	named, err := repository(r, name)
	if err != nil {
		return err
	}
	names, err := h.names()
	if err != nil {
		return err
	}
	tags := names[reference.FamiliarName(named)]
	if tags == nil {
		return &apiError{http.StatusNotFound, codeNameUnknown, "no image " + name}
	}
	page, err := paginate(w, r, tags)
	if err != nil {
		return err
	}
	return sendJSON(w, r, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{name, page})
}

func (h *handler) catalog(w http.ResponseWriter, r *http.Request) error {
	names, err := h.names()
	if err != nil {
		return err
	}
	all := make([]string, 0, len(names))
	for name := range names {
		all = append(all, name)
	}
	page, err := paginate(w, r, all)
	if err != nil {
		return err
	}
	return sendJSON(w, r, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{page})
}

// names returns the tags of every repository. One that was pulled only by
// digest has none.
func (h *handler) names() (map[string][]string, error) {
	images, err := h.store.List()
	if err != nil {
		return nil, err
	}
	names := map[string][]string{}
	for _, img := range images {
		named, err := reference.ParseNormalizedNamed(img.Name)
		if err != nil {
			continue // it has no name
		}
		name := reference.FamiliarName(named)
		if names[name] == nil {
			names[name] = []string{}
		}
		if tagged, ok := named.(reference.Tagged); ok {
			names[name] = append(names[name], tagged.Tag())
		}
	}
	return names, nil
}

// paginate returns what follows ?last=, at most ?n= of it, and links to the
// rest (distribution-spec, "Listing Tags").
func paginate(w http.ResponseWriter, r *http.Request, all []string) ([]string, error) {
	slices.Sort(all)
	query := r.URL.Query()
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if !query.Has("n") {
		return all, nil
	}
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil || n < 0 {
		return nil, &apiError{http.StatusBadRequest, codePagination, "n is no count"}
	}
	if n >= len(all) {
		return all, nil
	}
	if n > 0 {
		query.Set("last", all[n-1])
		w.Header().Set("Link", "<"+r.URL.Path+"?"+query.Encode()+`>; rel="next"`)
	}
	return all[:n], nil
}

// referrers answers for unknown subjects too, with an empty list, as the
// specification wants it.
func (h *handler) referrers(w http.ResponseWriter, r *http.Request, ref string) error {
	subject := digest.Digest(ref)
	if subject.Validate() != nil {
		return &apiError{http.StatusBadRequest, codeDigestInvalid, "digest " + ref + " is invalid"}
	}
	kind := r.URL.Query().Get("artifactType")
	if kind != "" {
		w.Header().Set("Oci-Filters-Applied", "artifactType")
	}
	index := ispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ispec.MediaTypeImageIndex,
		Manifests: []ispec.Descriptor{},
	}
	found, err := h.opts.Referrers(subject, kind)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	index.Manifests = append(index.Manifests, found...)
	return sendJSON(w, r, ispec.MediaTypeImageIndex, index)
}
