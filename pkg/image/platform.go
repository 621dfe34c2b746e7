package image

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func hostPlatform() ispec.Platform {
	return ispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
}

// completed is what a configuration says of its platform, in Go's words. Some
// builders leave it out, and mean the machine that has the image.
func completed(p ispec.Platform) ispec.Platform {
	host, normal := hostPlatform(), platforms.Normalize(p)
	if p.OS, p.Architecture = normal.OS, normal.Architecture; p.Architecture == "" {
		p.Architecture = host.Architecture
	}
	return p
}

// isHost reports whether this machine runs a platform, whatever the variant.
func isHost(p ispec.Platform) bool {
	host := hostPlatform()
	p = platforms.Normalize(p)
	return p.OS == host.OS && p.Architecture == host.Architecture
}

func isManifest(mediaType string) bool {
	return mediaType == ispec.MediaTypeImageManifest || mediaType == dockerManifest
}

func isIndex(mediaType string) bool {
	return mediaType == ispec.MediaTypeImageIndex || mediaType == dockerManifestList
}

// choose follows indexes down to the manifest for this machine: the one for
// the best variant that it can run, or else one that says nothing of platforms
// and whose configuration fits.
func choose(open opener, desc ispec.Descriptor, depth int) (ispec.Descriptor, error) {
	if isManifest(desc.MediaType) {
		return desc, nil
	}
	if !isIndex(desc.MediaType) {
		return desc, fmt.Errorf("manifest %s has the media type %q%s: %w", desc.Digest, desc.MediaType, schema1(desc.MediaType), errdefs.ErrNotImplemented)
	}
	if depth > 2 {
		return desc, fmt.Errorf("index %s: indexes nested too deep: %w", desc.Digest, errdefs.ErrInvalidArgument)
	}
	var index ispec.Index
	if err := readDocument(open, desc, &index); err != nil {
		return desc, err
	}
	candidates, others := candidates(index)
	for _, m := range candidates {
		found, err := choose(open, m, depth+1)
		if err == nil && m.Platform == nil && isManifest(m.MediaType) && len(candidates) > 1 {
			err = fits(open, m)
		}
		if err == nil {
			return found, nil
		}
		missing, ok := errors.AsType[*noPlatformError](err)
		if !ok {
			return desc, err
		}
		others = append(others, missing.others...)
	}
	return desc, &noPlatformError{fmt.Sprint("index ", desc.Digest), others}
}

// candidates are the entries of an index that may be for this machine, the best
// first, and the platforms of the others. An entry of a kind that is not known
// is passed over (image-spec, image-index.md, "mediaType").
func candidates(index ispec.Index) (candidates []ispec.Descriptor, others []string) {
	host := platforms.Only(platforms.DefaultSpec())
	for _, m := range index.Manifests {
		switch p := m.Platform; {
		case !isManifest(m.MediaType) && !isIndex(m.MediaType):
		case p == nil || isHost(*p) && host.Match(*p):
			candidates = append(candidates, m)
		default:
			others = append(others, platforms.Format(*p))
		}
	}
	slices.SortStableFunc(candidates, func(a, b ispec.Descriptor) int {
		switch {
		case a.Platform == nil || b.Platform == nil:
			return order(a.Platform != nil, b.Platform != nil)
		default:
			return order(host.Less(*a.Platform, *b.Platform), host.Less(*b.Platform, *a.Platform))
		}
	})
	return candidates, others
}

func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// fits reports, as an error, whether the manifest's configuration is for this machine.
func fits(open opener, desc ispec.Descriptor) error {
	var manifest ispec.Manifest
	if err := readDocument(open, desc, &manifest); err != nil {
		return err
	}
	var config struct{ ispec.Platform }
	if err := readDocument(open, manifest.Config, &config); err != nil {
		return err
	}
	if p := completed(config.Platform); !isHost(p) {
		return &noPlatformError{fmt.Sprint("manifest ", desc.Digest), []string{platforms.Format(p)}}
	}
	return nil
}

// noPlatformError says that an index has nothing for this machine. It is an
// errdefs.ErrNotFound.
type noPlatformError struct {
	what   string
	others []string
}

func (e *noPlatformError) Error() string {
	host := hostPlatform()
	return fmt.Sprintf("%s has no image for %s/%s (it has: %s): %v",
		e.what, host.OS, host.Architecture, strings.Join(e.others, ", "), errdefs.ErrNotFound)
}

func (e *noPlatformError) Unwrap() error { return errdefs.ErrNotFound }

// schema1 says more of the media types that registries had before 2016.
func schema1(mediaType string) string {
	if !strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.v1+") {
		return ""
	}
	return ", which is Docker's first format, of before 2016: the image has to be pushed again with a current tool"
}
