package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image/layer"
)

// What Export's progress says of a file.
const (
	ExportWriting = "writing"
	ExportDone    = "done"
)

// The order of an archive's files: a reader learns first what is to come.
const (
	orderLayout = iota
	orderDocument
	orderLayer
)

// exportFile is one file of an archive: data, or a blob.
type exportFile struct {
	name   string
	order  int
	size   int64
	data   []byte
	blob   *os.File      // held open, so that no GC takes it away
	digest digest.Digest // of what is written
	plain  bool          // the blob is written decompressed
}

func (x *exporter) close() {
	for _, f := range x.files {
		if f.blob != nil {
			f.blob.Close()
		}
	}
}

func blobName(d digest.Digest) string {
	return ispec.ImageBlobsDir + "/" + digest.SHA256.String() + "/" + d.Encoded()
}

func isZstd(mediaType string) bool { return strings.HasSuffix(mediaType, "zstd") }

// document adds v as JSON.
func (x *exporter) document(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	x.files[name] = &exportFile{name: name, order: orderLayout, size: int64(len(data)), data: data}
	return nil
}

// blob adds a blob of the store.
func (x *exporter) blob(desc ispec.Descriptor, order int) error {
	name := blobName(desc.Digest)
	if x.files[name] != nil {
		return nil
	}
	f, err := x.store.blobFile(desc)
	if err != nil {
		return err
	}
	x.files[name] = &exportFile{name: name, order: order, size: desc.Size, blob: f, digest: desc.Digest}
	return nil
}

// decompressed adds the tar that a layer's blob holds. A tar archive wants
// its size beforehand: the blob is read twice.
func (x *exporter) decompressed(ctx context.Context, l ispec.Descriptor, diffID digest.Digest) error {
	name := blobName(diffID)
	if x.files[name] != nil {
		return nil
	}
	f, err := x.store.blobFile(l)
	if err != nil {
		return err
	}
	file := &exportFile{name: name, order: orderLayer, blob: f, digest: diffID, plain: true}
	x.files[name] = file
	r, err := file.open()
	if err != nil {
		return err
	}
	defer r.Close()
	limit, words := x.store.limits.unpacked(l.Size)
	file.size, err = io.Copy(io.Discard, &layer.LimitReader{R: untilDone(ctx, r), Left: limit, Why: "it unpacks to more than " + words})
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.Digest, layer.Classify(err))
	}
	return nil
}

// open returns the file's content, from its beginning.
func (f *exportFile) open() (io.ReadCloser, error) {
	if f.blob == nil {
		return io.NopCloser(bytes.NewReader(f.data)), nil
	}
	if _, err := f.blob.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if f.plain {
		return layer.Decompress(f.blob)
	}
	return io.NopCloser(f.blob), nil
}

// write writes the archive. Its bytes depend on nothing but the content.
func (x *exporter) write(ctx context.Context, w io.Writer, report func(api.ImageProgress)) error {
	files := make([]*exportFile, 0, len(x.files))
	for _, f := range x.files {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b *exportFile) int {
		return cmp.Or(cmp.Compare(a.order, b.order), -strings.Compare(a.name, b.name)) // oci-layout first
	})
	if report == nil {
		report = func(api.ImageProgress) {}
	}
	tw := tar.NewWriter(w)
	for _, f := range files {
		if err := f.write(ctx, tw, report); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return tw.Close()
}

func (f *exportFile) write(ctx context.Context, tw *tar.Writer, report func(api.ImageProgress)) error {
	hdr := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: f.size, ModTime: time.Unix(0, 0)}
	if err := tw.WriteHeader(hdr); err != nil {
		return err
	}
	r, err := f.open()
	if err != nil {
		return err
	}
	defer r.Close()
	progress := api.ImageProgress{Item: f.name, Status: ExportWriting, Total: f.size}
	content := &tally{w: tw, hash: digest.SHA256.Digester(), report: func(n int64) {
		progress.Done = n
		report(progress)
	}}
	_, err = io.CopyBuffer(content, struct{ io.Reader }{untilDone(ctx, r)}, make([]byte, layer.CopyBuffer))
	if errors.Is(err, tar.ErrWriteTooLong) || err == nil && (content.n != f.size || f.digest != "" && content.hash.Digest() != f.digest) {
		return fmt.Errorf("its content is not that of its digest: %w", errdefs.ErrDataLoss)
	}
	if err != nil {
		return err
	}
	progress.Status, progress.Done = ExportDone, f.size
	report(progress)
	return nil
}
