package sbom

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestExpression(t *testing.T) {
	for _, c := range []struct {
		raw, want string
		refs      []string
	}{
		{"", "", nil},
		{"UNKNOWN", "", nil},
		{"MIT", "MIT", nil},
		{"mit", "MIT", nil},
		{"MIT License", "MIT", nil},
		{"Expat", "MIT", nil},
		{"GPL-2+", "GPL-2.0-or-later", nil},
		{"GPL-2", "GPL-2.0-only", nil},
		{"GPL-2.0+", "GPL-2.0-or-later", nil},
		{"GPLv3", "GPL-3.0-only", nil},
		{"gpl v3 or later", "GPL-3.0-or-later", nil},
		{"LGPL-2.1", "LGPL-2.1-only", nil},
		{"LGPL-2.1-or-later", "LGPL-2.1-or-later", nil},
		{"AGPL-3+", "AGPL-3.0-or-later", nil},
		{"GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later", nil},
		{"GPL-9", "LicenseRef-GPL-9", []string{"LicenseRef-GPL-9"}},
		{"MIT OR Apache-2.0", "Apache-2.0 OR MIT", nil},
		{"Apache-2.0 AND (MIT OR BSD-3-clause)", "(BSD-3-Clause OR MIT) AND Apache-2.0", nil},
		{"MIT AND MIT", "MIT", nil},
		{"(MIT)", "MIT", nil},
		{"GPL-2+ or Artistic, and BSD-2-clause", "(Artistic-1.0-Perl OR GPL-2.0-or-later) AND BSD-2-Clause", nil},
		{"MIT, GPL-1+", "GPL-1.0-or-later AND MIT", nil},
		{"MIT and ISC or Zlib", "ISC AND MIT OR Zlib", nil},
		{"GPL-2+ with Autoconf exception", "GPL-2.0-or-later WITH Autoconf-exception-generic", nil},
		{"GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0", nil},
		{"GPL-2+ with Foo exception", "LicenseRef-GPL-2-with-Foo-exception", []string{"LicenseRef-GPL-2-with-Foo-exception"}},
		{"Apache License, Version 2.0", "Apache-2.0", nil},
		{"BSD (3-clause)", "BSD-3-Clause", nil},
		{"https://www.apache.org/licenses/LICENSE-2.0.txt", "Apache-2.0", nil},
		{"my own", "LicenseRef-my-own", []string{"LicenseRef-my-own"}},
		{"LicenseRef-mine", "LicenseRef-mine", []string{"LicenseRef-mine"}},
		{"MIT OR", "LicenseRef-pkg", []string{"LicenseRef-pkg"}},
		{"OR", "LicenseRef-pkg", []string{"LicenseRef-pkg"}},
		{"(MIT", "LicenseRef-pkg", []string{"LicenseRef-pkg"}},
		{"MIT)", "LicenseRef-pkg", []string{"LicenseRef-pkg"}},
		{"a text\nof two lines", "LicenseRef-pkg", []string{"LicenseRef-pkg"}},
		{strings.Repeat("(", 200) + "MIT" + strings.Repeat(")", 200), "LicenseRef-pkg", []string{"LicenseRef-pkg"}},
		{"\xff\x00///", "LicenseRef-unnamed", []string{"LicenseRef-unnamed"}},
	} {
		texts := texts{}
		if got := texts.expression(c.raw, "pkg"); got != c.want {
			t.Errorf("%q is %q, want %q", c.raw, got, c.want)
		}
		if refs := slices.Sorted(maps.Keys(texts)); !slices.Equal(refs, c.refs) {
			t.Errorf("%q needs texts of %q, want %q", c.raw, refs, c.refs)
		}
	}
}

