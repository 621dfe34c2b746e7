package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image/layer"
)

// archiveImage is one image of an archive under one name, or none.
type archiveImage struct {
	desc ispec.Descriptor // of a manifest or an index, staged
	name string           // as the archive spells it
}

// archiveContent is what an archive holds besides blobs.
type archiveContent struct {
	images    []archiveImage
	referrers []ispec.Descriptor // by what index.json says; see living
}

// dockerManifestFile is the list of images of a Docker archive.
const dockerManifestFile = "manifest.json"

// archiveReader takes an archive's files as they come, in any order. None of
// their names ever reaches the file system.
type archiveReader struct {
	store  *Store
	stage  *staging
	layout *ispec.ImageLayout
	index  *ispec.Index
	docker []dockerImage
	// dockerErr is what is wrong with manifest.json: of a layout nobody needs it.
	dockerErr error
	files     map[string]ispec.Descriptor // staged, by name; without media type
	links     map[string]string           // what a symlink or hard link leads to
	seen      map[string]bool
	left      int64 // bytes that may still come
}

// readArchive stages the files of an archive and finds its images.
func (s *Store) readArchive(ctx context.Context, r io.Reader, stage *staging, progress func(int64)) (archiveContent, error) {
	stream, err := layer.DecompressArchive(&layer.CountingReader{R: untilDone(ctx, r), Report: progress})
	if err != nil {
		return archiveContent{}, err
	}
	defer stream.Close()
	a := &archiveReader{
		store: s, stage: stage, left: s.limits.Archive,
		files: map[string]ispec.Descriptor{}, links: map[string]string{}, seen: map[string]bool{},
	}
	tr := tar.NewReader(&layer.LimitReader{R: stream, Left: s.limits.Archive + int64(s.limits.Files)<<11, Why: "archive is too large"})
	for files := 0; ; files++ {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return a.content(ctx)
		}
		if err != nil {
			return archiveContent{}, fmt.Errorf("read archive: %w", layer.Classify(err))
		}
		if files >= s.limits.Files {
			return archiveContent{}, fmt.Errorf("archive has more than %d files: %w", s.limits.Files, errdefs.ErrInvalidArgument)
		}
		if err := a.entry(hdr, tr); err != nil {
			return archiveContent{}, fmt.Errorf("archive entry %q: %w", hdr.Name, layer.Classify(err))
		}
	}
}

func (a *archiveReader) entry(hdr *tar.Header, r io.Reader) error {
	name, err := layer.EntryPath(hdr.Name)
	if err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeDir || hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	// Of an archive that was appended to the last entry of a name counts.
	delete(a.files, name)
	delete(a.links, name)
	a.seen[name] = true
	switch hdr.Typeflag {
	case tar.TypeSymlink:
		return a.link(name, path.Join(path.Dir(name), hdr.Linkname), hdr.Linkname)
	case tar.TypeLink:
		return a.link(name, path.Clean(hdr.Linkname), hdr.Linkname)
	case tar.TypeReg:
	default:
		return nil // of no use here
	}
	if a.left -= hdr.Size; a.left < 0 {
		return fmt.Errorf("archive holds more than %d bytes: %w", a.store.limits.Archive, errdefs.ErrInvalidArgument)
	}
	dir, base := path.Split(name)
	switch {
	case name == ispec.ImageLayoutFile:
		a.layout = &ispec.ImageLayout{}
		return a.json(r, hdr, a.layout)
	case name == ispec.ImageIndexFile:
		a.index = &ispec.Index{}
		return a.json(r, hdr, a.index)
	case name == dockerManifestFile:
		a.docker = nil
		if a.dockerErr = a.json(r, hdr, &a.docker); a.dockerErr != nil {
			a.dockerErr = fmt.Errorf("archive entry %q: %w", hdr.Name, a.dockerErr)
		}
		return nil
	case dir == ispec.ImageBlobsDir+"/sha256/":
		d := digest.NewDigestFromEncoded(digest.SHA256, base)
		if err := checkDigest(d); err != nil {
			return err
		}
		a.files[name] = ispec.Descriptor{Digest: d, Size: hdr.Size}
		return a.stage.add(d, r)
	case a.layout != nil && a.index != nil:
		return nil // a layout has nothing else
	}
	desc, err := a.stage.put(r)
	a.files[name] = desc
	return err
}

// link remembers a link of Docker's archives, in which equal layers are one
// file. It is only looked up among the archive's own names.
func (a *archiveReader) link(name, target, written string) error {
	if path.IsAbs(written) || target == ".." || strings.HasPrefix(target, "../") {
		return fmt.Errorf("link to %q leads out of the archive: %w", written, errdefs.ErrInvalidArgument)
	}
	a.links[name] = target
	return nil
}

