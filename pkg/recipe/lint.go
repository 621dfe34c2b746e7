package recipe

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/sandboxlabs/sandbox/pkg/pattern"
)

// Problem is one thing to put right in a recipe.
type Problem struct {
	File    string // absolute, or as far as it is known
	Line    int    // counted from 1
	Message string
	Hint    string // what to do about it; may be empty
	Warning bool   // the recipe can be built nevertheless
}

func (p Problem) String() string {
	s := fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
	if p.Hint != "" {
		s += " (" + p.Hint + ")"
	}
	return s
}

// CheckDockerfile lists what of a Dockerfile cannot be built: package build
// knows.
type CheckDockerfile func(dockerfile []byte) ([]Problem, error)

var (
	namePattern    = pattern.New(`^[a-z0-9]+([._-][a-z0-9]+)*$`)
	versionPattern = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`) // as a tag
	packagePattern = pattern.New(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?([=/][A-Za-z0-9.+:~-]+)?$`)
	suitePattern   = pattern.New(`^[a-z][a-z0-9.-]*$`)
	cachePattern   = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
)

// builtin are images that every store has.
var builtin = []string{"toolbox"}

// linter collects what is wrong with one recipe.
type linter struct {
	r        *Recipe
	doc      document
	problems []Problem
}

func (l *linter) add(line int, hint, format string, args ...any) *Problem {
	l.problems = append(l.problems, Problem{
		File: filepath.Join(l.r.Dir, FileName), Line: line, Hint: hint, Message: fmt.Sprintf(format, args...),
	})
	return &l.problems[len(l.problems)-1]
}

// at is a problem of the field with this path.
func (l *linter) at(field, hint, format string, args ...any) *Problem {
	return l.add(l.doc.line(strings.Split(field, "\x00")...), hint, format, args...)
}

func key(path ...string) string { return strings.Join(path, "\x00") }

// Lint lists what is wrong with the recipe in dir, in the order of files and
// lines. check tells what of the Dockerfile cannot be built; nil for none. The
// recipes in the folders beside dir are those that it can name.
func Lint(dir string, check CheckDockerfile) ([]Problem, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, FileName)
	b, err := readBounded(file)
	if errors.Is(err, fs.ErrNotExist) {
		return []Problem{{File: file, Line: 1, Message: "there is no " + FileName, Hint: "`sandbox image new NAME` makes a recipe to start from"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lint %s: %w", dir, err)
	}
	r, doc, problems := parse(b)
	for i := range problems {
		problems[i].File = file
	}
	l := &linter{r: r, doc: doc, problems: problems}
	r.Dir = dir
	if len(problems) == 0 { // otherwise fields are empty that are not
		l.required()
		l.fields()
		l.contexts()
		l.smoke()
	}
	if err := l.dockerfile(check, len(problems) == 0); err != nil {
		return nil, fmt.Errorf("lint %s: %w", dir, err)
	}
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		if d := strings.Compare(b.File, a.File); d != 0 { // recipe.yaml first
			return d
		}
		return a.Line - b.Line
	})
	return l.problems, nil
}

func (l *linter) required() {
	for _, f := range []struct{ name, value, hint string }{
		{"name", l.r.Name, "name: " + filepath.Base(l.r.Dir)},
		{"version", l.r.Version, "version: 1.2.3"},
		{"description", l.r.Description, "what the image is, in one line"},
		{"licence", l.r.Licence, "licence: Apache-2.0"},
	} {
		if strings.TrimSpace(f.value) == "" {
			l.at(f.name, f.hint, "the field %q is missing", f.name)
		}
	}
	switch {
	case l.r.Created.IsZero():
		l.at("created", "created: "+time.Now().UTC().Format(time.DateOnly), `the field "created" is missing`)
	case l.r.Created.After(time.Now()):
		l.at("created", "the day on which the version was released", "the date is in the future")
	case l.r.Created.Year() < 1980:
		l.at("created", "the day on which the version was released", "the date is before 1980, which archives cannot hold")
	}
	if l.r.UpstreamOnly && l.r.Upstream == "" {
		l.at("upstream_only", "upstream: registry.example/name@sha256:…", `an image that is upstream's needs the field "upstream"`)
	}
}

