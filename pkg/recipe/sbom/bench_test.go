package sbom

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkScan is of an image such as Debian with a language on top: 300 packages,
// 12,000 files, 400 of them programs, 200 MB.
func BenchmarkScan(b *testing.B) {
	files := map[string]string{}
	var status strings.Builder
	for i := range 300 {
		fmt.Fprintf(&status, "Package: p%d\nStatus: install ok installed\nVersion: 1.%d\nArchitecture: amd64\nDescription: x\n\n", i, i)
		files[fmt.Sprintf("usr/share/doc/p%d/copyright", i)] = fooCopyright + strings.Repeat("# filler\n", 2000)
	}
	files["var/lib/dpkg/status"] = status.String()
	for i := range 11000 {
		files[fmt.Sprintf("usr/lib/%d/%d/file%d", i%30, i%300, i)] = strings.Repeat("x", i)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	for i := range 20 {
		files[fmt.Sprintf("usr/bin/go%d*", i)] = string(self)
	}
	for i := range 380 {
		files[fmt.Sprintf("usr/bin/c%d*", i)] = "\x7fELF" + strings.Repeat("\x00", 64<<10)
	}
	for i := range 50 {
		files[fmt.Sprintf("usr/lib/python3/p%d-1.dist-info/METADATA", i)] = fmt.Sprintf("Name: p%d\nVersion: 1\nLicense: MIT\n", i)
	}
	root := rootfs(b, files)
	var bytes int64
	for name := range files {
		info, err := os.Stat(filepath.Join(root, strings.TrimSuffix(name, "*")))
		if err != nil {
			b.Fatal(err)
		}
		bytes += info.Size()
	}
	b.SetBytes(bytes)
	for b.Loop() {
		d, err := Scan(b.Context(), root, About{Name: "x"})
		if err != nil {
			b.Fatal(err)
		}
		if len(d.SPDX()) == 0 || len(d.Packages) < 350 {
			b.Fatal("not all was found")
		}
	}
}
