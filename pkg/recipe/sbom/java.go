package sbom

import (
	"archive/zip"
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/pattern"
)

// maxDirectory bounds what is read of an archive to learn what is in it, in bytes.
const maxDirectory = 16 << 20

// maxNested is how many archives within one are looked at.
const maxNested = 2000

// java reads an archive: Maven leaves pom.properties for each artifact in it;
// else its manifest tells.
func (s *scan) java(name string, f *os.File, size int64) error {
	return s.jar(name, f, size, true)
}

func (s *scan) jar(name string, f io.ReaderAt, size int64, nested bool) error {
	budget := &budgetReader{r: f, left: maxDirectory}
	archive, err := zip.NewReader(budget, size)
	if err != nil {
		return fmt.Errorf("read archive: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	found, inner := false, 0
	var manifest *zip.File
	poms := map[string]*zip.File{} // by their folder
	for _, e := range archive.File {
		if dir, base := path.Split(e.Name); base == "pom.xml" {
			poms[dir] = e
		}
	}
	for _, e := range archive.File {
		switch {
		case e.Name == "META-INF/MANIFEST.MF":
			manifest = e
		case strings.HasPrefix(e.Name, "META-INF/maven/") && path.Base(e.Name) == "pom.properties":
			props, err := readEntry(budget, e)
			if err != nil {
				return err
			}
			if p, ok := mavenPackage(properties(props), name); ok {
				found = true
				s.add(p, pomLicences(budget, poms[path.Dir(e.Name)+"/"], p.Name))
			}
		case nested && e.Method == zip.Store && path.Ext(e.Name) == ".jar":
			if inner++; inner > maxNested {
				continue
			}
			at, err := e.DataOffset()
			if err != nil {
				return fmt.Errorf("%s: %w", clean(e.Name, 200), err)
			}
			in := io.NewSectionReader(f, at, int64(min(e.UncompressedSize64, uint64(size))))
			if err := s.jar(name+"!"+clean(e.Name, 200), in, in.Size(), false); err != nil {
				s.unreadable(name+"!"+clean(e.Name, 200), err)
			}
		}
		budget.left = maxDirectory // for each
	}
	if found || manifest == nil {
		return nil
	}
	data, err := readEntry(budget, manifest)
	if err != nil {
		return err
	}
	s.manifest(name, data)
	return nil
}

// budgetReader fails when more than left bytes are read: an archive's directory
// can go on to the end of the file, whatever its size says.
type budgetReader struct {
	r    io.ReaderAt
	left int
}

func (b *budgetReader) ReadAt(p []byte, off int64) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("its directory is too large: %w", errdefs.ErrInvalidArgument)
	}
	return b.r.ReadAt(p, off)
}

func readEntry(b *budgetReader, e *zip.File) ([]byte, error) {
	b.left = maxDirectory
	r, err := e.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", clean(e.Name, 200), err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxMetadata))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", clean(e.Name, 200), err)
	}
	return data, nil
}

// properties reads what java.util.Properties writes, without its escapes.
func properties(data []byte) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(key, "#") {
			all[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	return all
}

// pomLicences reads the licences of a project object model; what it inherits from
// another is not in the archive.
func pomLicences(budget *budgetReader, e *zip.File, name string) func(*texts) string {
	if e == nil {
		return nil
	}
	data, err := readEntry(budget, e)
	if err != nil {
		return nil
	}
	var pom struct {
		Licences []struct {
			Name string `xml:"name"`
			URL  string `xml:"url"`
		} `xml:"licenses>license"`
	}
	if xml.Unmarshal(data, &pom) != nil {
		return nil
	}
	return func(t *texts) string {
		var any []string
		for _, l := range pom.Licences[:min(len(pom.Licences), 20)] {
			switch licence := clean(l.Name, maxName); {
			case t.known(l.URL):
				any = append(any, t.one(l.URL, ""))
			case licence != "":
				any = append(any, t.one(licence, licence+"\n"+clean(l.URL, 500)))
			}
		}
		// Maven: the user may choose any of them.
		return disjunction(any)
	}
}

func mavenPackage(props map[string]string, found string) (Package, bool) {
	group, artifact, version := clean(props["groupId"], 200), clean(props["artifactId"], 200), clean(props["version"], 128)
	if group == "" || artifact == "" {
		return Package{}, false
	}
	return Package{
		Type: "maven", Name: group + ":" + artifact, Version: version,
		PURL: purl("maven", group, artifact, version), Found: []string{found},
	}, true
}

// versioned is a file name as builds make them: NAME-1.2.3.jar.
var versioned = pattern.New(`^(.+?)-(\d[\w.+-]*)\.[jwe]ar$`)

// manifest reads the main section of a JAR manifest (the JAR file specification).
func (s *scan) manifest(name string, data []byte) {
	main, _, _ := bytes.Cut(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), []byte("\n\n"))
	// Lines of more than 72 bytes go on in the next, after a blank.
	text := strings.ReplaceAll(string(main), "\n ", "")
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if ok {
			fields[key] = strings.TrimSpace(value)
		}
	}
	artifact, version := "", firstOf(fields["Implementation-Version"], fields["Bundle-Version"])
	if m := versioned.FindStringSubmatch(path.Base(name)); m != nil {
		artifact, version = m[1], firstOf(version, m[2])
	}
	bundle, _, _ := strings.Cut(fields["Bundle-SymbolicName"], ";")
	artifact = firstOf(artifact, strings.TrimSuffix(path.Base(name), path.Ext(name)))
	group := firstOf(fields["Implementation-Vendor-Id"], firstOf(bundle, artifact))
	if version == "" {
		return // nobody could look it up
	}
	if p, ok := mavenPackage(map[string]string{"groupId": group, "artifactId": artifact, "version": version}, name); ok {
		licence := fields["Bundle-License"]
		s.add(p, func(t *texts) string {
			if licence == "" {
				return ""
			}
			return t.expression(clean(licence, maxName), p.Name)
		})
	}
}
