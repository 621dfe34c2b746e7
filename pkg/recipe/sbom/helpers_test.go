package sbom

import (
	"archive/zip"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// rootfs writes files into a folder; a name that ends in "*" is executable.
func rootfs(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		mode := os.FileMode(0o644)
		if n, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = n, 0o755
		}
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// archive is a zip of stored files.
func archive(t testing.TB, files ...[2]string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		e, err := w.CreateHeader(&zip.FileHeader{Name: f[0], Method: zip.Store})
		if err == nil {
			_, err = io.WriteString(e, f[1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const dpkgStatus = `Package: libfoo1
Status: install ok installed
Maintainer: Foo Team <foo@example.org>
Architecture: amd64
Version: 1:2.0+b1
Homepage: https://foo.example.org/
Description: a library
 with a long description
 .
 Package: not-this

Package: gone
Status: deinstall ok config-files
Version: 1

Package: bar
Status: install ok installed
Architecture: all
Version: 3~rc1
`

const fooCopyright = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: foo

Files: *
Copyright: someone
License: GPL-2+ or Artistic

Files: x/*
Copyright: someone else
License: foo-own
 Do what you want,
 .
 but not on Sundays.

Files: debian/*
Copyright: me
License: Expat

License: GPL-2+
 On Debian systems, see /usr/share/common-licenses/GPL-2.
`

func everything(t testing.TB) map[string]string {
	t.Helper()
	self, err := os.Executable() // a Go program
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	pom := func(name, version string) [2]string {
		return [2]string{"META-INF/maven/org.x/" + name + "/pom.properties", "#Generated\r\ngroupId=org.x\r\nartifactId=" + name + "\r\nversion=" + version + "\r\n"}
	}
	return map[string]string{
		"etc/os-release":                                              "ID=debian\nVERSION_ID=\"13\"\n",
		"var/lib/dpkg/status":                                         dpkgStatus,
		"var/lib/dpkg/status.d/tzdata":                                "Package: tzdata\nVersion: 2026a\nArchitecture: all\n",
		"var/lib/dpkg/status.d/x.md5sums":                             "0 Package: no\n",
		"usr/share/doc/libfoo1/copyright":                             fooCopyright,
		"usr/share/doc/bar/copyright":                                 "You may copy it under the terms of the GNU GPL, version 2 or any\n later version: /usr/share/common-licenses/GPL-2.\n",
		"lib/apk/db/installed":                                        "C:Q1abc=\nP:musl\nV:1.2.5-r9\nA:x86_64\nL:MIT\nU:https://musl.libc.org/\nF:lib\nR:ld\n\nP:busybox\nV:1.37.0-r8\nA:x86_64\nL:GPL-2.0-only AND bzip2-1.0.6\n",
		"usr/bin/program*":                                            string(program),
		"usr/lib/python3/dist-packages/PyYAML-6.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: PyYAML\nVersion: 6.0\nHome-page: https://pyyaml.org/\nLicense: MIT\n\nName: Description\n",
		"opt/venv/lib/zope_x-1.dist-info/METADATA":                    "Name: zope_x\nVersion: 1\nLicense-Expression: ZPL-2.1 OR mit\nLicense: ignored\n",
		"opt/venv/lib/y.egg-info/PKG-INFO":                            "Name: Y\nVersion: 2\nLicense: A long\n text of my own\nClassifier: License :: OSI Approved :: Apache Software License\n",
		"app/node_modules/@babel/core/package.json":                   `{"name":"@babel/core","version":"7.0.0","license":"MIT","homepage":"https://babeljs.io"}`,
		"app/node_modules/old/package.json":                           `{"name":"old","version":"0.1.0","licenses":[{"type":"MIT"},{"type":"Apache 2.0"}]}`,
		"app/node_modules/own/package.json":                           `{"name":"own","version":"1.0.0","license":"SEE LICENSE IN COPYING"}`,
		"app/node_modules/own/lib/package.json":                       `{"type":"module"}`,
		"app/package.json":                                            `{"name":"app","version":"9.9.9"}`,
		"srv/a.jar":                                                   archive(t, pom("a", "1.0"), [2]string{"META-INF/maven/org.x/a/pom.xml", `<project><licenses><license><name>Apache License, Version 2.0</name></license><license><name>Own</name><url>https://x.org/l</url></license></licenses></project>`}),
		"srv/fat.jar":                                                 archive(t, [2]string{"META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\nImplementation-Version: 5\r\nImplementation-Vendor-Id: org.fat\r\n"}, [2]string{"BOOT-INF/lib/b.jar", archive(t, pom("b", "2.0"))}),
		"srv/commons-z-3.1.jar":                                       archive(t, [2]string{"META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nBundle-SymbolicName: org.apache.commons.z;sing\n leton:=true\nBundle-License: https://www.apache.org/licenses/LICENSE-2.0.txt\n\nName: x\nBundle-Version: 9\n"}),
		"srv/nothing.jar":                                             archive(t, [2]string{"x", "y"}),
	}
}

var about = About{
	Name: "demo", Version: "1.2", Digest: digest.FromString("image"), Licence: "Apache-2.0",
	Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Tool: "sandbox-test",
}
