package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"golang.org/x/sync/errgroup"
)

// DockerConfig is what Docker's image configuration has and OCI's lacks:
// HEALTHCHECK, ONBUILD and SHELL. It lies beside OCI's fields in the config
// blob, where Docker looks for it.
type DockerConfig = dockerspec.DockerOCIImageConfigExt

// LayerSource is one layer of an image that is committed: Packed, or a folder.
type LayerSource struct {
	Packed *PackedLayer // already a layer of the store
	// Upper is an upperdir of overlayfs. Its owner and mode are those of the
	// image's root directory; for what else becomes of it, see layer.Pack.
	//
	// It is consumed: it becomes the store's unpacked layer by rename, or is
	// removed if the store has that layer already. Until Commit has published
	// the image it stays where it is.
	Upper string
}

// PackedLayer is a layer in the store.
type PackedLayer struct {
	Descriptor ispec.Descriptor `json:"descriptor"` // of the blob
	DiffID     digest.Digest    `json:"diff_id"`    // of its tar
}

// Commit describes an image to be made of layers.
type Commit struct {
	Names []string // at least one; each with a tag, or "latest"
	// Config is written as it is, but for RootFS, which is filled in, and for
	// Created and Platform when they are empty: Epoch, and this machine. Its
	// History is complete: as many entries without EmptyLayer as there are Layers.
	Config ispec.Image
	Docker DockerConfig // merged into Config's "config"
	Layers []LayerSource
	// Epoch is the newest time that anything in a layer may have, in tar and
	// folder: newer ones become it. Seconds; the zero time is 1970.
	Epoch       time.Time
	Source      string                  // SourceRecipe, …
	Annotations map[string]string       // of the manifest
	Progress    func(api.ImageProgress) // called by one goroutine at a time; may be nil
}

// Commit makes an image of layers, bottom first, and returns it with its
// layers as they now are in the store. The same input gives the same digest.
// An image that fails leaves nothing in the store, and its folders where
// they were, to be committed again; a cancelled one may have been published,
// if the error came with an Image.
func (s *Store) Commit(ctx context.Context, c Commit) (img Image, layers []PackedLayer, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("commit image %s: %w", firstName(c.Names), err)
		}
	}()
	names, err := c.check()
	if err != nil {
		return Image{}, nil, err
	}
	stage, err := s.newStaging()
	if err != nil {
		return Image{}, nil, err
	}
	defer func() { err = errors.Join(err, stage.close()) }()

	if layers, err = s.packLayers(ctx, stage, c); err != nil {
		return Image{}, nil, err
	}
	if img, err = s.compose(stage, c, layers); err != nil {
		return Image{}, nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return Image{}, nil, err
	}
	named := make([]Image, len(names))
	for i, name := range names {
		named[i] = img
		named[i].Name = name
	}
	if err := s.publish(ctx, stage, named, nil); err != nil {
		return Image{}, nil, err
	}
	// What is published can be unpacked from its blobs, whatever happens now.
	return named[0], layers, s.adoptAll(ctx, c.Layers, layers)
}

func firstName(names []string) string {
	if len(names) == 0 {
		return "without a name"
	}
	return names[0]
}

// check refuses what would make no image, and returns the names as the store
// keeps them.
func (c Commit) check() ([]string, error) {
	if len(c.Names) == 0 {
		return nil, fmt.Errorf("it needs a name: %w", errdefs.ErrInvalidArgument)
	}
	names := make([]string, len(c.Names))
	for i, name := range c.Names {
		var err error
		if names[i], err = tagName(name); err != nil {
			return nil, err
		}
	}
	for i, l := range c.Layers {
		if (l.Packed == nil) == (l.Upper == "") {
			return nil, fmt.Errorf("layer %d: want a packed layer or a folder: %w", i, errdefs.ErrInvalidArgument)
		}
	}
	filled := 0
	for _, h := range c.Config.History {
		if !h.EmptyLayer {
			filled++
		}
	}
	if len(c.Config.History) > 0 && filled != len(c.Layers) {
		return nil, fmt.Errorf("its history tells of %d layers, it has %d: %w", filled, len(c.Layers), errdefs.ErrInvalidArgument)
	}
	return names, nil
}

// tagName is familiar for names that are to be given: a digest is not.
func tagName(name string) (string, error) {
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		if _, pinned := named.(reference.Digested); pinned {
			return "", fmt.Errorf("image name %q: a digest cannot be given to an image: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return familiar(name)
}

// epoch is c.Epoch in whole seconds.
func (c Commit) epoch() time.Time {
	if c.Epoch.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return c.Epoch.Truncate(time.Second).UTC()
}

// packLayers stages every layer, several at a time. Those that the store has
// are linked, so that no GC takes them before the image is published.
func (s *Store) packLayers(ctx context.Context, stage *staging, c Commit) ([]PackedLayer, error) {
	var mu sync.Mutex // guards stage and Progress
	layers := make([]PackedLayer, len(c.Layers))
	first := map[string]int{} // a folder may come twice
	for i, src := range slices.Backward(c.Layers) {
		first[src.Upper] = i
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, src := range c.Layers {
		if src.Upper != "" && first[src.Upper] != i {
			continue
		}
		group.Go(func() error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if src.Packed != nil {
				layers[i] = *src.Packed
				mu.Lock()
				defer mu.Unlock()
				return s.linkLayer(stage, src.Packed)
			}
			report := func(p api.ImageProgress) {
				mu.Lock()
				defer mu.Unlock()
				if c.Progress != nil {
					p.Item = fmt.Sprintf("layer %d of %d", i+1, len(c.Layers))
					c.Progress(p)
				}
			}
			packed, err := stage.pack(ctx, src.Upper, c.epoch(), report)
			if err != nil {
				return fmt.Errorf("pack layer %d (%s): %w", i+1, src.Upper, err)
			}
			mu.Lock()
			defer mu.Unlock()
			layers[i] = packed
			stage.blobs[packed.Descriptor.Digest] = packed.Descriptor.Size
			return nil
		})
	}
	err := group.Wait()
	for i, src := range c.Layers {
		if src.Upper != "" {
			layers[i] = layers[first[src.Upper]]
		}
	}
	return layers, err
}

func (s *Store) linkLayer(stage *staging, l *PackedLayer) error {
	f, err := s.blobFile(l.Descriptor)
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.DiffID, err)
	}
	f.Close()
	if _, staged := stage.blobs[l.Descriptor.Digest]; staged {
		return nil // an empty layer may well occur twice
	}
	err = stage.link(s.blobPath(l.Descriptor.Digest), l.Descriptor)
	if errors.Is(err, os.ErrNotExist) { // a GC was faster
		return fmt.Errorf("blob %s is missing: %w", l.Descriptor.Digest, errdefs.ErrNotFound)
	}
	return err
}

