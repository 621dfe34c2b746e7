package sbom

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
	"github.com/spdx/tools-golang/spdxlib"
	"golang.org/x/sys/unix"
)

func TestScan(t *testing.T) {
	root := rootfs(t, everything(t))
	d, err := Scan(t.Context(), root, about)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`deb libfoo1 1:2.0+b1 pkg:deb/debian/libfoo1@1:2.0%2Bb1?arch=amd64&distro=debian-13 (Artistic-1.0-Perl OR GPL-2.0-or-later) AND LicenseRef-foo-own AND MIT`,
		`deb bar 3~rc1 pkg:deb/debian/bar@3~rc1?arch=all&distro=debian-13 GPL-2.0-or-later AND LicenseRef-debian-bar`,
		`deb tzdata 2026a pkg:deb/debian/tzdata@2026a?arch=all&distro=debian-13 `,
		`apk musl 1.2.5-r9 pkg:apk/debian/musl@1.2.5-r9?arch=x86_64&distro=debian-13 MIT`,
		`apk busybox 1.37.0-r8 pkg:apk/debian/busybox@1.37.0-r8?arch=x86_64&distro=debian-13 GPL-2.0-only AND bzip2-1.0.6`,
		`pypi PyYAML 6.0 pkg:pypi/pyyaml@6.0 MIT`,
		`pypi zope_x 1 pkg:pypi/zope-x@1 MIT OR ZPL-2.1`,
		`pypi Y 2 pkg:pypi/y@2 LicenseRef-Apache-Software-License`,
		`npm @babel/core 7.0.0 pkg:npm/%40babel/core@7.0.0 MIT`,
		`npm old 0.1.0 pkg:npm/old@0.1.0 Apache-2.0 AND MIT`,
		`npm own 1.0.0 pkg:npm/own@1.0.0 LicenseRef-own`,
		`maven org.x:a 1.0 pkg:maven/org.x/a@1.0 Apache-2.0 OR LicenseRef-Own`,
		`maven org.x:b 2.0 pkg:maven/org.x/b@2.0 `,
		`maven org.fat:fat 5 pkg:maven/org.fat/fat@5 `,
		`maven org.apache.commons.z:commons-z 3.1 pkg:maven/org.apache.commons.z/commons-z@3.1 Apache-2.0`,
	} {
		if !slices.ContainsFunc(d.Packages, func(p Package) bool {
			return strings.Join([]string{p.Type, p.Name, p.Version, p.PURL, p.Licence}, " ") == want
		}) {
			t.Errorf("missing: %s", want)
			for _, p := range d.Packages {
				if p.Name == strings.Fields(want)[1] {
					t.Logf("there is %+v", p)
				}
			}
		}
	}
	main := slices.IndexFunc(d.Packages, func(p Package) bool { return p.Name == "github.com/sandboxlabs/sandbox" })
	if main < 0 {
		t.Fatal("the Go program's main module is missing")
	}
	if p := d.Packages[main]; !slices.Equal(p.Found, []string{"usr/bin/program"}) || !slices.ContainsFunc(p.DependsOn, func(s string) bool { return strings.HasPrefix(s, "pkg:golang/stdlib@1.") }) {
		t.Errorf("Go program: %+v", p)
	}
	var others []string
	for _, p := range d.Packages {
		if p.Type != "golang" {
			others = append(others, p.Name)
		}
	}
	if len(others) != 15 {
		t.Errorf("found %q", others)
	}
	for ref, text := range map[string]string{
		"LicenseRef-foo-own": "Do what you want,\n\nbut not on Sundays.", "LicenseRef-own": "See COPYING in the package.",
		"LicenseRef-Own": "Own\nhttps://x.org/l",
	} {
		if d.Texts[ref] != text {
			t.Errorf("%s is %q, want %q", ref, d.Texts[ref], text)
		}
	}
	if len(d.Skipped) > 0 {
		t.Errorf("skipped: %q", d.Skipped)
	}
}

