package sbom

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// checkDocument: whatever was read, the document is one that others can read.
func checkDocument(t *testing.T, s *scan) {
	t.Helper()
	d := s.document(About{})
	data := d.SPDX()
	parsed, err := Parse(data)
	if err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	if len(parsed.Packages) != len(d.Packages) {
		t.Fatalf("%d packages became %d: %s", len(d.Packages), len(parsed.Packages), data)
	}
	for _, p := range d.Packages {
		for _, word := range strings.Fields(strings.NewReplacer("(", " ", ")", " ").Replace(p.Licence)) {
			if _, ok := d.Texts[word]; strings.HasPrefix(word, refPrefix) && !ok {
				t.Fatalf("%s is nowhere: %s", word, data)
			}
		}
		if strings.Count(p.Licence, "(") != strings.Count(p.Licence, ")") {
			t.Fatalf("licence %q", p.Licence)
		}
	}
}

func newScan(t *testing.T) *scan {
	t.Helper()
	r, err := openRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return &scan{root: r, byPURL: map[string]*Package{}, texts: texts{}}
}

func FuzzDatabases(f *testing.F) {
	f.Add([]byte(dpkgStatus), []byte(fooCopyright))
	f.Add([]byte("P:musl\nV:1\nL:MIT AND (X OR\n\nP:a\n"), []byte("see /usr/share/common-licenses/GPL-2 any later version"))
	f.Fuzz(func(t *testing.T, status, copyright []byte) {
		s := newScan(t)
		c := parseCopyright(copyright)
		s.add(Package{Type: "deb", Name: "c"}, func(t *texts) string {
			var all []string
			for _, l := range c.licences {
				all = append(all, t.withTexts(l, "c", c.texts))
			}
			return conjunction(append(all, t.file("c", c.whole)))
		})
		s.dpkg("status", status, distribution{})
		s.apk("installed", status, distribution{"x", "y"})
		checkDocument(t, s)
	})
}

func FuzzLicence(f *testing.F) {
	for _, seed := range []string{"MIT", "GPL-2+ or (Artistic, and BSD)", "LicenseRef-x WITH y", "a | b & c || d"} {
		f.Add(seed, "pkg")
	}
	f.Fuzz(func(t *testing.T, raw, pkg string) {
		texts := texts{}
		once := texts.expression(raw, pkg)
		if again := texts.expression(once, pkg); again != once && len(once) <= 500 {
			t.Errorf("%q is %q, and that is %q", raw, once, again)
		}
	})
}

func FuzzPackages(f *testing.F) {
	f.Add([]byte("Name: a\nVersion: 1\nLicense: x\n y\nClassifier: License :: a :: b\n"))
	f.Add([]byte(`{"name":"@a/b","version":"1","license":["x",{"type":"MIT"}]}`))
	f.Add([]byte(archive(f, [2]string{"META-INF/maven/g/a/pom.properties", "groupId=g\nartifactId=a\nversion=1\n"}, [2]string{"META-INF/maven/g/a/pom.xml", "<project><licenses><license><name>x</name></license></licenses></project>"})))
	f.Add([]byte(archive(f, [2]string{"META-INF/MANIFEST.MF", "Implementation-Version: 1\n"}, [2]string{"x.jar", archive(f, [2]string{"a", "b"})})))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := os.CreateTemp(t.TempDir(), "x")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.Write(data); err != nil {
			t.Fatal(err)
		}
		s := newScan(t)
		for _, read := range []func(*scan, string, *os.File, int64) error{(*scan).python, (*scan).npm, (*scan).java} {
			if _, err := file.Seek(0, 0); err != nil {
				t.Fatal(err)
			}
			_ = read(s, "x-1.jar", file, int64(len(data))) // what it says is for people
		}
		checkDocument(t, s)
	})
}

func FuzzGo(f *testing.F) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(self[:64<<10])
	f.Add(append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 1000)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		readBuildInfo(bytes.NewReader(data))
	})
}

func FuzzParse(f *testing.F) {
	f.Add(Document{Packages: []Package{{Type: "deb", Name: "a", PURL: "pkg:deb/a", DependsOn: []string{"pkg:deb/b"}}, {PURL: "pkg:deb/b"}}}.SPDX())
	f.Add([]byte(`{"spdxVersion":"SPDX-2.3","packages":[{"SPDXID":"SPDXRef-x","hasFiles":["SPDXRef-y"]}],"documentDescribes":["SPDXRef-x"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if d, err := Parse(data); err == nil {
			d.Licences()
		}
	})
}
