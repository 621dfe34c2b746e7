// Package image keeps container images on disk: a content store in the OCI
// image layout, and layers unpacked for overlayfs.
//
//	images/oci-layout        image-layout version
//	images/index.json        names and manifests (image-spec, image index), and
//	                         manifests that refer to these
//	images/blobs/sha256/     blobs by digest
//	images/ingest/           archives on their way in; empty when nothing runs
//	images/lock              held exclusively while index.json or blobs change
//	layers/<diffID>/fs       one unpacked layer, shared by every container and
//	                         image that has it, whatever lies under it
//	layers/<diffID>/lock     held while that layer is unpacked or removed
//	layers/<diffID>/pending  there until the disk has all of fs
//
// Everything that enters is hostile input: it is bounded, digest-verified and
// written beside its final place, which it reaches by one rename.
package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Where an image came from, in the words of api.Image.Source.
const (
	SourceBuiltin  = "built-in"
	SourceArchive  = "archive"
	SourceRegistry = "registry"
	SourceRecipe   = "recipe"
)

// annotationSource records on a descriptor of index.json where it came from.
const annotationSource = "io.sandboxlabs.image.source"

// Image is one image of the store, for one platform.
type Image struct {
	Name       string           // "toolbox:latest"; empty when it has none
	ID         digest.Digest    // digest of the config, as docker counts
	Descriptor ispec.Descriptor // of the manifest
	Manifest   ispec.Manifest
	Config     ispec.Image
	Docker     DockerConfig    // of the same blob as Config
	ChainIDs   []digest.Digest // one per layer, bottom first
	Source     string
}

// Size is what the image's layers take in the store, in bytes, compressed.
func (i Image) Size() int64 {
	var n int64
	for _, l := range i.Manifest.Layers {
		n += l.Size
	}
	return n
}

// Summary is the image as listings show it.
func (i Image) Summary() api.Image {
	s := api.Image{Name: i.Name, ID: i.ID.String(), Size: i.Size(), Source: i.Source}
	if i.Config.Created != nil {
		s.Created = *i.Config.Created
	}
	return s
}

// Store is the image store below two state folders. Its methods are safe for
// use by several goroutines and processes at once.
type Store struct {
	images string
	layers string
	limits Limits
	boot   string // ID of this boot
	// background waits for layers to reach the disk.
	background sync.WaitGroup
}

