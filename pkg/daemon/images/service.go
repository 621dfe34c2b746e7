// Package images is what the daemon does with images: it joins the store, the
// builder, the recipes and the engine, none of which knows all of the others.
package images

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Service implements the daemon's image calls.
type Service struct {
	Store   *image.Store
	Builder *build.Builder
	Engine  engine.Engine
	// Views shows images' files; the engine, as a rule.
	Views engine.LayerEngine
	// Collect removes what no image, container or build uses.
	Collect func(context.Context) (image.Reclaimed, error)
	// Bundled returns the folder of the recipes that sandbox comes with.
	Bundled func(context.Context) (string, error)
	Dirs    state.Dirs
	// Env is what downloads need of the host: proxies, as KEY=VALUE.
	Env []string
	// WireError is an error as reports hold it.
	WireError func(error) *api.Error
	Log       *zap.Logger
}

// List returns every image of the store.
func (s *Service) List(context.Context) ([]api.Image, error) {
	list, err := s.Store.List()
	out := make([]api.Image, len(list))
	for i, img := range list {
		out[i] = img.Summary()
	}
	return out, err
}

// Inspect returns one image with all its names, and who uses it.
func (s *Service) Inspect(ctx context.Context, ref string) (api.ImageDetail, error) {
	img, err := s.Store.Resolve(ref)
	if err != nil {
		return api.ImageDetail{}, err
	}
	config, err := s.config(img)
	if err != nil {
		return api.ImageDetail{}, err
	}
	out := api.ImageDetail{
		ID: img.ID.String(), Names: []string{}, Digest: img.Descriptor.Digest.String(), MediaType: img.Descriptor.MediaType,
		Platform: img.Config.OS + "/" + img.Config.Architecture, Size: img.Size(), Created: img.Summary().Created,
		Source: img.Source, Annotations: img.Manifest.Annotations, LayerDigests: []string{}, Config: config,
	}
	for _, l := range img.Manifest.Layers {
		out.LayerDigests = append(out.LayerDigests, l.Digest.String())
	}
	if out.Names, err = s.names(img.ID); err != nil {
		return out, err
	}
	users, err := s.users(ctx)
	out.UsedBy = users[img.ID.String()]
	return out, err
}

// config is the image's configuration as it is in its blob: ours would lose
// the fields that image-spec does not know.
func (s *Service) config(img image.Image) (json.RawMessage, error) {
	f, err := s.Store.OpenBlob(img.ID)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err == nil && digest.FromBytes(b) != img.ID {
		err = fmt.Errorf("blob %s: its content has another digest: %w", img.ID, errdefs.ErrDataLoss)
	}
	return b, err
}

// names are all that an image has, sorted.
func (s *Service) names(id digest.Digest) ([]string, error) {
	list, err := s.Store.List()
	names := []string{}
	for _, img := range list {
		if img.ID == id && img.Name != "" {
			names = append(names, img.Name)
		}
	}
	slices.Sort(names)
	return names, err
}

// users lists the names of the containers of each image, by its ID.
func (s *Service) users(ctx context.Context) (map[string][]string, error) {
	containers, err := s.Engine.List(ctx)
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for _, c := range containers {
		users[c.ImageID] = append(users[c.ImageID], c.Name)
	}
	for _, names := range users {
		slices.Sort(names)
	}
	return users, nil
}

// Layers tells what each instruction did.
func (s *Service) Layers(ctx context.Context, ref string, tree bool) ([]api.ImageLayer, error) {
	img, err := s.Store.Resolve(ref)
	if err != nil {
		return nil, err
	}
	return s.Store.Layers(ctx, img, tree)
}

// Files lists the regular files of a folder of an image.
func (s *Service) Files(ctx context.Context, ref, folder string) ([]api.ImageEntry, error) {
	img, err := s.Store.Resolve(ref)
	if err != nil {
		return nil, err
	}
	return s.Store.Files(ctx, img, folder)
}

