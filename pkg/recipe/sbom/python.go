package sbom

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
)

// readAll reads an open file of at most maxMetadata bytes.
func readAll(f *os.File, size int64) ([]byte, error) {
	if size > maxMetadata {
		return nil, fmt.Errorf("it has more than %d bytes: %w", maxMetadata, errdefs.ErrInvalidArgument)
	}
	return io.ReadAll(io.LimitReader(f, maxMetadata))
}

// python reads the core metadata of a distribution
// (packaging.python.org/specifications/core-metadata): headers, as a mail has them.
func (s *scan) python(name string, f *os.File, size int64) error {
	data, err := readAll(f, size)
	if err != nil {
		return err
	}
	var classifiers []string
	fields := map[string]string{}
	last := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break // the description follows
		}
		if line[0] == ' ' || line[0] == '\t' {
			if last == "license" {
				fields[last] += "\n" + strings.TrimSpace(line)
			}
			continue
		}
		key, value, _ := strings.Cut(line, ":")
		last, value = strings.ToLower(key), strings.TrimSpace(value)
		if last == "classifier" {
			if c, ok := strings.CutPrefix(value, "License ::"); ok {
				parts := strings.Split(c, "::")
				classifiers = append(classifiers, strings.TrimSpace(parts[len(parts)-1]))
			}
		} else if _, ok := fields[last]; !ok {
			fields[last] = value
		}
	}
	p := Package{Type: "pypi", Name: clean(fields["name"], 128), Version: clean(fields["version"], 128), Found: []string{name}}
	if p.Name == "" {
		return fmt.Errorf("it has no name: %w", errdefs.ErrInvalidArgument)
	}
	p.Homepage = homepage(fields["home-page"])
	p.PURL = purl(p.Type, "", strings.ReplaceAll(strings.ToLower(p.Name), "_", "-"), p.Version)
	s.add(p, func(t *texts) string {
		switch licence := fields["license"]; {
		case fields["license-expression"] != "":
			return t.expression(fields["license-expression"], p.Name)
		case licence != "" && len(licence) <= maxName && !strings.Contains(licence, "\n") && (len(classifiers) == 0 || t.known(licence)):
			return t.expression(licence, p.Name)
		case len(classifiers) > 0:
			var all []string
			for _, c := range classifiers {
				if c != "OSI Approved" { // says nothing
					all = append(all, t.one(c, c))
				}
			}
			return conjunction(all)
		case licence != "" && !strings.EqualFold(licence, "unknown"):
			return t.one(p.Name, licence) // its whole text
		}
		return ""
	})
	return nil
}
