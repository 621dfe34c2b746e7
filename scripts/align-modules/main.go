// Command align-modules gives the Go recipes one version of every module that
// more than one of them asks for:
//
//	go run ./scripts/align-modules images        # writes go.mod and go.sum
//	go run ./scripts/align-modules -check images # says what differs
//
// A compiled package is taken from the cache only if it and all that it imports
// are of the same versions. Where recipes agree on them, what one has compiled
// is there for all others.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	check := flag.Bool("check", false, "change nothing, fail if something is not aligned")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: align-modules [-check] FOLDER")
		os.Exit(2)
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
	}
	if err := run(flag.Arg(0), *check); err != nil {
		fmt.Fprintln(os.Stderr, "align-modules:", err)
		os.Exit(1)
	}
}

// rounds bounds how often requirements that are raised may raise others.
const rounds = 10

func run(folder string, check bool) error {
	for range rounds {
		modules, err := load(folder)
		if err != nil {
			return err
		}
		changes := align(modules)
		for _, c := range changes {
			fmt.Println(c)
		}
		if len(changes) == 0 {
			return nil
		}
		if check {
			return fmt.Errorf("%d requirements differ from other recipes'; run `go run ./scripts/align-modules images`, and build what it changes", len(changes))
		}
		for _, m := range modules {
			mine := slices.DeleteFunc(slices.Clone(changes), func(c change) bool { return c.recipe != m.recipe })
			if len(mine) == 0 {
				continue
			}
			if err := m.write(mine); err != nil {
				return fmt.Errorf("%s: %w", m.recipe, err)
			}
		}
	}
	return fmt.Errorf("not aligned after %d rounds", rounds)
}

// load reads every go.mod below a folder.
func load(folder string) (modules []module, err error) {
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "go.mod" {
			return err
		}
		recipe, err := filepath.Rel(folder, filepath.Dir(path))
		if err != nil || leftOut(recipe) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		m, err := parse(filepath.ToSlash(recipe), path, text)
		modules = append(modules, m)
		return err
	})
	return modules, err
}

// write changes a go.mod, lets the go command complete it, and has it write a
// go.sum of just what it takes to build.
func (m module) write(changes []change) error {
	text, err := m.edit(changes)
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.path, text, 0o644); err != nil {
		return err
	}
	dir := filepath.Dir(m.path)
	if err := os.Remove(filepath.Join(dir, "go.sum")); err != nil {
		return err
	}
	what := []string{"tool"}
	if own, err := filepath.Glob(filepath.Join(dir, "*/*.go")); err != nil || len(own) > 0 {
		what = append(what, "./...")
	}
	if len(m.file.Tool) == 0 {
		what = what[1:]
	}
	for _, arch := range []string{"amd64", "arm64"} {
		// Recipes compile without cgo and tags, but for runc and Prometheus.
		for cgo, tags := range []string{"", "seccomp,builtinassets"} {
			if err := list(dir, arch, cgo, tags, what); err != nil {
				return fmt.Errorf("go list: %w", err)
			}
		}
	}
	return nil
}

func list(dir, arch string, cgo int, tags string, what []string) error {
	args := []string{"list", "-mod=mod", "-deps", "-e", "-f", "{{with .Error}}{{.}}{{end}}", "-tags", tags}
	cmd := exec.Command("go", append(args, what...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, fmt.Sprint("CGO_ENABLED=", cgo))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if complaint := strings.TrimSpace(string(out)); err == nil && complaint != "" {
		return errors.New(complaint)
	}
	return err
}