func TestByLicence(t *testing.T) {
	d := Document{Packages: []Package{
		{Name: "a", Version: "1", Licence: "MIT AND (GPL-2.0-only OR ISC)"}, {Name: "b", Version: "2", Licence: "MIT"},
		{Name: "c", Licence: "ISC"}, {Name: "d", Version: "1"}, {Name: "e", Licence: "broken ((AND"},
	}}
	var got []string
	for _, l := range d.ByLicence() {
		got = append(got, l.Licence+": "+strings.Join(l.Packages, ", "))
	}
	want := []string{"MIT: a 1, b 2", "GPL-2.0-only OR ISC: a 1", "ISC: c", "NOASSERTION: d 1", "broken ((AND: e"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTextsOfOneName(t *testing.T) {
	texts := texts{}
	a, b, again := texts.one("BSD-like", "one text"), texts.one("BSD-like", "another"), texts.one("BSD-like", "one text")
	if a != "LicenseRef-BSD-like" || again != a || b == a || texts[a] != "one text" || texts[b] != "another" {
		t.Errorf("%s, %s, %s: %q", a, b, again, texts)
	}
	if one, two := texts.file("debian-x", "whole"), texts.file("debian-y", " whole\n"); one != two || one != "LicenseRef-debian-x" {
		t.Errorf("the same file is %s and %s", one, two)
	}
}

// TestListed: every other name leads to an identifier, and identifiers to themselves.
func TestListed(t *testing.T) {
	for name, id := range aliases {
		if _, ok := listed[strings.ToLower(id)]; id != "" && !ok {
			t.Errorf("alias %q leads to %q, which is not listed", name, id)
		}
		if name != strings.ToLower(name) {
			t.Errorf("alias %q is not in lower case", name)
		}
	}
	for name, id := range exceptionAliases {
		if _, ok := listedExceptions[strings.ToLower(id)]; !ok {
			t.Errorf("alias %q leads to %q, which is not listed", name, id)
		}
	}
	for _, id := range listed {
		if got, ok := listedID(id); !ok || got != id {
			t.Errorf("%s becomes %s", id, got)
		}
	}
}

func TestCopyright(t *testing.T) {
	for _, c := range []struct {
		name, file string
		licences   []string
		whole      bool
	}{
		{"machine-readable", fooCopyright, []string{"Expat", "GPL-2+ or Artistic", "foo-own"}, false},
		{"with an old address", "Format-Specification: http://svn.debian.org/x\n\nFiles: *\nLicense: MIT\n", []string{"MIT"}, false},
		{"references", "see /usr/share/common-licenses/GPL-3 and\n/usr/share/common-licenses/Apache-2.0.\n", []string{"Apache-2.0", "GPL-3"}, true},
		{"or later", "or (at your option) any\nlater version. /usr/share/common-licenses/LGPL-2.1", []string{"LGPL-2.1+"}, true},
		{"nothing known", "Do what you want.\n\nLicense: mine\n", nil, true},
		{"empty", "", nil, false},
		{"windows", "Format: x\r\n\r\nFiles: *\r\nLicense: MIT\r\n", []string{"MIT"}, false},
	} {
		got := parseCopyright([]byte(c.file))
		if !slices.Equal(got.licences, c.licences) || (got.whole != "") != c.whole {
			t.Errorf("%s: %q, whole %q", c.name, got.licences, got.whole)
		}
	}
}

func TestPURL(t *testing.T) {
	for _, c := range [][5]string{
		{"golang", "github.com/x", "y", "v1.0.0+incompatible", "pkg:golang/github.com/x/y@v1.0.0%2Bincompatible"},
		{"npm", "@scope", "a", "1", "pkg:npm/%40scope/a@1"},
		{"deb", "debian", "g++", "1:2~3", "pkg:deb/debian/g%2B%2B@1:2~3"},
		{"pypi", "", "a b/c?#", "", "pkg:pypi/a%20b%2Fc%3F%23"},
	} {
		if got := purl(c[0], c[1], c[2], c[3]); got != c[4] {
			t.Errorf("%s, want %s", got, c[4])
		}
	}
	if p := module("example.com/A", "(devel)", "x"); p.PURL != "pkg:golang/example.com/a" || p.Name != "example.com/A" {
		t.Errorf("%+v", p)
	}
	if p := module("single", "", "x"); p.PURL != "pkg:golang/single" {
		t.Errorf("%+v", p)
	}
}
