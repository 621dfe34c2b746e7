package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image/layer"
)

const (
	// pullTries is how often a request is made that fails for reasons that
	// may pass. A download that got further starts to count anew.
	pullTries = 5
	// pullPause is the first wait between them; each is twice as long.
	pullPause = 200 * time.Millisecond
	// pullStall is how long a connection may stay silent.
	pullStall = 60 * time.Second
	// pullReport is how often a download tells how far it is.
	pullReport = 100 * time.Millisecond
)

// remote is one repository of a registry.
type remote struct {
	host   string // as the user knows it
	base   string // https://HOST/v2/REPOSITORY/
	client *http.Client
	close  func()
}

// connect makes a client with the credentials for the repository.
func connect(ctx context.Context, named reference.Named, opts PullOptions) (*remote, error) {
	host := reference.Domain(named)
	plain := opts.Insecure || isLoopback(host)
	var choices []name.Option
	if plain {
		choices = append(choices, name.Insecure)
	}
	registry, err := name.NewRegistry(host, choices...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	repo := registry.Repo(reference.Path(named))
	auth, err := authn.Resolve(ctx, keychain(opts), repo)
	if err != nil {
		return nil, fmt.Errorf("credentials for %s: %w", host, err)
	}
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.DisableCompression = true // digests are of what is sent
	base.ResponseHeaderTimeout = pullStall
	base.MaxIdleConnsPerHost = pullParallel
	var inner http.RoundTripper = base
	if !plain {
		inner = httpsOnly{base}
	}
	inner = patient{inner}
	r := &remote{host: host, close: base.CloseIdleConnections}
	var rt http.RoundTripper
	err = retry(ctx, func() error {
		rt, err = transport.NewWithContext(ctx, registry, auth, inner, []string{repo.Scope(transport.PullScope)})
		return err
	})
	if err != nil {
		return nil, r.explain(err)
	}
	r.client = &http.Client{Transport: rt}
	// The transport replaces the scheme by the one that the registry speaks.
	r.base = "https://" + registry.RegistryStr() + "/v2/" + reference.Path(named) + "/"
	return r, nil
}

// isLoopback reports whether a registry is on this machine: what is sent
// there nobody else can read or change.
func isLoopback(host string) bool {
	h, _, err := net.SplitHostPort(host)
	if err != nil {
		h = host
	}
	addr, err := netip.ParseAddr(strings.Trim(h, "[]"))
	return h == "localhost" || err == nil && addr.IsLoopback()
}

// httpsOnly refuses plain HTTP wherever it comes from: a redirect, a token
// server, or the guess that private addresses have no TLS.
type httpsOnly struct{ inner http.RoundTripper }

var errPlain = fmt.Errorf("plain HTTP is refused: %w", errdefs.ErrFailedPrecondition)

func (h httpsOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, errPlain
	}
	return h.inner.RoundTrip(r)
}

// get makes a request and returns the answer when it has one of these codes.
func (r *remote) get(ctx context.Context, path string, header http.Header, codes ...int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, codes...); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

var acceptManifest = http.Header{"Accept": {strings.Join([]string{
	ispec.MediaTypeImageIndex, ispec.MediaTypeImageManifest, dockerManifestList, dockerManifest,
}, ", ")}}

// manifest fetches a manifest or index of at most limit bytes. said is the
// digest that the registry claims for it, or empty.
func (r *remote) manifest(ctx context.Context, ask string, limit int64) (data []byte, mediaType string, said digest.Digest, err error) {
	err = retry(ctx, func() error {
		ctx, alive, stop := stallWatch(ctx)
		defer stop()
		resp, err := r.get(ctx, "manifests/"+ask, acceptManifest.Clone(), http.StatusOK)
		if err != nil {
			return stalled(ctx, err)
		}
		defer resp.Body.Close()
		mediaType, _, _ = mime.ParseMediaType(resp.Header.Get("Content-Type"))
		said = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
		data, err = io.ReadAll(&layer.CountingReader{Report: alive,
			R: &layer.LimitReader{R: resp.Body, Left: limit, Why: fmt.Sprintf("manifest %s has more than %d bytes", ask, limit)}})
		return stalled(ctx, err)
	})
	if err != nil {
		return nil, "", "", r.explain(err)
	}
	// Some registries send every document as application/json.
	var inside struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(data, &inside) == nil && inside.MediaType != "" {
		mediaType = inside.MediaType
	}
	return data, mediaType, said, nil
}

