package image

import (
	"context"
	"fmt"
	"io"
)

// Limits bound what a hostile image can make the store hold or do. All are
// generous: the largest images in use stay an order of magnitude below them.
type Limits struct {
	Archive  int64 // bytes of blobs in one archive
	Document int64 // bytes of an index, a manifest or a config
	Artifact int64 // bytes of what a referrer says
	Images   int   // images of one archive, and names
	Files    int   // entries in one archive, or in one layer
	Layers   int   // layers of one image
	Layer    int64 // bytes that one layer unpacks to
	// Ratio is how many times its compressed size a layer may unpack to, once
	// it is larger than RatioFrom bytes: small layers of zeros are no bomb.
	Ratio     int64
	RatioFrom int64
}

// DefaultLimits are those of a store from Open.
func DefaultLimits() Limits {
	return Limits{
		Archive:   64 << 30,
		Document:  4 << 20, // what registries allow too (distribution-spec, Pushing Manifests)
		Artifact:  256 << 20,
		Images:    1000,
		Files:     1 << 20,
		Layers:    500, // overlayfs stacks no more (OVL_MAX_STACK)
		Layer:     64 << 30,
		Ratio:     200,
		RatioFrom: 1 << 30,
	}
}

// unpacked returns how many bytes a layer of compressed bytes may unpack to,
// and the reason in words.
func (l Limits) unpacked(compressed int64) (int64, string) {
	if byRatio := max(compressed*l.Ratio, l.RatioFrom); byRatio < l.Layer {
		return byRatio, fmt.Sprintf("%d bytes, %d times its compressed size", byRatio, byRatio/max(compressed, 1))
	}
	return l.Layer, fmt.Sprintf("%d bytes", l.Layer)
}

// readerFunc is a Read method alone.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// untilDone reads r until ctx ends, and so stops a long copy.
func untilDone(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}
