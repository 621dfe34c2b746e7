package recipe

import (
	"fmt"
	"slices"
	"strings"
)

// Network says why the build of a recipe, or of one that it needs, may need the
// network; "" if none does. has tells whether an image that no recipe makes is
// there. What a RUN does cannot be known before: it may.
func (c *Catalogue) Network(name string, has func(image string) bool) (why string, err error) {
	order, err := c.Order(name)
	if err != nil {
		return "", err
	}
	for _, r := range order {
		if why, err := c.network(r, has); err != nil || why != "" {
			return why, err
		}
	}
	return "", nil
}

func (c *Catalogue) network(r *Recipe, has func(image string) bool) (why string, err error) {
	for _, name := range sortedKeys(r.Contexts) {
		if d := r.Contexts[name].Debian; d != nil {
			return fmt.Sprintf("recipe %s takes packages of Debian %s", r.Name, d.Suite), nil
		}
	}
	b, err := readBounded(r.Dockerfile())
	if err != nil {
		return "", fmt.Errorf("recipe %s: %w", r.Name, err)
	}
	u := scan(b, r.Args)
	if u.network != 0 {
		return fmt.Sprintf("recipe %s runs or fetches something (line %d of its Dockerfile)", r.Name, u.network), nil
	}
	for _, s := range u.sources {
		_, context := r.Contexts[s.name]
		if name := strings.TrimSuffix(s.name, ":latest"); context || slices.Contains(r.Needs, name) || has(s.name) {
			continue
		}
		return fmt.Sprintf("recipe %s is built from %s, which is not here", r.Name, s.name), nil
	}
	return "", nil
}