func (l *linter) fields() {
	r := l.r
	if r.Name != "" && (!namePattern.MatchString(r.Name) || len(r.Name) > 63) {
		l.at("name", "small letters and digits, joined by - . or _", "%q is no name for an image", r.Name)
	} else if base := filepath.Base(r.Dir); r.Name != "" && r.Name != base {
		l.at("name", "rename one of them", "the name is %q, and the folder's is %q", r.Name, base)
	}
	if r.Version != "" && !versionPattern.MatchString(r.Version) {
		l.at("version", "letters, digits and . _ -, at most 128", "%q cannot be an image's tag", r.Version)
	}
	if strings.Contains(strings.TrimSpace(r.Description), "\n") {
		l.at("description", "more belongs into the Dockerfile's comments", "the description has more than one line")
	}
	if r.Licence != "" {
		if err := checkLicence(r.Licence); err != nil {
			l.at("licence", "an SPDX expression, such as MIT or (GPL-2.0-only OR BSD-3-Clause)", "licence %q: %v", r.Licence, err)
		}
	}
	if r.Upstream != "" {
		l.upstream()
	}
	for i, p := range r.Platforms {
		if os, arch, ok := strings.Cut(p, "/"); !ok || os != "linux" || arch == "" {
			l.at(key("platforms", strconv.Itoa(i)), "linux/amd64, linux/arm64", "%q is no platform that images are built for", p)
		}
	}
	for i, id := range r.Caches {
		if !cachePattern.MatchString(id) {
			l.at(key("caches", strconv.Itoa(i)), "letters, digits and - _ .", "%q cannot be a cache's ID", id)
		}
		if slices.Index(r.Caches, id) < i {
			l.at(key("caches", strconv.Itoa(i)), "", "cache %q is listed twice", id)
		}
	}
	if _, err := r.Budget(); err != nil {
		l.at("size", "size: 150MB", "%v", err)
	}
}

func (l *linter) upstream() {
	ref, err := reference.ParseNormalizedNamed(l.r.Upstream)
	if err != nil {
		l.at("upstream", "registry.example/name:tag@sha256:…", "upstream %q: %v", l.r.Upstream, err)
		return
	}
	if _, ok := ref.(reference.Digested); !ok {
		l.at("upstream", "add @sha256:… of the image that was compared with this one", "upstream %q has no digest: what it names may change", l.r.Upstream).Warning = true
	}
}

func (l *linter) contexts() {
	for _, name := range sortedKeys(l.r.Contexts) {
		c := l.r.Contexts[name]
		field := key("contexts", name)
		if !namePattern.MatchString(name) {
			l.at(field, "small letters and digits, joined by - . or _", "%q is no name for a context", name)
		}
		if c.kinds() != 1 {
			l.at(field, "one of dir, recipe and debian", "context %q has %d sources instead of one", name, c.kinds())
			continue
		}
		switch {
		case c.Dir != "":
			l.folder(key("contexts", name, "dir"), c.Dir)
		case c.Recipe != "":
			if !l.hasRecipe(c.Recipe) {
				l.at(key("contexts", name, "recipe"), "recipes are the folders in "+filepath.Dir(l.r.Dir), "there is no recipe %q", c.Recipe)
			}
			if c.Recipe == l.r.Name {
				l.at(key("contexts", name, "recipe"), "", "the recipe needs itself")
			}
		default:
			l.debian(field, *c.Debian)
		}
	}
}

func (l *linter) folder(field, dir string) {
	if !filepath.IsLocal(dir) {
		l.at(field, "contexts are inside of the recipe's folder", "folder %q is outside of it", dir)
		return
	}
	if st, err := os.Stat(filepath.Join(l.r.Dir, dir)); err != nil || !st.IsDir() {
		l.at(field, "make it, or correct the name", "there is no folder %q", dir)
	}
}

func (l *linter) debian(field string, d Debian) {
	if !suitePattern.MatchString(d.Suite) {
		l.at(key(field, "debian", "suite"), "suite: trixie", "%q is no release of Debian", d.Suite)
	}
	if d.Variant != "" && !slices.Contains(variants, d.Variant) {
		l.at(key(field, "debian", "variant"), "one of "+strings.Join(variants, ", "), "mmdebstrap has no variant %q", d.Variant)
	}
	for i, p := range d.Packages {
		if !packagePattern.MatchString(p) {
			l.at(key(field, "debian", "packages", strconv.Itoa(i)), "", "%q is no package's name", p)
		}
	}
}

// hasRecipe looks for a recipe beside this one.
func (l *linter) hasRecipe(name string) bool {
	if !namePattern.MatchString(name) {
		return false
	}
	_, err := os.Stat(filepath.Join(filepath.Dir(l.r.Dir), name, FileName))
	return err == nil
}