func TestModules(t *testing.T) {
	s := newScan(t)
	s.modules("bin/x", &buildinfo.BuildInfo{
		GoVersion: "go1.26.8 X:jsonv2", Path: "example.com/X/cmd/x", Main: debug.Module{Path: "example.com/X", Version: "(devel)"},
		Deps: []*debug.Module{
			{Path: "a.org/a", Version: "v1.0.0"},
			{Path: "a.org/b", Version: "v1.0.0", Replace: &debug.Module{Path: "a.org/fork", Version: "v2.0.0"}},
			{Path: "a.org/c", Version: "v1.0.0", Replace: &debug.Module{Path: "../c"}},
			{Path: "a.org/d", Version: "v1.0.0", Replace: &debug.Module{Path: "/src/d"}},
			{Path: "a.org/e", Version: "v0.0.0", Replace: &debug.Module{Path: "./e"}},
			nil,
		},
	})
	s.modules("bin/gofmt", &buildinfo.BuildInfo{GoVersion: "go1.26.8", Path: "cmd/gofmt"})
	s.modules("bin/old", &buildinfo.BuildInfo{GoVersion: "go1.26.8", Path: "command-line-arguments"})
	var got []string
	d := s.document(About{})
	for _, p := range d.Packages {
		got = append(got, p.PURL+" "+strings.Join(p.DependsOn, " "))
	}
	want := []string{
		"pkg:golang/a.org/a@v1.0.0 ", "pkg:golang/a.org/c@v1.0.0 ", "pkg:golang/a.org/d@v1.0.0 ", "pkg:golang/a.org/fork@v2.0.0 ", "pkg:golang/cmd/gofmt@1.26.8 pkg:golang/stdlib@1.26.8",
		"pkg:golang/command-line-arguments pkg:golang/stdlib@1.26.8",
		"pkg:golang/example.com/x pkg:golang/a.org/a@v1.0.0 pkg:golang/a.org/c@v1.0.0 pkg:golang/a.org/d@v1.0.0 pkg:golang/a.org/fork@v2.0.0 pkg:golang/stdlib@1.26.8",
		"pkg:golang/stdlib@1.26.8 ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// What is linked is said in the document too.
	parsed, err := Parse(d.SPDX())
	if err != nil || !slices.EqualFunc(parsed.Packages, d.Packages, func(a, b Package) bool { return slices.Equal(a.DependsOn, b.DependsOn) }) {
		t.Errorf("%+v, %v", parsed.Packages, err)
	}
}

// TestSPDX: others can read it, nothing in it leads nowhere, and it is the same
// for another copy of the files.
func TestSPDX(t *testing.T) {
	files := everything(t)
	d, err := Scan(t.Context(), rootfs(t, files), about)
	if err != nil {
		t.Fatal(err)
	}
	data := d.SPDX()
	again, err := Scan(t.Context(), rootfs(t, files), about)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.SPDX(), data) {
		t.Error("two scans of the same files differ")
	}
	var doc v2_3.Document
	if err := spdxjson.ReadInto(bytes.NewReader(data), &doc); err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(&doc); err != nil {
		t.Error(err)
	}
	if doc.CreationInfo.Created != "2026-01-02T03:04:05Z" || !strings.HasPrefix(doc.DocumentNamespace, namespace+"demo-") {
		t.Errorf("created %s, namespace %s", doc.CreationInfo.Created, doc.DocumentNamespace)
	}
	described, err := spdxlib.GetDescribedPackageIDs(&doc)
	if err != nil || len(described) != 1 || described[0] != imageID {
		t.Errorf("it describes %v, %v", described, err)
	}
	seen := map[common.ElementID]bool{}
	for _, p := range doc.Packages {
		if seen[p.PackageSPDXIdentifier] {
			t.Errorf("%s is there twice", p.PackageSPDXIdentifier)
		}
		seen[p.PackageSPDXIdentifier] = true
		if strings.Trim(string(p.PackageSPDXIdentifier), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != "" {
			t.Errorf("%q is no identifier", p.PackageSPDXIdentifier)
		}
		for _, word := range strings.Fields(strings.NewReplacer("(", " ", ")", " ").Replace(p.PackageLicenseDeclared)) {
			_, listedOne := listed[strings.ToLower(word)]
			_, exception := listedExceptions[strings.ToLower(word)]
			_, text := d.Texts[word]
			if !listedOne && !exception && !text && !slices.Contains([]string{"AND", "OR", "WITH", noAssertion}, word) {
				t.Errorf("%s: nobody knows licence %s", p.PackageName, word)
			}
		}
	}
	d.Packages = d.Packages[1:]
	var other v2_3.Document
	if err := spdxjson.ReadInto(bytes.NewReader(d.SPDX()), &other); err != nil || other.DocumentNamespace == doc.DocumentNamespace {
		t.Errorf("another document has the same namespace: %v", err)
	}
}

func TestParse(t *testing.T) {
	d, err := Scan(t.Context(), rootfs(t, everything(t)), about)
	if err != nil {
		t.Fatal(err)
	}
	d.Skipped = []string{"a: b", "c: d"}
	parsed, err := Parse(d.SPDX())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := parsed.SPDX(), d.SPDX(); !bytes.Equal(got, want) {
		t.Errorf("encoded again it is\n%s\nnot\n%s", got, want)
	}
	if !slices.Equal(parsed.Licences(), d.Licences()) {
		t.Error("other licences")
	}
	if l := parsed.Licences(); !slices.Contains(l, Licence{"PyYAML", "6.0", "MIT"}) || !slices.Contains(l, Licence{"tzdata", "2026a", noAssertion}) {
		t.Errorf("licences are %v", l)
	}
	for _, bad := range []string{"", "{}", "[]", "null", `{"spdxVersion":"SPDX-3.0"}`, `{"spdxVersion":3}`} {
		if _, err := Parse([]byte(bad)); err == nil || !strings.Contains(err.Error(), "parse SPDX document") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// As somebody else may have made it.
	foreign, err := Parse([]byte(`{"spdxVersion":"SPDX-2.2","packages":[null,{"name":"x","SPDXID":"SPDXRef-x","licenseConcluded":"MIT","licenseDeclared":"NOASSERTION"}],"relationships":[null]}`))
	if err != nil || !slices.Equal(foreign.Licences(), []Licence{{"x", "", "MIT"}}) {
		t.Errorf("%+v, %v", foreign, err)
	}
}

// TestHostile: no file leads out, blocks, or ends the scan.
func TestHostile(t *testing.T) {
	outside := rootfs(t, map[string]string{"status": dpkgStatus, "x.dist-info/METADATA": "Name: stolen\nVersion: 1\n"})
	root := rootfs(t, map[string]string{
		"etc/os-release":              "ID=\"../..\x00\x1b[31m\"\nVERSION_ID=" + strings.Repeat("9", 10000),
		"var/lib/dpkg/status.d/a":     "Package: ../../etc\nVersion: 1\n\nPackage:\n\n: x\n\x00\xff\nPackage: ok\nVersion: 1\n",
		"lib/apk/db/installed":        "P\nP:\nV:\n\n\n:\nP:a\x1b[2J\nV:\xff\n",
		"a.dist-info/METADATA":        "Version: 1\n",
		"b.dist-info/METADATA":        strings.Repeat("x", maxMetadata+1),
		"node_modules/a/package.json": "{",
		"node_modules/b/package.json": `{"name":{},"version":1}`,
		"node_modules/c/package.json": `{"name":"c","version":"1","license":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`,
		"x.jar":                       "PK\x03\x04",
		"y.jar":                       archive(t, [2]string{"META-INF/MANIFEST.MF", "\n : \n"}, [2]string{"in.jar", "no zip"}),
		"elf*":                        "\x7fELF" + strings.Repeat("\xff", minELF),
		"elf2*":                       "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", minELF),
		"usr/share/doc/ok/copyright":  "Format: x\n\nLicense: ((((\n text\n\nLicense: " + strings.Repeat("a or ", 5000),
		"deep/" + strings.Repeat("d/", 600) + "c.dist-info/METADATA": "Name: deep\n",
	})
	for link, target := range map[string]string{
		"var/lib/dpkg/status": outside + "/status", "out.dist-info": outside + "/x.dist-info", "METADATA": "METADATA",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, fifo := range []string{"usr/lib/apk/db/installed", "f.dist-info/METADATA"} {
		file := filepath.Join(root, fifo)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(file, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d, err := Scan(t.Context(), root, About{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range d.Packages {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	if want := []string{"a [2J", "c", "ok"}; !slices.Equal(names, want) {
		t.Errorf("found %q, want %q", names, want)
	}
	for _, want := range []string{
		"a.dist-info/METADATA: it has no name", "b.dist-info/METADATA: it has more than", "node_modules/a/package.json: unexpected end",
		"node_modules/b/package.json: ", "x.jar: read archive", "y.jar!in.jar: ", "usr/lib/apk/db/installed is no regular file", "directories nest deeper",
	} {
		if !slices.ContainsFunc(d.Skipped, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("%q is not in %q", want, d.Skipped)
		}
	}
	data := d.SPDX()
	if strings.ContainsAny(string(data), "\x1b\x00") || strings.Contains(string(data), "stolen") || strings.Contains(string(data), "libfoo1") {
		t.Errorf("the document has what it should not: %s", data)
	}
	if parsed, err := Parse(data); err != nil || len(parsed.Packages) != 3 {
		t.Errorf("%v, %v", parsed, err)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrClosedPipe)
	if _, err := Scan(ctx, rootfs(t, everything(t)), about); err == nil || !strings.Contains(err.Error(), io.ErrClosedPipe.Error()) {
		t.Errorf("error is %v", err)
	}
	if _, err := Scan(t.Context(), "/nonexistent", about); err == nil || !strings.Contains(err.Error(), "list packages of /nonexistent") {
		t.Errorf("error is %v", err)
	}
	if d, err := Scan(t.Context(), t.TempDir(), about); err != nil || len(d.Packages) > 0 {
		t.Errorf("of an empty image: %v, %v", d, err)
	}
}
