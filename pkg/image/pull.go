package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"golang.org/x/sync/errgroup"
)

// annotationIndex records on a descriptor of index.json the digest of the
// registry's index that the image was chosen from. The store keeps its blob,
// so that the image can be found and served by that digest too.
const annotationIndex = "io.sandboxlabs.image.index"

// indexDigest is what annotationIndex says, or empty.
func indexDigest(desc ispec.Descriptor) digest.Digest {
	d := digest.Digest(desc.Annotations[annotationIndex])
	if checkDigest(d) != nil {
		return ""
	}
	return d
}

// pullParallel is how many blobs one pull fetches at once, as docker does.
const pullParallel = 3

// What a blob's PullProgress.Status says.
const (
	PullPresent = "present" // the store had it
	PullWaiting = "waiting" // another pull may be fetching it
	PullFetches = "downloading"
	PullDone    = "done"
)

// PullProgress tells about one blob; Item is its digest, Done and Total count
// bytes. What an interrupted pull has left counts as done.
type PullProgress = api.ImageProgress

// PullOptions are the choices of Pull.
type PullOptions struct {
	Platform string             // "linux/amd64"; this machine's when empty, and no other yet
	Progress func(PullProgress) // called by one goroutine at a time; may be nil
	// Keychain finds credentials; when nil, those of the docker configuration
	// in ConfigDir, or with that empty, of this process's user.
	Keychain  authn.Keychain
	ConfigDir string
	Insecure  bool // allow HTTP; this machine's own addresses need no leave
}

// Pull fetches an image from its registry into the store. Names are read as
// docker reads them; a digest pins the manifest or index, and wins over a tag.
//
// Of an interrupted pull nothing is in the store, but what has come of each
// blob waits a week for the next. Errors are errdefs.ErrUnavailable when the
// registry is not in reach, ErrNotFound, ErrUnauthenticated,
// ErrPermissionDenied or ErrResourceExhausted when it refuses, and
// ErrDataLoss when it sends what it should not.
func (s *Store) Pull(ctx context.Context, ref string, opts PullOptions) (img Image, err error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return Image{}, fmt.Errorf("pull image %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	named = reference.TagNameOnly(named)
	if host := hostPlatform(); opts.Platform != "" && opts.Platform != host.OS+"/"+host.Architecture {
		return Image{}, fmt.Errorf("pull image %s for %s: this machine runs images for %s/%s only: %w",
			ref, opts.Platform, host.OS, host.Architecture, errdefs.ErrFailedPrecondition)
	}
	img, err = s.pull(ctx, named, opts)
	if err != nil {
		return Image{}, fmt.Errorf("pull image %s: %w", reference.FamiliarString(named), err)
	}
	return img, nil
}

// puller is one Pull at work.
type puller struct {
	store *Store
	from  *remote
	named reference.Named

	mu     sync.Mutex // guards the rest
	stage  *staging
	report func(PullProgress)
}

func (s *Store) pull(ctx context.Context, named reference.Named, opts PullOptions) (img Image, err error) {
	from, err := connect(ctx, named, opts)
	if err != nil {
		return img, err
	}
	defer from.close()
	stage, err := s.newStaging()
	if err != nil {
		return img, err
	}
	defer func() { err = errors.Join(err, stage.close()) }()
	p := &puller{store: s, from: from, named: named, stage: stage, report: opts.Progress}

	root, err := p.root(ctx)
	if err != nil {
		return img, err
	}
	// readImage asks for documents one after the other, each after the digest
	// of the one before it was checked.
	img, err = readImage(func(desc ispec.Descriptor) (*os.File, error) { return p.document(ctx, desc) }, root)
	if err != nil {
		return img, err
	}
	img.Name, img.Source = storeName(named), SourceRegistry
	if err := p.layers(ctx, img); err != nil {
		return img, err
	}
	if err := context.Cause(ctx); err != nil {
		return img, err
	}
	return img, p.publish(ctx, img, root)
}

// storeName is the name under which the store keeps what was pulled: with a
// tag, or, when it was asked for by digest alone, with that.
func storeName(named reference.Named) string {
	if tagged, ok := named.(reference.NamedTagged); ok {
		return reference.FamiliarName(named) + ":" + tagged.Tag()
	}
	return reference.FamiliarString(named)
}

// root fetches the manifest or index that the reference means.
func (p *puller) root(ctx context.Context) (ispec.Descriptor, error) {
	var pin digest.Digest
	ask := ""
	switch ref := p.named.(type) {
	case reference.Digested:
		pin = ref.Digest()
		ask = pin.String()
		if err := checkDigest(pin); err != nil {
			return ispec.Descriptor{}, err
		}
	case reference.Tagged:
		ask = ref.Tag()
	}
	data, mediaType, said, err := p.from.manifest(ctx, ask, p.store.limits.Document)
	if err != nil {
		return ispec.Descriptor{}, err
	}
	desc := ispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	for _, want := range []digest.Digest{pin, said} {
		if want != "" && want != desc.Digest {
			return desc, fmt.Errorf("manifest %s: its content has the digest %s: %w", want, desc.Digest, errdefs.ErrDataLoss)
		}
	}
	return desc, p.stage.add(desc.Digest, bytes.NewReader(data))
}

// document opens a manifest or a config, and fetches it when it is missing.
func (p *puller) document(ctx context.Context, desc ispec.Descriptor) (*os.File, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, err
	}
	open := p.store.opener(p.stage)
	f, err := open(desc)
	if !errdefs.IsNotFound(err) {
		return f, err
	}
	switch desc.MediaType {
	case ispec.MediaTypeImageManifest, ispec.MediaTypeImageIndex, dockerManifest, dockerManifestList:
		data, _, _, err := p.from.manifest(ctx, desc.Digest.String(), p.store.limits.Document)
		if err != nil {
			return nil, err
		}
		if err := p.stage.add(desc.Digest, bytes.NewReader(data)); err != nil {
			return nil, err
		}
	default:
		if err := p.blob(ctx, desc); err != nil {
			return nil, err
		}
	}
	return open(desc)
}

