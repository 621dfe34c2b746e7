package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/pattern"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
	"github.com/sandboxlabs/sandbox/pkg/recipe/sbom"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

const (
	// maxDockerfile bounds a Dockerfile, in bytes.
	maxDockerfile = 1 << 20
	// sourceDockerfile is the source of images that no recipe describes, in the
	// words of api.Image.
	sourceDockerfile = "Dockerfile"
)

// Build builds recipes, or one folder.
func (s *Service) Build(ctx context.Context, opts api.ImageBuild, emit func(api.Frame)) (api.BuildReport, error) {
	begun := time.Now()
	e := &emitter{emit: emit}
	ctx = withEmitter(ctx, e)
	ctx = context.WithValue(ctx, baseKey{}, api.ImagePull{ConfigDir: opts.ConfigDir, Recipes: opts.Recipes})
	var trace *explain.Tracer
	if opts.Explain {
		trace = explain.New("builder", os.Getpid(), func(ev explain.Event) {
			wire := api.Explain(ev)
			e.frame(api.Frame{Explain: &wire})
		})
	}
	plain, err := s.isPlain(opts)
	if err != nil {
		return api.BuildReport{}, err
	}
	var results []api.BuildResult
	if plain {
		results, err = s.buildFolder(ctx, opts, e, trace)
	} else {
		results, err = s.buildRecipes(ctx, opts, e, trace)
	}
	report := api.BuildReport{Images: results, Took: time.Since(begun)}
	if cause := context.Cause(ctx); cause != nil {
		return report, cause
	}
	return report, err
}

// isPlain tells a folder that holds just a Dockerfile from recipes.
func (s *Service) isPlain(opts api.ImageBuild) (bool, error) {
	if opts.Dir == "" {
		if len(opts.Names) == 0 && !opts.All {
			return false, fmt.Errorf("build: neither recipes nor a folder: %w", errdefs.ErrInvalidArgument)
		}
		return false, nil
	}
	if !filepath.IsAbs(opts.Dir) {
		return false, fmt.Errorf("build: folder %q is not an absolute path: %w", opts.Dir, errdefs.ErrInvalidArgument)
	}
	info, err := os.Stat(opts.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("build %s: there is no such folder: %w", opts.Dir, errdefs.ErrNotFound)
	case err != nil:
		return false, fmt.Errorf("build: %w", err)
	case !info.IsDir():
		return false, fmt.Errorf("build %s: it is no folder: %w", opts.Dir, errdefs.ErrInvalidArgument)
	}
	if len(opts.Dockerfile) > 0 {
		return true, nil // in spite of a recipe
	}
	_, err = os.Stat(filepath.Join(opts.Dir, recipe.FileName))
	return errors.Is(err, fs.ErrNotExist), nil
}

// buildFolder builds one Dockerfile, as docker does.
func (s *Service) buildFolder(ctx context.Context, opts api.ImageBuild, e *emitter, trace *explain.Tracer) ([]api.BuildResult, error) {
	dockerfile, name := opts.Dockerfile, opts.DockerfileName
	if len(dockerfile) == 0 {
		var err error
		if name, dockerfile, err = readDockerfile(opts.Dir); err != nil {
			return nil, err
		}
	}
	tags := opts.Tags
	if len(tags) == 0 {
		tag, err := folderName(opts.Dir)
		if err != nil {
			return nil, err
		}
		tags = []string{tag}
	}
	begun := time.Now()
	img, err := s.Builder.Build(ctx, build.Options{
		Dockerfile: dockerfile, ContextDir: opts.Dir, IgnoreFile: name, Contexts: opts.Contexts, Args: opts.Args, Names: tags,
		Target: opts.Target, NoCache: opts.NoCache, Secrets: opts.Secrets, Source: sourceDockerfile, Trace: trace, Emit: e.build,
	})
	if err != nil {
		return nil, err
	}
	return []api.BuildResult{s.result(recipe.Result{Image: img, Took: time.Since(begun)})}, nil
}

// readDockerfile reads a folder's, which may be written in lower case.
func readDockerfile(dir string) (name string, content []byte, err error) {
	for _, base := range []string{"Dockerfile", "dockerfile"} {
		name = filepath.Join(dir, base)
		if content, err = readSmall(name); !errors.Is(err, fs.ErrNotExist) {
			return name, content, err
		}
	}
	return "", nil, stack.WithHint(
		fmt.Errorf("build: there is neither %s nor a Dockerfile in %s: %w", recipe.FileName, dir, errdefs.ErrNotFound),
		"name another file with -f; or make a recipe: sandbox image new NAME",
	)
}

func readSmall(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	if err == nil && len(b) > maxDockerfile {
		err = fmt.Errorf("%s has more than %d bytes: %w", file, maxDockerfile, errdefs.ErrInvalidArgument)
	}
	return b, err
}

var notInName = pattern.New(`[^a-z0-9._-]+`)

// folderName is the name of an image that got none.
func folderName(dir string) (string, error) {
	name := strings.Trim(notInName.ReplaceAllString(strings.ToLower(filepath.Base(dir)), "-"), "-._")
	if name == "" {
		return "", fmt.Errorf("build %s: no name for the image can be made of that: give one with --tag: %w", dir, errdefs.ErrInvalidArgument)
	}
	return name + ":latest", nil
}

