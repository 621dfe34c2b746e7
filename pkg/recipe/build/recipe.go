package build

import (
	"context"
	"fmt"
	"maps"
	"os"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
)

// FromRecipe builds a recipe's image: it is recipe.Maker's Build.
func (b *Builder) FromRecipe(ctx context.Context, r recipe.Build, emit func(api.BuildEvent)) (image.Image, error) {
	dockerfile, err := os.ReadFile(r.Recipe.Dockerfile())
	if err != nil {
		return image.Image{}, fmt.Errorf("build image %s: %w", r.Name, err)
	}
	o := recipeOptions(r)
	o.Dockerfile, o.Emit, o.Trace = dockerfile, emit, r.Trace
	return b.Build(ctx, o)
}

func recipeOptions(b recipe.Build) Options {
	r := b.Recipe
	o := Options{
		ContextDir: r.Dir, Contexts: maps.Clone(b.Contexts), Args: r.Args, NoCache: b.NoCache,
		Names: []string{b.Name}, Epoch: r.Created, Source: image.SourceRecipe,
		Annotations: map[string]string{
			ispec.AnnotationTitle:       r.Name,
			ispec.AnnotationVersion:     r.Version,
			ispec.AnnotationLicenses:    r.Licence,
			ispec.AnnotationDescription: r.Description,
			ispec.AnnotationCreated:     r.Created.UTC().Format(time.RFC3339),
		},
	}
	if name := r.Name + ":" + r.Version; r.Version != "" && name != b.Name {
		o.Names = append(o.Names, name)
	}
	for name, c := range r.Contexts {
		// A root file system has owners of its own; other folders have whose they
		// happen to be.
		if dir, ok := o.Contexts[name]; ok && c.Debian != nil {
			o.Contexts[name] = "rootfs:" + dir
		}
	}
	return o
}
