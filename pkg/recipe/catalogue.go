package recipe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Catalogue is all recipes of one folder, by name.
type Catalogue struct {
	Dir     string
	Recipes map[string]*Recipe
}

// LoadAll reads every recipe in the folders of dir and finds what each needs.
// Folders without a recipe.yaml are no recipes.
func LoadAll(dir string) (*Catalogue, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("load recipes: %w", err)
	}
	c := &Catalogue{Dir: dir, Recipes: map[string]*Recipe{}}
	var errs []error
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		r, err := Load(filepath.Join(dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if other := c.Recipes[r.Name]; other != nil {
			errs = append(errs, fmt.Errorf("recipes in %s and %s are both called %s: %w", other.Dir, r.Dir, r.Name, errdefs.ErrInvalidArgument))
			continue
		}
		c.Recipes[r.Name] = r
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, r := range c.Recipes {
		if r.Needs, err = c.needs(r); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Add reads the recipe in dir and puts it in the place of one of the same name.
func (c *Catalogue) Add(dir string) (*Recipe, error) {
	r, err := Load(dir)
	if err != nil {
		return nil, err
	}
	c.Recipes[r.Name] = r
	r.Needs, err = c.needs(r)
	return r, err
}

// needs lists the recipes whose images r is built with: those of its contexts,
// and those that its Dockerfile names where no context has that name. What every
// store has is there without being built, even if there is a recipe of it, too.
func (c *Catalogue) needs(r *Recipe) ([]string, error) {
	if r.UpstreamOnly {
		return nil, nil
	}
	var names []string
	for _, context := range r.Contexts {
		if context.Recipe != "" {
			names = append(names, context.Recipe)
		}
	}
	b, err := readBounded(r.Dockerfile())
	if err != nil {
		return nil, fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	for _, s := range scan(b, r.Args).sources {
		_, shadowed := r.Contexts[s.name]
		name := strings.TrimSuffix(s.name, ":latest")
		if !shadowed && c.Recipes[name] != nil && !slices.Contains(builtin, name) {
			names = append(names, name)
		}
	}
	return stringSet(names), nil
}

// Order lists the named recipes and all that they need, each after what it
// needs; without names, every recipe. A circle is an error that names it.
func (c *Catalogue) Order(names ...string) ([]*Recipe, error) {
	if len(names) == 0 {
		for name := range c.Recipes {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var order []*Recipe
	done := map[string]bool{}
	var visit func(name string, trail []string) error
	visit = func(name string, trail []string) error {
		if i := slices.Index(trail, name); i >= 0 {
			return fmt.Errorf("recipes need each other: %s → %s: %w", strings.Join(trail[i:], " → "), name, errdefs.ErrInvalidArgument)
		}
		if done[name] {
			return nil
		}
		r := c.Recipes[name]
		if r == nil {
			if len(trail) > 0 {
				return fmt.Errorf("recipe %s needs %s: no such recipe: %w", trail[len(trail)-1], name, errdefs.ErrNotFound)
			}
			return fmt.Errorf("no recipe %q: %w", name, errdefs.ErrNotFound)
		}
		for _, need := range r.Needs {
			if err := visit(need, append(trail, name)); err != nil {
				return err
			}
		}
		done[name] = true
		order = append(order, r)
		return nil
	}
	for _, name := range names {
		if err := visit(name, nil); err != nil {
			return nil, err
		}
	}
	return order, nil
}