// buildRecipes builds recipes with all that they need.
func (s *Service) buildRecipes(ctx context.Context, opts api.ImageBuild, e *emitter, trace *explain.Tracer) ([]api.BuildResult, error) {
	if opts.Target != "" || len(opts.Args) > 0 || len(opts.Contexts) > 0 || len(opts.Secrets) > 0 {
		return nil, stack.WithHint(
			fmt.Errorf("build: targets, arguments, contexts and secrets are for Dockerfiles, not for recipes: %w", errdefs.ErrInvalidArgument),
			"recipe.yaml has fields for them; -f DIR/Dockerfile builds a recipe's Dockerfile without the recipe",
		)
	}
	c, names, err := s.selection(ctx, opts)
	if err != nil {
		return nil, err
	}
	maker := &recipe.Maker{
		Catalogue: c, Dirs: s.Dirs, Build: s.Builder.FromRecipe, Describe: sbom.Describer(s.Store, s.Views), Engine: s.Engine, Env: s.Env, NoCache: opts.NoCache,
		Trace: trace,
	}
	if opts.NoSmoke {
		maker.Engine = nil
	}
	made, err := maker.Make(ctx, names, e.build)
	if made == nil {
		return nil, err // the order could not be made
	}
	results := make([]api.BuildResult, len(made))
	for i, res := range made {
		results[i] = s.result(res)
		if res.Err != nil || res.Recipe.UpstreamOnly || !slices.Contains(names, res.Recipe.Name) {
			continue
		}
		for _, tag := range opts.Tags {
			if err := s.Store.Tag(ctx, res.Image.Name, tag); err != nil {
				results[i].Error = s.WireError(err)
			}
		}
	}
	return results, nil
}

func (s *Service) result(res recipe.Result) api.BuildResult {
	out := api.BuildResult{Took: res.Took, Smoked: res.Smoked, Error: s.WireError(res.Err)}
	if res.Recipe != nil {
		out.Recipe = res.Recipe.Name
		if res.Recipe.UpstreamOnly {
			out.Note = "not built: " + res.Recipe.Upstream
		}
	}
	if res.Image.ID != "" {
		summary := res.Image.Summary()
		out.Image, out.Digest = &summary, res.Image.Descriptor.Digest.String()
	}
	return out
}

// selection is the recipes to choose from, and those to build.
func (s *Service) selection(ctx context.Context, opts api.ImageBuild) (*recipe.Catalogue, []string, error) {
	if opts.Dir == "" {
		c, err := s.catalogue(ctx, opts.Recipes)
		if err != nil || opts.All {
			return c, nil, err
		}
		if len(opts.Tags) > 0 && len(opts.Names) > 1 {
			return nil, nil, fmt.Errorf("build: one tag cannot name %d images: %w", len(opts.Names), errdefs.ErrInvalidArgument)
		}
		for _, name := range opts.Names {
			if c.Recipes[name] == nil {
				return nil, nil, unknownRecipe(c, name)
			}
		}
		return c, opts.Names, nil
	}
	// A recipe beside others may need those; one that is alone, what sandbox
	// comes with.
	folder := opts.Recipes
	if folder == "" {
		siblings, err := filepath.Glob(filepath.Join(filepath.Dir(opts.Dir), "*", recipe.FileName))
		if err != nil {
			return nil, nil, err
		}
		if len(siblings) > 1 {
			folder = filepath.Dir(opts.Dir)
		}
	}
	c, err := s.catalogue(ctx, folder)
	if err != nil {
		return nil, nil, err
	}
	r, err := c.Add(opts.Dir)
	if err != nil {
		return nil, nil, err
	}
	return c, []string{r.Name}, nil
}

// unknownRecipe lists what there is, if that is not much: who mistypes a name
// is shown the right one by the client.
func unknownRecipe(c *recipe.Catalogue, name string) error {
	return stack.WithHint(
		fmt.Errorf("no recipe %q: %w", name, errdefs.ErrNotFound),
		"recipes are "+strings.Join(slices.Sorted(maps.Keys(c.Recipes)), ", ")+"; a folder is written with a slash: ./"+name,
	)
}

// catalogue reads the recipes in a folder, or those that sandbox comes with.
func (s *Service) catalogue(ctx context.Context, folder string) (*recipe.Catalogue, error) {
	if folder == "" {
		var err error
		if folder, err = s.Bundled(ctx); err != nil {
			return nil, err
		}
	} else if !filepath.IsAbs(folder) {
		return nil, fmt.Errorf("recipes: %q is not an absolute path: %w", folder, errdefs.ErrInvalidArgument)
	}
	return recipe.LoadAll(folder)
}

// Recipes returns the recipes in a folder, or those that sandbox comes
// with, in the order of names.
func (s *Service) Recipes(ctx context.Context, folder string) ([]api.Recipe, error) {
	c, err := s.catalogue(ctx, folder)
	if err != nil {
		return nil, err
	}
	out := []api.Recipe{}
	for _, name := range slices.Sorted(maps.Keys(c.Recipes)) {
		r := c.Recipes[name]
		out = append(out, api.Recipe{Name: r.Name, Version: r.Version, Description: r.Description, Upstream: r.Upstream, UpstreamOnly: r.UpstreamOnly, Stage: r.Stage})
	}
	return out, nil
}
