package sbom

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/pattern"
)

// maxCopyright bounds such a file, in bytes: that of Boost has more than a mebibyte.
const maxCopyright = 4 << 20

// copyright is what a Debian package's copyright file says.
type copyright struct {
	licences []string          // names or expressions
	texts    map[string]string // of names
	whole    string            // the file, when it is for people only
}

// debianLicence reads the licence of a package of dpkg's.
func (s *scan) debianLicence(pkg string) func(*texts) string {
	file := "usr/share/doc/" + pkg + "/copyright"
	data, err := s.root.read(file, maxCopyright)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.unreadable(file, err)
		}
		return nil
	}
	c := parseCopyright(data)
	return func(t *texts) string {
		var all []string
		for _, l := range c.licences {
			all = append(all, t.withTexts(l, pkg, c.texts))
		}
		if c.whole != "" {
			all = append(all, t.file("debian-"+pkg, c.whole))
		}
		return conjunction(all)
	}
}

// commonLicence is a reference to a text that Debian has for all packages.
var commonLicence = pattern.New(`/usr/share/common-licenses/([A-Za-z]+(?:-[0-9][0-9.]*[0-9]|-[0-9])?)`)

// parseCopyright reads the machine-readable format (copyright-format 1.0), and of
// others the references to common licences.
func parseCopyright(data []byte) copyright {
	c := copyright{texts: map[string]string{}}
	names, alone := map[string]bool{}, map[string]bool{}
	readable, first := false, true
	stanzas(data, func(f map[string]string) {
		if first {
			// The format had many addresses before it was a standard.
			_, readable = f["format"]
			_, old := f["format-specification"]
			readable, first = readable || old, false
		}
		licence, ok := f["license"]
		if !readable || !ok {
			return
		}
		name, text, _ := strings.Cut(licence, "\n")
		if name = clean(name, 500); name == "" {
			return
		}
		_, files := f["files"]
		_, header := f["format"]
		if files || header {
			names[name] = true
		} else {
			alone[name] = true // the text of a licence that others name
		}
		if text = paragraphs(text); text != "" && len(c.texts) < 200 {
			c.texts[name] = text
		}
	})
	if len(names) == 0 {
		names = alone
	}
	if c.licences = slices.Sorted(maps.Keys(names)); len(c.licences) > 0 {
		return c
	}
	text := string(data)
	for _, m := range commonLicence.FindAllStringSubmatch(text, 100) {
		name := m[1]
		if strings.Contains(name, "GPL-") && strings.Contains(strings.Join(strings.Fields(text), " "), "any later version") {
			name += "+"
		}
		if name == "BSD" {
			name = "BSD-3-Clause" // that of the University of California
		}
		names[name] = true
	}
	// It may say more than that: somebody has to read it.
	c.licences, c.whole = slices.Sorted(maps.Keys(names)), text
	return c
}

// paragraphs undoes the format's way to keep empty lines: a single dot.
func paragraphs(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if line == "." {
			lines[i] = ""
		}
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}
