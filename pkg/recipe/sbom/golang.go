package sbom

import (
	"debug/buildinfo"
	"io"
	"os"
	"path"
	"strings"
)

// minELF is less than any Go program has.
const minELF = 16 << 10

// golang reads what the linker has left in a Go program: its main module, the
// modules that are linked into it, and Go's version.
func (s *scan) golang(name string, f *os.File, _ int64) error {
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil || string(magic[:]) != "\x7fELF" {
		return nil //nolint:nilerr // a script
	}
	if info := readBuildInfo(f); info != nil { // else it is another language's
		s.modules(name, info)
	}
	return nil
}

// modules notes what a program is made of.
func (s *scan) modules(name string, info *buildinfo.BuildInfo) {
	std := module("stdlib", strings.TrimPrefix(goVersion(info.GoVersion), "go"), name)
	deps := []string{std.PURL}
	for _, m := range info.Deps {
		if m == nil {
			continue
		}
		if m.Replace != nil && !isFolder(m.Replace.Path) {
			m = m.Replace
		}
		p := module(m.Path, m.Version, name)
		if p.Name != "" && !isFolder(p.Name) && (m.Replace == nil || m.Version != placeholder) {
			deps = append(deps, p.PURL)
			s.add(p, nil)
		}
	}
	s.add(std, nil)
	// Of a program without a module the path of its package is all there is.
	version := info.Main.Version
	if strings.HasPrefix(info.Path, "cmd/") { // Go's own
		version = std.Version
	}
	main := module(firstOf(info.Main.Path, info.Path), version, name)
	main.DependsOn = deps
	s.add(main, nil)
}

// placeholder is required where nothing but a replacement is meant.
const placeholder = "v0.0.0"

// isFolder tells a replacement by a folder from one by a module. A folder has no
// name and no version of its own: it is a copy, with changes, of what it
// replaces.
func isFolder(name string) bool { return strings.HasPrefix(name, ".") || path.IsAbs(name) }

// readBuildInfo: debug/elf is not made for hostile files, by its own words, and
// may panic.
func readBuildInfo(r io.ReaderAt) (info *buildinfo.BuildInfo) {
	defer func() {
		if recover() != nil {
			info = nil
		}
	}()
	info, err := buildinfo.Read(r)
	if err != nil {
		return nil
	}
	return info
}

// goVersion leaves out experiments: "go1.26.1 X:jsonv2".
func goVersion(s string) string {
	s, _, _ = strings.Cut(s, " ")
	return clean(s, 64)
}

func module(name, version, found string) Package {
	name, version = clean(name, 300), clean(version, 128)
	if version == develVersion {
		version = ""
	}
	p := Package{Type: "golang", Name: name, Version: version, Found: []string{found}}
	lower := strings.ToLower(name)
	p.PURL = purl(p.Type, path.Dir("/" + lower)[1:], path.Base(lower), version)
	return p
}

// develVersion is that of a main module built from a checkout; see debug.Module.
const develVersion = "(devel)"