// OpenFile opens a file of an image.
func (s *Service) OpenFile(ctx context.Context, ref, path string) (*os.File, error) {
	img, err := s.Store.Resolve(ref)
	if err != nil {
		return nil, err
	}
	return s.Store.OpenFile(ctx, img, path)
}

// Tag gives an image a further name.
func (s *Service) Tag(ctx context.Context, ref, name string) error {
	return s.Store.Tag(ctx, ref, name)
}

// Remove forgets a name, or an image by its ID, and what is then of no use to
// anybody. The last name of an image that containers use is only taken by
// force; their files stay.
func (s *Service) Remove(ctx context.Context, ref string, force bool) error {
	img, err := s.Store.Resolve(ref)
	if err != nil {
		return err
	}
	if !force {
		if err := s.removable(ctx, img, ref); err != nil {
			return err
		}
	}
	gone, err := s.Store.RemoveImage(ctx, ref, image.RemoveOptions{Force: force})
	if err != nil {
		return err
	}
	s.Log.Info("image removed", zap.Strings("names", gone))
	_, err = s.Collect(ctx)
	return err
}

func (s *Service) removable(ctx context.Context, img image.Image, ref string) error {
	users, err := s.users(ctx)
	if err != nil {
		return err
	}
	containers := users[img.ID.String()]
	if len(containers) == 0 {
		return nil
	}
	names, err := s.names(img.ID)
	if err != nil {
		return err
	}
	if byName := !strings.HasPrefix(img.ID.Encoded(), strings.TrimPrefix(ref, "sha256:")); byName && len(names) > 1 {
		return nil // the image keeps another name
	}
	what := "container"
	if len(containers) > 1 {
		what = "containers"
	}
	return stack.WithHint(
		fmt.Errorf("remove image %s: it is used by %s %s: %w", ref, what, strings.Join(containers, ", "), errdefs.ErrConflict),
		"remove them first: sandbox rm "+strings.Join(containers, " ")+"; --force removes the name all the same, and they keep their files",
	)
}

// Import reads an archive into the store.
func (s *Service) Import(ctx context.Context, archive io.Reader, name string) ([]api.Image, error) {
	images, err := s.Store.Import(ctx, archive, image.ImportOptions{Name: name})
	out := make([]api.Image, len(images))
	for i, img := range images {
		out[i] = img.Summary()
	}
	return out, err
}

// ImportMissing reads an archive, and keeps of it what the store has not. It
// returns that; progress is told how much of the archive has been read.
func (s *Service) ImportMissing(ctx context.Context, archive io.Reader, progress func(bytes int64)) ([]api.Image, error) {
	images, err := s.Store.Import(ctx, archive, image.ImportOptions{Missing: true, Progress: progress})
	out := make([]api.Image, len(images))
	for i, img := range images {
		out[i] = img.Summary()
	}
	return out, err
}

// emitter hands frames out, one at a time, and to nobody if there is nobody.
type emitter struct {
	mu   sync.Mutex
	emit func(api.Frame)
}

func (e *emitter) frame(f api.Frame) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.emit != nil {
		e.emit(f)
	}
}

func (e *emitter) progress(p api.ImageProgress) { e.frame(api.Frame{Progress: &p}) }
func (e *emitter) build(ev api.BuildEvent)      { e.frame(api.Frame{Build: &ev}) }
func (e *emitter) warn(text string)             { e.frame(api.Frame{Warning: text}) }

// emitterKey is the context key of the emitter of the call that is under way:
// a base image that a build pulls shows among the build's own progress.
type emitterKey struct{}

func withEmitter(ctx context.Context, e *emitter) context.Context {
	return context.WithValue(ctx, emitterKey{}, e)
}

func emitterOf(ctx context.Context) *emitter {
	if e, ok := ctx.Value(emitterKey{}).(*emitter); ok {
		return e
	}
	return &emitter{}
}