// fetch brings the rest of a blob, and verifies the whole.
func (p *puller) fetch(ctx context.Context, part *partial) error {
	for {
		resumed := part.have > 0
		for tries := 0; !part.whole(); {
			before := part.have
			err := p.fetchSome(ctx, part)
			if err == nil {
				break
			}
			if part.have > before {
				tries = 0
			}
			if cause := context.Cause(ctx); cause != nil {
				return cause // whatever it looked like from here
			}
			if tries++; tries >= pullTries || !transient(err) {
				return p.from.explain(err)
			}
			if err := pause(ctx, tries); err != nil {
				return err
			}
		}
		err := part.verify()
		if err == nil || !resumed {
			return err
		}
		// What the earlier pull left may have been at fault: once more, whole.
	}
}

// fetchSome makes one request for what is missing.
func (p *puller) fetchSome(ctx context.Context, part *partial) error {
	ctx, alive, stop := stallWatch(ctx)
	defer stop()
	header := http.Header{}
	if part.have > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", part.have, part.desc.Size-1))
	}
	resp, err := p.from.get(ctx, "blobs/"+part.desc.Digest.String(), header, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return stalled(ctx, err)
	}
	defer resp.Body.Close()
	var start int64
	if resp.StatusCode == http.StatusPartialContent {
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &start); err != nil {
			start = -1
		}
	}
	if start != part.have {
		// The registry sends all of it, or what nobody asked for.
		if err := part.restart(); err != nil {
			return err
		}
		if start != 0 {
			return fmt.Errorf("answer to a range of bytes: Content-Range %q: %w", resp.Header.Get("Content-Range"), io.ErrUnexpectedEOF)
		}
	}
	var told time.Time
	body := &layer.CountingReader{R: resp.Body, Report: func(n int64) {
		alive(n)
		if time.Since(told) > pullReport {
			told = time.Now()
			p.tell(part.desc, PullFetches, part.have)
		}
	}}
	limited := &layer.LimitReader{R: body, Left: part.desc.Size - part.have, Why: "more bytes than its descriptor says"}
	if _, err := io.CopyBuffer(part, limited, make([]byte, layer.CopyBuffer)); err != nil {
		if limited.Left < 0 {
			return fmt.Errorf("%s: %w", limited.Why, errdefs.ErrDataLoss)
		}
		return stalled(ctx, err)
	}
	if !part.whole() {
		return io.ErrUnexpectedEOF
	}
	return nil
}

var errStalled = errors.New("the registry has stopped sending")

// stallWatch ends the context when alive was not called for pullStall.
func stallWatch(parent context.Context) (ctx context.Context, alive func(int64), stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	timer := time.AfterFunc(pullStall, func() { cancel(errStalled) })
	return ctx, func(int64) { timer.Reset(pullStall) }, func() {
		timer.Stop()
		cancel(nil)
	}
}

// stalled says why a context's request has ended.
func stalled(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

func retry(ctx context.Context, do func() error) error {
	for tries := 1; ; tries++ {
		err := do()
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return cause
		}
		if err == nil || tries == pullTries || !transient(err) {
			return err
		}
		if err := pause(ctx, tries); err != nil {
			return err
		}
	}
}

// pause waits longer with every try, and never as long as another pull that
// began together with this one.
func pause(ctx context.Context, tries int) error {
	wait := pullPause << (tries - 1)
	select {
	case <-time.After(wait/2 + rand.N(wait)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
