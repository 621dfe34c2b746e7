package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// labels are those that containerd's CRI plugin gives to images. What is
// pinned is not removed by the kubelet when the disk is full: with no registry
// in reach it could not be had again.
var labels = map[string]string{
	"io.cri-containerd.image":  "managed",
	"io.cri-containerd.pinned": "pinned",
}

// writeImages puts the images of the list into a store.
func writeImages(ctx context.Context, db *metadata.DB, trees string, list []entry, created time.Time) ([]stored, error) {
	cs := db.ContentStore()
	layers, err := writeLayers(ctx, cs, trees, list, created)
	if err != nil {
		return nil, err
	}
	is := metadata.NewImageStore(db)
	var result []stored
	for _, e := range list {
		var own []layer
		s := stored{}
		for i := range e.Trees {
			l := layers[chain(e.Trees[:i+1])]
			own = append(own, l)
			s.size += l.desc.Size
		}
		s.target, err = writeManifest(ctx, cs, e, own, created)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", e.Names[0], err)
		}
		// What a garbage collection finds from the image on, it keeps.
		refs := images.SetChildrenMappedLabels(cs, images.ChildrenHandler(cs), nil)
		if err := images.Walk(ctx, refs, s.target); err != nil {
			return nil, fmt.Errorf("label the content of %s: %w", e.Names[0], err)
		}
		// The CRI plugin knows images by the digest of their configuration,
		// and makes that name itself only for images without its labels.
		id, err := configDigest(ctx, cs, s.target)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", e.Names[0], err)
		}
		for _, name := range append([]string{id.String()}, e.Names...) {
			if _, err := is.Create(ctx, images.Image{Name: name, Target: s.target, Labels: labels}); err != nil {
				return nil, fmt.Errorf("name %s: %w", name, err)
			}
			s.name = name
			result = append(result, s)
		}
	}
	return result, nil
}

// chain is the key of the layer that the last of some trees makes.
func chain(trees []string) string { return strings.Join(trees, "\x00") }

// writeLayers stores each layer of the list once, as many at a time as there
// are processors.
func writeLayers(ctx context.Context, cs content.Store, dir string, list []entry, created time.Time) (map[string]layer, error) {
	var mu sync.Mutex
	layers := map[string]layer{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, e := range list {
		for i := range e.Trees {
			trees := e.Trees[:i+1]
			mu.Lock()
			_, begun := layers[chain(trees)]
			if !begun {
				layers[chain(trees)] = layer{}
			}
			mu.Unlock()
			if begun {
				continue
			}
			group.Go(func() error {
				l, err := writeLayer(ctx, cs, dir, trees, created)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				layers[chain(trees)] = l
				return nil
			})
		}
	}
	return layers, group.Wait()
}

// writeManifest stores an image's configuration and its manifest, and returns
// the latter.
func writeManifest(ctx context.Context, cs content.Store, e entry, layers []layer, created time.Time) (ispec.Descriptor, error) {
	img := ispec.Image{
		Created:  &created,
		Platform: ispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   e.Config,
		RootFS:   ispec.RootFS{Type: "layers"},
	}
	manifest := ispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ispec.MediaTypeImageManifest,
	}
	for i, l := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, l.diffID)
		img.History = append(img.History, ispec.History{Created: &created, CreatedBy: "preload " + e.Trees[i]})
		manifest.Layers = append(manifest.Layers, l.desc)
	}
	var err error
	if manifest.Config, err = writeJSON(ctx, cs, ispec.MediaTypeImageConfig, img); err != nil {
		return ispec.Descriptor{}, err
	}
	return writeJSON(ctx, cs, ispec.MediaTypeImageManifest, manifest)
}

// writeJSON stores v.
func writeJSON(ctx context.Context, cs content.Ingester, mediaType string, v any) (ispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ispec.Descriptor{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	desc := ispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := content.WriteBlob(ctx, cs, desc.Digest.String(), bytes.NewReader(b), desc); err != nil {
		return ispec.Descriptor{}, fmt.Errorf("write %s: %w", mediaType, err)
	}
	return desc, nil
}

// configDigest is the digest of the configuration that a manifest names.
func configDigest(ctx context.Context, cs content.Provider, manifest ispec.Descriptor) (digest.Digest, error) {
	b, err := content.ReadBlob(ctx, cs, manifest)
	if err != nil {
		return "", fmt.Errorf("read manifest: %w", err)
	}
	var m ispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return "", fmt.Errorf("decode manifest: %w", err)
	}
	return m.Config.Digest, nil
}
