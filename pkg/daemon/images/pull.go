package images

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
)

// Pull brings an image into the store: from its registry, or with Resolve from
// wherever it is to be had. The name of a recipe stands for the image that the
// recipe stands in for.
func (s *Service) Pull(ctx context.Context, opts api.ImagePull, emit func(api.Frame)) (api.Pulled, error) {
	e := &emitter{emit: emit}
	ctx = withEmitter(ctx, e)
	if opts.Resolve {
		return s.resolve(ctx, opts)
	}
	before, _ := s.Store.Resolve(opts.Name)
	r, err := s.recipe(ctx, opts.Name, opts.Recipes)
	if err != nil {
		e.warn(fmt.Sprintf("recipes cannot be read: %v", err))
	}
	img, host, err := s.fetch(ctx, opts, r)
	if err != nil {
		return api.Pulled{}, err
	}
	return api.Pulled{Image: img.Summary(), From: "registry " + host, Fresh: before.Descriptor.Digest != img.Descriptor.Digest}, nil
}

// fetch pulls an image by its name, or the upstream of a recipe, which then
// gets the recipe's name.
func (s *Service) fetch(ctx context.Context, opts api.ImagePull, r *recipe.Recipe) (img image.Image, host string, err error) {
	e := emitterOf(ctx)
	name := opts.Name
	if r != nil && r.Upstream != "" {
		name = r.Upstream
	}
	host = hostOf(name)
	img, err = s.Store.Pull(ctx, name, image.PullOptions{
		Platform: opts.Platform, ConfigDir: opts.ConfigDir, Insecure: opts.Insecure, Progress: e.progress,
	})
	if err != nil || name == opts.Name {
		return img, host, err
	}
	if err := s.Store.Tag(ctx, img.Name, opts.Name); err != nil {
		return img, host, err
	}
	img, err = s.Store.Resolve(opts.Name)
	return img, host, err
}

// hostOf is the registry that an image's name leads to.
func hostOf(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.Domain(named)
}

// recipe finds the recipe whose name an image's is; nil for none.
func (s *Service) recipe(ctx context.Context, name, folder string) (*recipe.Recipe, error) {
	name = strings.TrimSuffix(name, ":latest")
	if strings.ContainsAny(name, "/:@") {
		return nil, nil
	}
	c, err := s.catalogue(ctx, folder)
	if err != nil {
		return nil, err
	}
	return c.Recipes[name], nil
}

// resolve looks for an image in the order that holds everywhere: local store,
// upstream registry, recipe.
func (s *Service) resolve(ctx context.Context, opts api.ImagePull) (api.Pulled, error) {
	e := emitterOf(ctx)
	img, err := s.Store.Resolve(opts.Name)
	if err == nil {
		return api.Pulled{Image: img.Summary(), From: "local store"}, nil
	}
	if !errdefs.IsNotFound(err) {
		return api.Pulled{}, err
	}
	missing := &NotFoundError{Name: opts.Name, Tried: []string{"local store"}}
	r, err := s.recipe(ctx, opts.Name, opts.Recipes)
	if err != nil {
		e.warn(fmt.Sprintf("recipes cannot be read: %v", err))
	}
	if opts.Offline {
		missing.offline(r)
	} else if r == nil || r.Upstream != "" {
		img, host, err := s.fetch(ctx, opts, r)
		switch {
		case err == nil:
			s.Log.Info("image resolved", zap.String("image", opts.Name), zap.String("registry", host))
			return api.Pulled{Image: img.Summary(), From: "registry " + host, Fresh: true}, nil
		case ctx.Err() != nil, errdefs.IsInvalidArgument(err), errdefs.IsDataLoss(err):
			return api.Pulled{}, err
		}
		missing.tried(host, err)
	}
	switch {
	case r == nil:
		missing.Tried = append(missing.Tried, "recipes: none of that name")
		return api.Pulled{}, missing
	case r.UpstreamOnly:
		missing.Tried = append(missing.Tried, "recipe "+r.Name+": upstream's image only")
		return api.Pulled{}, missing
	}
	if opts.Offline {
		why, err := s.network(ctx, r, opts.Recipes)
		if err != nil {
			return api.Pulled{}, err
		}
		if why != "" {
			missing.Tried = append(missing.Tried, why)
			return api.Pulled{}, missing
		}
	}
	e.frame(api.Frame{Build: &api.BuildEvent{Recipe: r.Name, Instruction: "building from its recipe", Status: api.BuildRunning}})
	report, err := s.Build(ctx, api.ImageBuild{Names: []string{r.Name}, Recipes: opts.Recipes}, e.frame)
	if err == nil {
		err = failure(report)
	}
	if err != nil {
		if ctx.Err() != nil {
			return api.Pulled{}, err
		}
		return api.Pulled{}, &notBuiltError{missing, err}
	}
	if img, err = s.Store.Resolve(opts.Name); err != nil {
		return api.Pulled{}, err
	}
	return api.Pulled{Image: img.Summary(), From: "recipe " + r.Name, Fresh: true}, nil
}

