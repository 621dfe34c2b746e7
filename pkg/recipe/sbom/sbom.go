// Package sbom lists the packages in a root file system, with their licences, as
// an SPDX document: what dpkg and apk have installed, the modules in Go programs,
// Python distributions, Java archives and npm packages.
//
// The root file system is hostile. Files are opened by openat2(2) below its root,
// never larger than a bound, and what is malformed is named in the document instead
// of the packages that it would have told of.
package sbom

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// About is what the files do not tell of themselves.
type About struct {
	Name    string
	Version string
	Digest  digest.Digest // of the image; may be empty
	Licence string        // an SPDX expression for the image as a whole; may be empty
	Created time.Time     // of the document; for a reproducible one, of the image
	Tool    string        // who made the document, as NAME-VERSION
}

// Package is one that was found.
type Package struct {
	Type    string // of a package URL: deb, apk, golang, pypi, maven, npm
	Name    string
	Version string
	PURL    string // https://github.com/package-url/purl-spec
	// Licence is an SPDX expression; empty when the package does not say.
	Licence  string
	Supplier string
	Homepage string
	Found    []string // files that tell of it, sorted
	// DependsOn are the PURLs of what is linked into a Go program.
	DependsOn []string
}

// Document is what an image is made of.
type Document struct {
	About    About
	Packages []Package // by PURL
	// Texts are those of licences that are not on SPDX's list, by their LicenseRef.
	Texts map[string]string
	// Skipped are files that could not be read, and why.
	Skipped []string
}

// Bounds of one scan. The largest images in use stay an order of magnitude below.
const (
	maxFiles    = 4 << 20
	maxPackages = 200_000
	maxSkipped  = 100
	maxFound    = 20       // files that one package names
	maxDatabase = 64 << 20 // bytes of dpkg's or apk's list
	maxMetadata = 1 << 20  // bytes of what describes one package
)

// Scan reads the root file system below the folder root.
func Scan(ctx context.Context, root string, about About) (Document, error) {
	r, err := openRoot(root)
	if err != nil {
		return Document{}, fmt.Errorf("list packages of %s: %w", root, err)
	}
	defer r.Close()
	s := &scan{root: r, byPURL: map[string]*Package{}, texts: texts{}}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	group.Go(func() error {
		s.system()
		return nil
	})
	werr := s.walk(ctx, group)
	if err := group.Wait(); err != nil {
		werr = err
	}
	if werr != nil {
		return Document{}, fmt.Errorf("list packages of %s: %w", root, werr)
	}
	return s.document(about), nil
}

// scan collects what is found.
type scan struct {
	root root

	mu      sync.Mutex
	byPURL  map[string]*Package
	raw     []licensed
	texts   texts
	skipped []string
}

// licensed is a licence as a package has it, to be made an SPDX expression
// when all are known: references to texts are numbered in the order of packages.
type licensed struct {
	purl    string
	licence func(*texts) string
}

// add notes a package; licence may be nil.
func (s *scan) add(p Package, licence func(*texts) string) {
	if p.Name == "" {
		return
	}
	p.PURL = cmp.Or(p.PURL, purl(p.Type, "", p.Name, p.Version))
	s.mu.Lock()
	defer s.mu.Unlock()
	had, ok := s.byPURL[p.PURL]
	if !ok {
		if len(s.byPURL) >= maxPackages {
			s.skip("", fmt.Errorf("there are more than %d packages", maxPackages))
			return
		}
		s.byPURL[p.PURL] = &p
	} else {
		had.Found = append(had.Found, p.Found...)
		had.DependsOn = append(had.DependsOn, p.DependsOn...)
	}
	if licence != nil {
		s.raw = append(s.raw, licensed{p.PURL, licence})
	}
}

// unreadable notes a file that should have told of packages.
func (s *scan) unreadable(file string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skip(file, err)
}

func (s *scan) skip(file string, err error) {
	line := clean(err.Error(), 200)
	if file != "" {
		line = clean(file, 200) + ": " + line
	}
	if len(s.skipped) < maxSkipped && !slices.Contains(s.skipped, line) {
		s.skipped = append(s.skipped, line)
	}
}

// document sorts what was found.
func (s *scan) document(about About) Document {
	d := Document{About: about, Texts: map[string]string{}, Skipped: s.skipped}
	slices.Sort(d.Skipped)
	licences := map[string][]func(*texts) string{}
	for _, l := range s.raw {
		licences[l.purl] = append(licences[l.purl], l.licence)
	}
	for _, p := range s.byPURL {
		slices.Sort(p.Found)
		p.Found = slices.Compact(p.Found)
		p.Found = p.Found[:min(len(p.Found), maxFound)]
		slices.Sort(p.DependsOn)
		p.DependsOn = slices.Compact(p.DependsOn)
		d.Packages = append(d.Packages, *p)
	}
	slices.SortFunc(d.Packages, func(a, b Package) int { return cmp.Compare(a.PURL, b.PURL) })
	for i := range d.Packages {
		p := &d.Packages[i]
		var all []string
		for _, licence := range licences[p.PURL] {
			if l := licence(&s.texts); l != "" {
				all = append(all, l)
			}
		}
		p.Licence = conjunction(all)
	}
	for ref, text := range s.texts {
		d.Texts[ref] = text
	}
	return d
}

// Licence is what one package is under.
type Licence struct {
	Package, Version string
	Licence          string // an SPDX expression, or NOASSERTION
}

// Licences are those of all packages, by name.
func (d Document) Licences() []Licence {
	var all []Licence
	for _, p := range d.Packages {
		all = append(all, Licence{p.Name, p.Version, cmp.Or(p.Licence, noAssertion)})
	}
	slices.SortFunc(all, func(a, b Licence) int {
		return cmp.Or(cmp.Compare(a.Package, b.Package), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Licence, b.Licence))
	})
	return slices.Compact(all)
}

// clean makes a string of a hostile file fit for a document: printable, on one
// line, and of at most n bytes.
func clean(s string, n int) string {
	s = strings.ToValidUTF8(s, "�")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}
