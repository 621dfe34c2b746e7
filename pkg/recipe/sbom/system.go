package sbom

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// system reads the lists of the distribution's package manager.
func (s *scan) system() {
	distro := s.osRelease()
	s.database("var/lib/dpkg/status", func(data []byte) { s.dpkg("var/lib/dpkg/status", data, distro) })
	// Images without a package manager have one file for each package.
	for _, name := range s.files("var/lib/dpkg/status.d") {
		if !strings.HasSuffix(name, ".md5sums") {
			s.database(name, func(data []byte) { s.dpkg(name, data, distro) })
		}
	}
	for _, name := range []string{"lib/apk/db/installed", "usr/lib/apk/db/installed"} {
		s.database(name, func(data []byte) { s.apk(name, data, distro) })
	}
}

// database reads a file that need not be there.
func (s *scan) database(name string, read func([]byte)) {
	data, err := s.root.read(name, maxDatabase)
	switch {
	case err == nil:
		read(data)
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR):
		s.unreadable(name, err)
	}
}

// files lists a directory, sorted.
func (s *scan) files(dir string) (names []string) {
	fd, err := s.root.openat2(dir, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	list, err := f.Readdirnames(maxPackages)
	if err != nil {
		return nil
	}
	slices.Sort(list)
	for _, name := range list {
		names = append(names, path.Join(dir, name))
	}
	return names
}

// distribution is what os-release(5) says.
type distribution struct{ id, version string }

func (s *scan) osRelease() (d distribution) {
	data, err := s.root.read("etc/os-release", maxMetadata)
	if err != nil {
		data, err = s.root.read("usr/lib/os-release", maxMetadata)
	}
	if err != nil {
		return d
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = clean(strings.Trim(value, `"'`), 64)
		switch key {
		case "ID":
			d.id = value
		case "VERSION_ID":
			d.version = value
		}
	}
	return d
}

// qualifiers of a package URL for a package of the distribution.
func (d distribution) qualifiers(arch string) string {
	q := ""
	if arch != "" {
		q += "&arch=" + escape(arch)
	}
	if d.id != "" {
		q += "&distro=" + escape(strings.TrimSuffix(d.id+"-"+d.version, "-"))
	}
	return strings.Replace(q, "&", "?", 1)
}

// stanzas reads paragraphs of "Field: value" lines, as deb822(5) has them: a line
// that starts with a blank goes on with the field before. Field names are in
// lower case.
func stanzas(data []byte, yield func(map[string]string)) {
	fields, last := map[string]string{}, ""
	flush := func() {
		if len(fields) > 0 {
			yield(maps.Clone(fields))
			clear(fields)
		}
		last = ""
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, len(data)+1)
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), "\r")
		switch {
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				fields[last] += "\n" + strings.TrimSpace(line)
			}
		case line[0] == '#':
		default:
			name, value, ok := strings.Cut(line, ":")
			if last = ""; ok {
				last = strings.ToLower(strings.TrimSpace(name))
				fields[last] = strings.TrimSpace(value)
			}
		}
	}
	flush()
}

// dpkg reads what is installed; see dpkg(1), "status".
func (s *scan) dpkg(file string, data []byte, distro distribution) {
	stanzas(data, func(f map[string]string) {
		// "install ok installed"; distroless leaves it out.
		if status, ok := f["status"]; ok && !strings.HasSuffix(status, " installed") {
			return
		}
		name, version, arch := clean(f["package"], 128), clean(f["version"], 128), clean(f["architecture"], 32)
		if name == "" || strings.Contains(name, "/") {
			return
		}
		s.add(Package{
			Type: "deb", Name: name, Version: version,
			PURL:     purl("deb", firstOf(distro.id, "debian"), name, version) + distro.qualifiers(arch),
			Supplier: clean(f["maintainer"], 200), Homepage: homepage(f["homepage"]),
			Found: []string{file},
		}, s.debianLicence(name))
	})
}

// apk reads what is installed: lines of a letter, a colon and a value, in
// paragraphs (wiki.alpinelinux.org, "Apk spec").
func (s *scan) apk(file string, data []byte, distro distribution) {
	flush := func(f map[byte]string) {
		name, version := clean(f['P'], 128), clean(f['V'], 128)
		if name == "" {
			return
		}
		licence := clean(f['L'], 500)
		s.add(Package{
			Type: "apk", Name: name, Version: version,
			PURL:     purl("apk", firstOf(distro.id, "alpine"), name, version) + distro.qualifiers(clean(f['A'], 32)),
			Supplier: clean(f['m'], 200), Homepage: homepage(f['U']),
			Found: []string{file},
		}, func(t *texts) string { return t.expression(licence, name) })
	}
	fields := map[byte]string{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			flush(fields)
			clear(fields)
		} else if len(line) > 2 && line[1] == ':' && fields[line[0]] == "" {
			fields[line[0]] = line[2:]
		}
	}
	flush(fields)
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// homepage keeps what is a URL.
func homepage(s string) string {
	s = clean(s, 500)
	if strings.ContainsAny(s, " <>\"") || !strings.HasPrefix(s, "https://") && !strings.HasPrefix(s, "http://") {
		return ""
	}
	return s
}
