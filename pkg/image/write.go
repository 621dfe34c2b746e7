package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layer is one layer to be written by WriteArchive.
type Layer struct {
	Tar       []byte // uncompressed
	CreatedBy string // for the image's history: the instruction that made it
}

// WriteArchive writes a one-image OCI archive, compressed by gzip, and returns
// the descriptor of its manifest. The same arguments give the same bytes. Of
// config, RootFS and History are filled in from layers, bottom first.
func WriteArchive(w io.Writer, name string, config ispec.Image, layers []Layer) (ispec.Descriptor, error) {
	var none ispec.Descriptor
	name, err := familiar(name)
	if err != nil {
		return none, err
	}
	blobs := map[digest.Digest][]byte{}
	put := func(mediaType string, data []byte) ispec.Descriptor {
		d := digest.FromBytes(data)
		blobs[d] = data
		return ispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	manifest := ispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageManifest}
	config.RootFS = ispec.RootFS{Type: "layers"}
	config.History = nil
	for _, l := range layers {
		packed, err := compress(l.Tar)
		if err != nil {
			return none, err
		}
		manifest.Layers = append(manifest.Layers, put(ispec.MediaTypeImageLayerGzip, packed))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.Tar))
		config.History = append(config.History, ispec.History{Created: config.Created, CreatedBy: l.CreatedBy})
	}
	document := func(mediaType string, v any) (desc ispec.Descriptor, err error) {
		data, err := json.Marshal(v)
		if err != nil {
			return none, fmt.Errorf("encode %s: %w", mediaType, err)
		}
		return put(mediaType, data), nil
	}
	if manifest.Config, err = document(ispec.MediaTypeImageConfig, config); err != nil {
		return none, err
	}
	desc, err := document(ispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return none, err
	}
	desc.Platform = &config.Platform
	desc.Annotations = map[string]string{ispec.AnnotationRefName: name}
	return desc, writeLayout(w, name, desc, blobs)
}

func writeLayout(w io.Writer, name string, desc ispec.Descriptor, blobs map[digest.Digest][]byte) error {
	index, err := json.Marshal(ispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ispec.MediaTypeImageIndex,
		Manifests: []ispec.Descriptor{desc},
	})
	if err != nil {
		return fmt.Errorf("encode index: %w", err)
	}
	files := map[string][]byte{
		ispec.ImageLayoutFile: []byte(`{"imageLayoutVersion":"` + ispec.ImageLayoutVersion + `"}`),
		ispec.ImageIndexFile:  index,
	}
	for d, data := range blobs {
		files[ispec.ImageBlobsDir+"/sha256/"+d.Encoded()] = data
	}
	// The layers are compressed already.
	zw, err := gzip.NewWriterLevel(w, gzip.NoCompression)
	if err != nil {
		return err
	}
	zw.Comment = name + "@" + desc.Digest.String() // see EnsureBuiltin
	tw := tar.NewWriter(zw)
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	// oci-layout and index.json before the blobs, so that a reader knows early
	// what it has before it.
	slices.SortFunc(names, func(a, b string) int {
		if x, y := strings.Count(a, "/"), strings.Count(b, "/"); x != y {
			return x - y
		}
		return strings.Compare(b, a)
	})
	for _, n := range names {
		hdr := &tar.Header{Name: n, Mode: 0o644, Size: int64(len(files[n])), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := tw.WriteHeader(hdr); err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
		if _, err := tw.Write(files[n]); err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return zw.Close()
}

func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	zw, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := zw.Write(data); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