// network says why a recipe cannot be built without the network.
func (s *Service) network(ctx context.Context, r *recipe.Recipe, folder string) (string, error) {
	c, err := s.catalogue(ctx, folder)
	if err != nil {
		return "", err
	}
	return c.Network(r.Name, func(name string) bool {
		_, err := s.Store.Resolve(name)
		return err == nil
	})
}

// failure is the first error of a report.
func failure(report api.BuildReport) error {
	for _, res := range report.Images {
		if res.Error != nil {
			return &buildFailed{wire: res.Error}
		}
	}
	return nil
}

// buildFailed is an error of a report again.
type buildFailed struct{ wire *api.Error }

func (e *buildFailed) Error() string { return e.wire.Message }
func (e *buildFailed) Unwrap() error { return errdefs.ErrFailedPrecondition }
func (e *buildFailed) Hint() string  { return e.wire.Hint }

// notBuiltError is that of an image that neither a registry nor its recipe
// gives.
type notBuiltError struct {
	missing *NotFoundError
	err     error
}

func (e *notBuiltError) Error() string {
	return fmt.Sprintf("%v, and its recipe cannot be built: %v", e.missing, e.err)
}

func (e *notBuiltError) Unwrap() error { return e.err }

func (e *notBuiltError) Hint() string {
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](e.err); ok && h.Hint() != "" {
		return h.Hint()
	}
	return "a recipe needs the internet, or mirrors of packages: is a proxy to be set? Without, bring the image in: " +
		"`sandbox image import FILE` reads an archive, `sandbox image import --from docker NAME` takes what Docker has"
}

// Base is build.Builder's Pull: it brings in the image of a FROM.
func (s *Service) Base(ctx context.Context, ref string) (image.Image, error) {
	opts, _ := ctx.Value(baseKey{}).(api.ImagePull)
	opts.Name = ref
	if _, err := s.resolve(ctx, opts); err != nil {
		return image.Image{}, err
	}
	return s.Store.Resolve(ref)
}

// baseKey is the context key of the options that base images are pulled with.
type baseKey struct{}

// NotFoundError says where an image was looked for, and what can be done.
type NotFoundError struct {
	Name  string
	Tried []string
	hint  string
}

func (e *NotFoundError) tried(host string, err error) {
	reason := "registry " + host + ": " + err.Error()
	if refused, ok := errors.AsType[*image.RegistryError](err); ok {
		reason = refused.Error()
		if !errdefs.IsNotFound(refused) && !errdefs.IsUnavailable(refused) {
			e.hint = refused.Hint() // a login helps, or time
		}
	}
	e.Tried = append(e.Tried, reason)
}

// offline says what is not tried, and what the user can do instead.
func (e *NotFoundError) offline(r *recipe.Recipe) {
	e.Tried = append(e.Tried, "offline: no registry")
	var online []string
	if r == nil {
		online = append(online, "registry "+hostOf(e.Name))
	} else if r.Upstream != "" {
		online = append(online, "registry "+hostOf(r.Upstream))
	}
	if r != nil && !r.UpstreamOnly {
		online = append(online, "its recipe")
	}
	e.hint = fmt.Sprintf("where %[1]s is: sandbox image export %[1]s -o FILE; and here: sudo sandbox up --offline --archive FILE. Without --offline it comes from %[2]s",
		e.Name, strings.Join(online, ", or "))
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("image %q not found (tried: %s)", e.Name, strings.Join(e.Tried, "; "))
}

// Unwrap does not lead to what the registry said: the image is not found, for
// whatever reason.
func (e *NotFoundError) Unwrap() error { return errdefs.ErrNotFound }

// Hint is what the user can do.
func (e *NotFoundError) Hint() string {
	if e.hint != "" {
		return e.hint
	}
	return "`sandbox image ls` lists what is here, with --recipes what can be built; " +
		"`sandbox image import FILE` brings in an archive, `sandbox image import --from docker NAME` what an engine on this machine has"
}