// layers stages every layer: fetched, or linked when the store has it.
func (p *puller) layers(ctx context.Context, img Image) error {
	var total int64
	todo := map[digest.Digest]ispec.Descriptor{} // an empty layer may well occur twice
	for _, l := range img.Manifest.Layers {
		// Compared before it is added: the sum must not overflow.
		if limit := p.store.limits.Archive; l.Size < 0 || l.Size > limit-total {
			return fmt.Errorf("layer %s: the image has more than %d bytes: %w", l.Digest, limit, errdefs.ErrInvalidArgument)
		}
		total += l.Size
		if _, staged := p.stage.blobs[l.Digest]; !staged {
			todo[l.Digest] = l
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(pullParallel)
	for _, l := range img.Manifest.Layers {
		if _, ok := todo[l.Digest]; !ok {
			continue
		}
		delete(todo, l.Digest)
		group.Go(func() error { return p.blob(ctx, l) })
	}
	return group.Wait()
}

// blob stages one blob, from the store, from an earlier pull or another that
// runs beside this one, or from the registry.
func (p *puller) blob(ctx context.Context, desc ispec.Descriptor) (err error) {
	if found, err := p.fromStore(desc, PullPresent); found || err != nil {
		return err
	}
	p.tell(desc, PullWaiting, 0)
	part, err := p.store.openPartial(ctx, desc)
	if err != nil {
		return fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	defer func() { err = errors.Join(err, part.close()) }()
	// Whoever had the lock may have published it meanwhile.
	if found, err := p.fromStore(desc, PullDone); found || err != nil {
		return err
	}
	if err := p.fetch(ctx, part); err != nil {
		return fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	p.mu.Lock()
	err = part.stage(p.stage)
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	p.tell(desc, PullDone, desc.Size)
	return nil
}

// fromStore links a blob of the store into the staging folder, so that no GC
// takes it away before the image is published.
func (p *puller) fromStore(desc ispec.Descriptor, status string) (bool, error) {
	f, err := p.store.blobFile(desc)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	f.Close()
	p.mu.Lock()
	err = p.stage.link(p.store.blobPath(desc.Digest), desc)
	p.mu.Unlock()
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // a GC was faster
	}
	if err != nil {
		return false, err
	}
	p.tell(desc, status, desc.Size)
	return true, nil
}

func (p *puller) tell(desc ispec.Descriptor, status string, done int64) {
	if p.report == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report(PullProgress{Item: desc.Digest.String(), Status: status, Done: done, Total: desc.Size})
}

// publish puts the image into the store, all at once.
func (p *puller) publish(ctx context.Context, img Image, root ispec.Descriptor) error {
	blobs := []digest.Digest{root.Digest, img.Descriptor.Digest, img.ID}
	for _, l := range img.Manifest.Layers {
		blobs = append(blobs, l.Digest)
	}
	desc := img.Descriptor
	desc.Annotations = map[string]string{annotationSource: img.Source, ispec.AnnotationRefName: img.Name}
	if root.Digest != desc.Digest {
		desc.Annotations[annotationIndex] = root.Digest.String()
	}
	err := p.store.update(ctx, func(index *ispec.Index) error {
		// Manifest and config may have been in the store, and so are not
		// staged: they could have gone since.
		if _, err := reachable(p.store.opener(p.stage), img.Descriptor); err != nil {
			return err
		}
		if err := p.store.commit(p.stage, blobs); err != nil {
			return err
		}
		setName(index, desc)
		return nil
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range blobs {
		errs = append(errs, p.store.dropPartial(d))
	}
	p.store.removePartialDir()
	return errors.Join(errs...)
}
