package main

import (
	"fmt"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// module is the go.mod of a recipe, or of one of its parts.
type module struct {
	recipe string // the folder, from that of all recipes on: kind-node/etcd
	path   string
	file   *modfile.File
}

func parse(recipe, path string, text []byte) (module, error) {
	file, err := modfile.Parse(path, text, nil)
	return module{recipe: recipe, path: path, file: file}, err
}

// change is a requirement that is to have another version.
type change struct {
	recipe, path, from, to string
}

func (c change) String() string {
	return fmt.Sprintf("%s: %s %s, others have %s", c.recipe, c.path, c.from, c.to)
}

// align returns what is to change for all modules to require the same versions:
// of what Kubernetes consists of those that kind-node's Kubernetes has, of all
// else the newest.
func align(modules []module) (changes []change) {
	target := map[string]string{}
	for _, m := range modules {
		for _, r := range m.file.Require {
			if !excepted(m.recipe, r.Mod.Path) && semver.Compare(r.Mod.Version, target[r.Mod.Path]) > 0 {
				target[r.Mod.Path] = r.Mod.Version
			}
		}
	}
	for path, version := range led(modules) {
		target[path] = version
	}
	for _, m := range modules {
		for _, r := range m.file.Require {
			if to := target[r.Mod.Path]; !excepted(m.recipe, r.Mod.Path) && r.Mod.Version != to {
				changes = append(changes, change{m.recipe, r.Mod.Path, r.Mod.Version, to})
			}
		}
	}
	return changes
}

// led returns the versions that one recipe decides: of the programs that it is
// for, and of what is released together with them.
func led(modules []module) map[string]string {
	versions := map[string]string{}
	for _, m := range modules {
		for _, r := range m.file.Require {
			path, version := r.Mod.Path, r.Mod.Version
			for _, replace := range m.file.Replace {
				if m.recipe == kubernetes && replace.Old.Path == path && replace.New.Path == path {
					versions[path] = replace.New.Version
				}
			}
			for _, tool := range m.file.Tool {
				if tool.Path == path || strings.HasPrefix(tool.Path, path+"/") {
					versions[path] = version
				}
			}
			if m.recipe == etcd && strings.HasPrefix(path, "go.etcd.io/etcd/") {
				versions[path] = version
			}
		}
	}
	return versions
}

// edit returns the go.mod with its changes. A version that is too new is
// excluded: no requirement of a requirement counts that asks for it.
func (m module) edit(changes []change) ([]byte, error) {
	for _, c := range changes {
		if err := m.file.AddRequire(c.path, c.to); err != nil {
			return nil, err
		}
		if semver.Compare(c.from, c.to) > 0 {
			m.exclude(c.path, c.from)
		}
	}
	m.file.SortBlocks()
	m.file.Cleanup()
	return m.file.Format()
}

// exclude adds a line to the block of what is excluded: File.AddExclude makes a
// statement of each.
func (m module) exclude(path, version string) {
	line := &modfile.Line{Token: []string{path, version}, InBlock: true}
	for _, s := range m.file.Syntax.Stmt {
		if block, ok := s.(*modfile.LineBlock); ok && block.Token[0] == "exclude" {
			block.Line = append(block.Line, line)
			return
		}
	}
	m.file.Syntax.Stmt = append(m.file.Syntax.Stmt, &modfile.LineBlock{Token: []string{"exclude"}, Line: []*modfile.Line{line}})
}
