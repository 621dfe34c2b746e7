package sbom

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// inNodeModules reports whether dir is that of an installed package:
// node_modules/NAME or node_modules/@SCOPE/NAME.
func inNodeModules(dir string) bool {
	up := path.Dir(dir)
	if strings.HasPrefix(path.Base(up), "@") {
		up = path.Dir(up)
	}
	return path.Base(up) == "node_modules"
}

// npm reads a package.json.
func (s *scan) npm(name string, f *os.File, size int64) error {
	data, err := readAll(f, size)
	if err != nil {
		return err
	}
	var doc struct {
		Name, Version string
		License       json.RawMessage
		Licenses      json.RawMessage
		Homepage      json.RawMessage
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	p := Package{Type: "npm", Name: clean(doc.Name, 214), Version: clean(doc.Version, 128), Found: []string{name}}
	if p.Name == "" || p.Version == "" {
		return nil // a folder's own, not a package's
	}
	var page string
	if json.Unmarshal(doc.Homepage, &page) == nil {
		p.Homepage = homepage(page)
	}
	scope, base, ok := strings.Cut(strings.ToLower(p.Name), "/")
	if !ok {
		scope, base = "", scope
	}
	p.PURL = purl(p.Type, scope, base, p.Version)
	licences := append(npmLicences(doc.License), npmLicences(doc.Licenses)...)
	s.add(p, func(t *texts) string {
		var all []string
		for _, l := range licences {
			// "SEE LICENSE IN FILE" names no licence.
			if file, ok := strings.CutPrefix(l, "SEE LICENSE IN "); ok {
				all = append(all, t.one(p.Name, "See "+file+" in the package."))
			} else {
				all = append(all, t.expression(l, p.Name))
			}
		}
		return conjunction(all)
	})
	return nil
}

// npmLicences: an expression, or as it was before, {"type": …}, or a list of either.
func npmLicences(raw json.RawMessage) (all []string) {
	var one string
	var object struct{ Type string }
	var list []json.RawMessage
	switch {
	case len(raw) == 0:
	case json.Unmarshal(raw, &one) == nil:
		all = append(all, one)
	case json.Unmarshal(raw, &object) == nil:
		all = append(all, object.Type)
	case json.Unmarshal(raw, &list) == nil:
		for _, r := range list[:min(len(list), 20)] {
			if len(r) > 0 && r[0] != '[' {
				all = append(all, npmLicences(r)...)
			}
		}
	}
	return all
}