func (l *linter) smoke() {
	if len(l.r.Smoke) == 0 {
		if !l.r.UpstreamOnly {
			l.at("smoke", "say how to tell that the image works: `sandbox image new NAME` shows one", "there is no smoke test")
		}
		return
	}
	for i, s := range l.r.Smoke {
		at := func(field, hint, format string, args ...any) {
			l.at(key("smoke", strconv.Itoa(i), field), hint, "smoke test %d: "+format, append([]any{i + 1}, args...)...)
		}
		if s.Name == "" {
			at("name", "name: answers requests", `the field "name" is missing`)
		}
		for field, expression := range map[string]string{"expect": s.Expect, "body": s.Body} {
			if _, err := regexp.Compile(expression); err != nil {
				at(field, "as in Go's package regexp", "%v", err)
			}
		}
		if s.Port < 0 || s.Port > 65535 {
			at("port", "", "%d is no port", s.Port)
		}
		if s.Path != "" {
			if u, err := url.Parse(s.Path); err != nil || !strings.HasPrefix(s.Path, "/") || u.Host != "" {
				at("path", "path: /healthz", "%q is no path", s.Path)
			}
		}
		if s.Port == 0 && (s.Path != "" || s.Status != 0 || s.Body != "") {
			at("path", "port: 8080", "there is no port to ask")
		}
		if s.Path == "" && (s.Status != 0 || s.Body != "") {
			at("body", "path: /", "there is no path to ask for")
		}
		if s.Port == 0 && s.Exec == nil && s.Expect == "" && s.ExitCode == 0 && len(s.Args) == 0 && len(s.Entrypoint) == 0 {
			at("name", "add args and expect, exec, or port and path", "it tests nothing")
		}
		if s.Exec != nil && s.ExitCode != 0 {
			at("exit_code", "exec must succeed; the container is stopped after it", "exit_code is for a container that ends by itself")
		}
		for _, e := range s.Env {
			if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
				at("env", "", "%q is not KEY=VALUE", e)
			}
		}
		for _, p := range append(sortedKeys(s.Files), s.Mounts...) {
			if !path.IsAbs(p) || path.Clean(p) == "/" {
				at("files", "", "%q is no absolute path in the container", p)
			}
		}
	}
}

// dockerfile checks the Dockerfile and, when the fields can be relied on, that
// it and the recipe.yaml agree.
func (l *linter) dockerfile(check CheckDockerfile, agree bool) error {
	b, err := readBounded(l.r.Dockerfile())
	if errors.Is(err, fs.ErrNotExist) {
		if !l.r.UpstreamOnly {
			l.add(1, "write one beside recipe.yaml, or set upstream_only", "there is no Dockerfile")
		}
		return nil
	}
	if err != nil {
		return err
	}
	if l.r.UpstreamOnly {
		l.at("upstream_only", "remove one of them", "the image is upstream's, but there is a Dockerfile")
	}
	if check != nil {
		problems, err := check(b)
		if err != nil {
			return err
		}
		for _, p := range problems {
			p.File = l.r.Dockerfile()
			l.problems = append(l.problems, p)
		}
	}
	if agree {
		l.agreement(scan(b, l.r.Args))
	}
	return nil
}

func (l *linter) agreement(u usage) {
	used := map[string]bool{}
	in := func(line int, hint, format string, args ...any) *Problem {
		p := l.add(line, hint, format, args...)
		p.File = l.r.Dockerfile()
		return p
	}
	for _, s := range u.sources {
		if _, ok := l.r.Contexts[s.name]; ok {
			used[s.name] = true
			continue
		}
		bare := strings.TrimSuffix(s.name, ":latest")
		if slices.Contains(builtin, bare) || l.hasRecipe(bare) {
			continue
		}
		if strings.Contains(s.name, "$") {
			continue // of an ARG that the build gets
		}
		ref, err := reference.ParseNormalizedNamed(s.name)
		if err != nil || !strings.ContainsAny(s.name, "/:@") {
			in(s.line, "contexts are declared in recipe.yaml", "%q is no stage, no context and no recipe", s.name)
		} else if _, ok := ref.(reference.Digested); !ok {
			in(s.line, "add @sha256:…", "image %q has no digest: what it names may change", s.name).Warning = true
		}
	}
	for _, name := range sortedKeys(l.r.Contexts) {
		if !used[name] {
			l.at(key("contexts", name), "remove it, or use it with --from="+name, "context %q is not used in the Dockerfile", name)
		}
	}
	for _, id := range sortedKeys(u.caches) {
		if !slices.Contains(l.r.Caches, id) {
			in(u.caches[id], "list it in recipe.yaml under caches", "the cache mount %q is not declared", id)
		}
	}
	for i, id := range l.r.Caches {
		if _, ok := u.caches[id]; !ok {
			l.at(key("caches", strconv.Itoa(i)), "remove it", "cache %q is not used in the Dockerfile", id).Warning = true
		}
	}
	for _, name := range sortedKeys(l.r.Args) {
		if _, ok := u.args[name]; !ok {
			l.at(key("args", name), "declare it in the Dockerfile: ARG "+name, "no ARG is called %q", name)
		}
	}
}