// Open returns the store of dirs and makes its folders. Both folders are
// closed to everybody but root: layers hold setuid programs.
func Open(dirs state.Dirs) (*Store, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s := &Store{images: dirs.Images(), layers: dirs.Layers(), limits: DefaultLimits(), boot: string(boot)}
	for _, dir := range []string{s.layers, s.ingestDir(), filepath.Dir(s.blobPath(emptyDigest))} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	marker := filepath.Join(s.images, ispec.ImageLayoutFile)
	if _, err := os.Stat(marker); errors.Is(err, fs.ErrNotExist) {
		layout := []byte(`{"imageLayoutVersion":"` + ispec.ImageLayoutVersion + `"}` + "\n")
		if err := state.WriteFile(marker, layout, 0o600); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	return s, nil
}

// Close waits until every layer that was unpacked is on the disk.
func (s *Store) Close() { s.background.Wait() }

// Resolve finds an image by name ("toolbox", "toolbox:latest"), by the digest
// of its manifest ("NAME@sha256:…", "sha256:…"), by its ID or by a prefix of
// its ID. A name wins over an ID prefix of the same spelling.
func (s *Store) Resolve(name string) (Image, error) {
	index, err := s.readIndex()
	if err != nil {
		return Image{}, err
	}
	found, err := s.find(index, name)
	if err != nil {
		return Image{}, err
	}
	return s.load(found[0])
}

// find returns the descriptors of index.json that name means: all of the same
// image, and at least one.
func (s *Store) find(index ispec.Index, name string) ([]ispec.Descriptor, error) {
	ref, refErr := reference.ParseAnyReference(name)
	if named, ok := ref.(reference.Named); ok {
		want := reference.FamiliarString(reference.TagNameOnly(named))
		var pin digest.Digest
		if d, ok := named.(reference.Digested); ok {
			pin = d.Digest()
		}
		for _, desc := range imagesOf(index) {
			have := desc.Annotations[ispec.AnnotationRefName]
			if pin == "" && have == want || pin != "" && (pin == desc.Digest || pin == indexDigest(desc)) && sameRepository(have, named) {
				return []ispec.Descriptor{desc}, nil
			}
		}
	}
	hex := strings.TrimPrefix(name, digest.SHA256.String()+":")
	if !isHex(hex) {
		if refErr != nil {
			return nil, fmt.Errorf("image name %q: %w: %w", name, refErr, errdefs.ErrInvalidArgument)
		}
		return nil, notFound(name)
	}
	var (
		found []ispec.Descriptor
		ids   []digest.Digest
	)
	for _, desc := range imagesOf(index) {
		img, err := s.load(desc)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(img.ID.Encoded(), hex) || desc.Digest.Encoded() == hex || indexDigest(desc) == digest.NewDigestFromEncoded(digest.SHA256, hex) {
			found = append(found, desc)
			ids = append(ids, img.ID)
		}
	}
	if len(found) == 0 {
		return nil, notFound(name)
	}
	if len(slices.Compact(slices.Sorted(slices.Values(ids)))) > 1 {
		return nil, fmt.Errorf("image ID prefix %q means more than one image: %w", hex, errdefs.ErrInvalidArgument)
	}
	return found, nil
}

func sameRepository(have string, want reference.Named) bool {
	ref, err := reference.ParseNormalizedNamed(have)
	return err == nil && ref.Name() == want.Name()
}

func isHex(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// NotFoundError says which image is missing, where it was looked for, and
// what can be done. It is an errdefs.ErrNotFound.
type NotFoundError struct {
	Name  string
	Tried []string
}

func notFound(name string) error {
	return &NotFoundError{Name: name, Tried: []string{"local store", "built-in images"}}
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("image %q not found (tried: %s)", e.Name, strings.Join(e.Tried, ", "))
}

func (e *NotFoundError) Unwrap() error { return errdefs.ErrNotFound }

// Hint is what the user can do.
func (e *NotFoundError) Hint() string {
	return "`sandbox image ls` lists what is here; `sandbox image import FILE` brings in an OCI or Docker archive; the image `toolbox` is inside sandbox itself"
}

// List returns every image, in the order of names.
func (s *Store) List() ([]Image, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	images := make([]Image, 0, len(index.Manifests))
	for _, desc := range imagesOf(index) {
		img, err := s.load(desc)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	slices.SortStableFunc(images, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return images, nil
}

// RemoveOptions are the choices of RemoveImage.
type RemoveOptions struct {
	// Force removes an image that is given by its ID with all its names.
	Force bool
}

// Remove forgets a name, or, given an ID, an image that has at most one name.
// What it alone used stays on disk until GC.
func (s *Store) Remove(ctx context.Context, name string) error {
	_, err := s.RemoveImage(ctx, name, RemoveOptions{})
	return err
}

// RemoveImage is Remove with options. It returns the names that are gone; an
// image without one is listed by the digest of its manifest.
func (s *Store) RemoveImage(ctx context.Context, name string, opts RemoveOptions) (gone []string, err error) {
	err = s.update(ctx, func(index *ispec.Index) error {
		found, err := s.find(*index, name)
		if err != nil {
			return err
		}
		var names []string
		for _, d := range found {
			names = append(names, cmpOr(d.Annotations[ispec.AnnotationRefName], d.Digest.String()))
		}
		if len(found) > 1 && !opts.Force {
			return fmt.Errorf("remove image %s: it has several names (%s), remove them one by one, or all with force: %w",
				name, strings.Join(names, ", "), errdefs.ErrConflict)
		}
		for _, f := range found {
			index.Manifests = slices.DeleteFunc(index.Manifests, func(d ispec.Descriptor) bool {
				return d.Digest == f.Digest && !isReferrer(d) && d.Annotations[ispec.AnnotationRefName] == f.Annotations[ispec.AnnotationRefName]
			})
		}
		gone = names
		return nil
	})
	return gone, err
}

// load reads the image that a descriptor of index.json stands for.
func (s *Store) load(desc ispec.Descriptor) (Image, error) {
	name := desc.Annotations[ispec.AnnotationRefName]
	img, err := readImage(s.blobFile, desc)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", cmpOr(name, desc.Digest.String()), err)
	}
	img.Name = name
	img.Source = desc.Annotations[annotationSource]
	return img, nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// readIndex returns index.json; a store without one is empty. The file is
// replaced by rename, so reading needs no lock.
func (s *Store) readIndex() (ispec.Index, error) {
	var index ispec.Index
	err := state.ReadJSON(filepath.Join(s.images, ispec.ImageIndexFile), &index)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return index, fmt.Errorf("image store: %w", err)
	}
	return index, nil
}

// update changes index.json under the store's lock.
func (s *Store) update(ctx context.Context, change func(*ispec.Index) error) error {
	lock, err := lockFile(ctx, s.lockPath())
	if err != nil {
		return fmt.Errorf("lock image store: %w", err)
	}
	defer lock.Close()
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	if err := change(&index); err != nil {
		return err
	}
	return s.writeIndex(index)
}

// writeIndex replaces index.json; call it with the store locked.
func (s *Store) writeIndex(index ispec.Index) error {
	index.Versioned = specs.Versioned{SchemaVersion: 2}
	index.MediaType = ispec.MediaTypeImageIndex
	if index.Manifests == nil {
		index.Manifests = []ispec.Descriptor{} // required, even when empty
	}
	return state.WriteJSON(filepath.Join(s.images, ispec.ImageIndexFile), index)
}

// setName makes name stand for desc; what it stood for before loses it.
func setName(index *ispec.Index, desc ispec.Descriptor) {
	desc.ArtifactType = "" // which would make it a referrer
	name := desc.Annotations[ispec.AnnotationRefName]
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d ispec.Descriptor) bool {
		have := d.Annotations[ispec.AnnotationRefName]
		// A nameless entry is superseded by any entry of the same manifest.
		return have == name && (name != "" || d.Digest == desc.Digest) || have == "" && d.Digest == desc.Digest
	})
	index.Manifests = append(index.Manifests, desc)
}

func chainIDs(diffIDs []digest.Digest) []digest.Digest {
	return identity.ChainIDs(slices.Clone(diffIDs))
}

func (s *Store) lockPath() string  { return filepath.Join(s.images, "lock") }
func (s *Store) ingestDir() string { return filepath.Join(s.images, "ingest") }
func (s *Store) blobPath(d digest.Digest) string {
	return filepath.Join(s.images, ispec.ImageBlobsDir, digest.SHA256.String(), d.Encoded())
}
