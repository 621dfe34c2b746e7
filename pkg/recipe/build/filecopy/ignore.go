package filecopy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// ignoreName is the file that says what of a folder is not part of the build
// context.
const ignoreName = ".dockerignore"

// maxIgnore bounds such a file, in bytes.
const maxIgnore = 1 << 20

// Ignore says which files of a build context are not there for COPY and ADD.
type Ignore struct {
	name     string // the file that says so, for messages
	patterns []string
}

// ParseIgnore reads the format of .dockerignore.
func ParseIgnore(r io.Reader) (*Ignore, error) {
	patterns, err := ignorefile.ReadAll(io.LimitReader(r, maxIgnore))
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w: %w", ignoreName, err, errdefs.ErrInvalidArgument)
	}
	i := &Ignore{name: ignoreName, patterns: patterns}
	if _, err := newFilter(patterns); err != nil {
		return nil, fmt.Errorf("parse %s: %w", ignoreName, err)
	}
	return i, nil
}

// LoadIgnore reads what a context in dir ignores when it is built by a
// Dockerfile of that name, relative to dir: DOCKERFILE.dockerignore if there is
// one, else .dockerignore. It is nil when there is neither.
func LoadIgnore(dir, dockerfile string) (*Ignore, error) {
	r, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if dockerfile == "" {
		dockerfile = "Dockerfile"
	}
	for _, name := range []string{dockerfile + ignoreName, ignoreName} {
		data, err := readIgnore(r, name)
		if missing(err) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		i, err := ParseIgnore(strings.NewReader(string(data)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		i.name = name
		return i, nil
	}
	return nil, nil
}

// readIgnore: a Dockerfile may lie outside of the context.
func readIgnore(r root, name string) ([]byte, error) {
	if !filepath.IsAbs(name) {
		return r.readFile(name, maxIgnore)
	}
	outside, err := openRoot(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer outside.close()
	return outside.readFile(filepath.Base(name), maxIgnore)
}

// filter matches paths of one tree against patterns. It is not safe for
// concurrent use, since a matcher compiles its patterns when it needs them.
type filter struct {
	m *patternmatcher.PatternMatcher // nil: matches nothing
}

// matchState is what a directory's path has matched already.
type matchState = patternmatcher.MatchInfo

func newFilter(patterns []string) (filter, error) {
	if len(patterns) == 0 {
		return filter{}, nil
	}
	m, err := patternmatcher.New(patterns)
	if err == nil {
		// Some patterns are found to be bad only when they are used.
		_, err = m.MatchesOrParentMatches("x")
	}
	if err != nil {
		return filter{}, fmt.Errorf("patterns %q: %w: %w", patterns, err, errdefs.ErrInvalidArgument)
	}
	return filter{m}, nil
}

// match matches rel; in is the state of the directory that it is in.
func (f filter) match(rel string, in matchState) (bool, matchState, error) {
	if f.m == nil {
		return false, matchState{}, nil
	}
	ok, state, err := f.m.MatchesUsingParentResults(rel, in)
	if err != nil {
		return false, state, fmt.Errorf("match %s: %w: %w", rel, err, errdefs.ErrInvalidArgument)
	}
	return ok, state, nil
}

// matchPath is match for a path that no walk led to.
func (f filter) matchPath(rel string) (ok bool, state matchState, err error) {
	if rel == "." || f.m == nil {
		return false, state, nil // a pattern cannot take the root itself
	}
	for i := range len(rel) + 1 {
		if i < len(rel) && rel[i] != '/' {
			continue
		}
		if ok, state, err = f.match(rel[:i], state); err != nil {
			return false, state, err
		}
	}
	return ok, state, nil
}

// below reports whether patterns of this kind, exceptions ("!") or not, can
// match something in the directory rel. It may say yes when it is not so.
func (f filter) below(rel string, exceptions bool) bool {
	if f.m == nil {
		return false
	}
	dirs := strings.Split(rel, "/")
	for _, p := range f.m.Patterns() {
		if p.Exclusion() == exceptions && canLead(dirs, strings.Split(p.String(), "/")) {
			return true
		}
	}
	return false
}

func canLead(dirs, pattern []string) bool {
	for i, dir := range dirs {
		if i == len(pattern) {
			return true // it matches a directory above
		}
		part := pattern[i]
		if strings.Contains(part, "**") {
			return true
		}
		if !strings.ContainsAny(part, `*?[]\^`) && path.Clean(part) != dir {
			return false
		}
	}
	return true
}

// reason names the pattern that hides rel, for messages.
func (i *Ignore) reason(rel string) string {
	found := ""
	for _, p := range i.patterns {
		one, err := newFilter([]string{strings.TrimPrefix(p, "!")})
		if err != nil {
			continue
		}
		if ok, _, err := one.matchPath(rel); err == nil && ok {
			found = p
		}
	}
	return fmt.Sprintf("%s excludes it (%q)", i.name, found)
}