// file finds a staged file by its name in manifest.json.
func (a *archiveReader) file(written string) (ispec.Descriptor, error) {
	name, err := layer.EntryPath(written)
	if err != nil {
		return ispec.Descriptor{}, fmt.Errorf("file %q: %w", written, err)
	}
	for range 10 { // no honest archive has more than one
		if desc, ok := a.files[name]; ok {
			return desc, nil
		}
		target, ok := a.links[name]
		if !ok {
			return ispec.Descriptor{}, fmt.Errorf("file %q is missing: %w", written, errdefs.ErrInvalidArgument)
		}
		name = target
	}
	return ispec.Descriptor{}, fmt.Errorf("file %q: links go round in a circle: %w", written, errdefs.ErrInvalidArgument)
}

func (a *archiveReader) json(r io.Reader, hdr *tar.Header, v any) error {
	if limit := a.store.limits.Document; hdr.Size > limit {
		return fmt.Errorf("%d bytes, at most %d are allowed: %w", hdr.Size, limit, errdefs.ErrInvalidArgument)
	}
	if err := json.NewDecoder(r).Decode(v); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// content says what the archive is, and what it holds.
func (a *archiveReader) content(ctx context.Context) (archiveContent, error) {
	var c archiveContent
	var err error
	switch {
	case a.layout != nil && a.index != nil && a.layout.Version != ispec.ImageLayoutVersion:
		err = fmt.Errorf("OCI archive of layout version %q, want %s: %w", a.layout.Version, ispec.ImageLayoutVersion, errdefs.ErrNotImplemented)
	case a.layout != nil && a.index != nil:
		for _, desc := range a.index.Manifests {
			if isReferrer(desc) && a.refers(desc) {
				c.referrers = append(c.referrers, desc)
			} else {
				c.images = append(c.images, archiveImage{desc, layoutName(desc)})
			}
		}
		c.images = forHost(c.images)
		// Docker 25.0 wrote an image without a name into manifest.json only.
		if len(c.images) == 0 && len(a.docker) > 0 && a.dockerErr == nil {
			c.images, err = a.dockerImages(ctx)
		}
	case a.seen[dockerManifestFile]:
		if err = a.dockerErr; err == nil {
			c.images, err = a.dockerImages(ctx)
		}
	case a.seen["repositories"]:
		err = fmt.Errorf("this is a docker archive of an engine before 1.10, which has no manifest.json: %w", errdefs.ErrNotImplemented)
	default:
		err = fmt.Errorf("this is no image archive: it lacks oci-layout and index.json, or manifest.json: %w", errdefs.ErrInvalidArgument)
	}
	switch {
	case err != nil:
	case len(c.images) == 0:
		err = fmt.Errorf("the archive holds no image: %w", errdefs.ErrInvalidArgument)
	case len(c.images) > a.store.limits.Images:
		err = a.tooMany()
	}
	return c, err
}

func (a *archiveReader) tooMany() error {
	return fmt.Errorf("the archive holds more than %d images: %w", a.store.limits.Images, errdefs.ErrInvalidArgument)
}

// forHost drops the entries of index.json that are for other machines, or for
// other purposes (image-spec, image-layout.md, "index.json file"). If nothing
// would be left, all are, to be refused with a reason.
func forHost(images []archiveImage) []archiveImage {
	var kept []archiveImage
	for _, img := range images {
		known := isManifest(img.desc.MediaType) || isIndex(img.desc.MediaType)
		if p := img.desc.Platform; known && (p == nil || isHost(*p)) {
			kept = append(kept, img)
		}
	}
	if len(kept) == 0 {
		return images
	}
	return kept
}

// layoutName is the name that index.json gives an image; none is no error.
func layoutName(desc ispec.Descriptor) string {
	return cmpOr(desc.Annotations[annotationContainerdName], desc.Annotations[ispec.AnnotationRefName])
}

// refers reports whether an entry of index.json with an artifact type is what
// it claims to be. Whatever it is otherwise is told when it is read as image.
func (a *archiveReader) refers(desc ispec.Descriptor) bool {
	_, err := readReferrer(a.store.opener(a.stage), desc)
	return err == nil
}

// rename gives the archive's image the name of the caller's choice.
func (c *archiveContent) rename(name string) error {
	for _, img := range c.images {
		if img.desc.Digest != c.images[0].desc.Digest {
			return fmt.Errorf("as %s: the archive holds %d images: %w", name, len(c.images), errdefs.ErrInvalidArgument)
		}
	}
	c.images = c.images[:1]
	c.images[0].name = name
	return nil
}

// living returns the archive's referrers that are whole and whose subject is
// among images: others could never be found.
func (c *archiveContent) living(open opener, images []Image) ([]referrer, error) {
	var candidates []referrer
	for _, desc := range c.referrers {
		m, err := readReferrer(open, desc)
		if err != nil {
			return nil, err
		}
		r := referrer{desc, m}
		for _, blob := range append([]ispec.Descriptor{m.Config}, m.Layers...) {
			f, err := open(blob)
			if err != nil {
				return nil, fmt.Errorf("referrer %s: %w", desc.Digest, err)
			}
			f.Close()
		}
		candidates = append(candidates, r)
	}
	alive := map[digest.Digest]bool{}
	for _, img := range images {
		alive[img.Descriptor.Digest] = true
	}
	return livingReferrers(candidates, alive), nil
}