// compose stages manifest and config over layers.
func (s *Store) compose(stage *staging, c Commit, layers []PackedLayer) (Image, error) {
	config := dockerspec.DockerOCIImage{Image: c.Config}
	config.Config = dockerspec.DockerOCIImageConfig{ImageConfig: c.Config.Config, DockerOCIImageConfigExt: c.Docker}
	if config.Created == nil {
		created := c.epoch()
		config.Created = &created
	}
	if config.OS == "" && config.Architecture == "" {
		config.Platform = hostPlatform()
	}
	config.RootFS = ispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	manifest := ispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ispec.MediaTypeImageManifest,
		Annotations: c.Annotations,
		Layers:      []ispec.Descriptor{},
	}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
		manifest.Layers = append(manifest.Layers, ispec.Descriptor{
			MediaType: ociLayerType(l.Descriptor.MediaType), Digest: l.Descriptor.Digest, Size: l.Descriptor.Size,
		})
	}
	var err error
	if manifest.Config, err = stage.document(ispec.MediaTypeImageConfig, config); err != nil {
		return Image{}, err
	}
	desc, err := stage.document(ispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return Image{}, err
	}
	img, err := readImage(s.opener(stage), desc)
	img.Source = c.Source
	return img, err
}

// document stages v as JSON.
func (t *staging) document(mediaType string, v any) (ispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ispec.Descriptor{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	desc := ispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return desc, t.add(desc.Digest, bytes.NewReader(data))
}

// ociLayerType: an OCI manifest has OCI's layers only, for which the same
// bytes serve (image-spec, media-types.md, "Compatibility Matrix").
func ociLayerType(mediaType string) string {
	switch mediaType {
	case dockerLayer:
		return ispec.MediaTypeImageLayer
	case dockerLayer + ".gzip":
		return ispec.MediaTypeImageLayerGzip
	case dockerLayer + ".zstd":
		return ispec.MediaTypeImageLayerZstd
	}
	return mediaType
}

// adoptAll makes the folders that were packed the store's unpacked layers.
func (s *Store) adoptAll(ctx context.Context, sources []LayerSource, layers []PackedLayer) error {
	var (
		errs []error
		dirs []string
	)
	done := map[string]bool{}
	for i, src := range sources {
		if src.Upper == "" || done[src.Upper] {
			continue
		}
		done[src.Upper] = true
		if err := s.adopt(ctx, src.Upper, layers[i]); err != nil {
			errs = append(errs, fmt.Errorf("take over folder %s as layer %s: %w", src.Upper, layers[i].DiffID, err))
			continue
		}
		dirs = append(dirs, filepath.Join(s.layerDir(layers[i].DiffID), layerFS))
	}
	s.settle(dirs)
	return errors.Join(errs...)
}

// LayerDir returns the folder of an unpacked layer, as overlayfs wants it for
// lowerdir. ok is false when it is not unpacked, or not wholly.
func (s *Store) LayerDir(diffID digest.Digest) (dir string, ok bool) {
	if checkDigest(diffID) != nil || !s.unpacked(s.layerDir(diffID)) {
		return "", false
	}
	return filepath.Join(s.layerDir(diffID), layerFS), true
}

// UnpackLayer makes one layer a directory, as Unpack does with all layers of
// an image, and returns it.
func (s *Store) UnpackLayer(ctx context.Context, l PackedLayer) (string, error) {
	if err := checkDigest(l.DiffID); err != nil {
		return "", fmt.Errorf("unpack layer: %w", err)
	}
	dir := s.layerDir(l.DiffID)
	if !s.unpacked(dir) {
		if err := s.unpackLayer(ctx, l.Descriptor, l.DiffID); err != nil {
			return "", fmt.Errorf("unpack layer %s: %w", l.DiffID, err)
		}
		s.settle([]string{filepath.Join(dir, layerFS)})
	}
	return filepath.Join(dir, layerFS), nil
}

// Tag gives the image that from means the further name to; an image that had
// it loses it.
func (s *Store) Tag(ctx context.Context, from, to string) error {
	name, err := tagName(to)
	if err != nil {
		return fmt.Errorf("tag image %s: %w", from, err)
	}
	err = s.update(ctx, func(index *ispec.Index) error {
		found, err := s.find(*index, from)
		if err != nil {
			return err
		}
		setName(index, named(found[0], name))
		return nil
	})
	if err != nil {
		return fmt.Errorf("tag image %s as %s: %w", from, name, err)
	}
	return nil
}
