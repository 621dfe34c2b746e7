package filecopy

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// match is one file or directory that a pattern selects.
type match struct {
	pattern string
	name    string // what it is called in a destination directory
	rel     string // below the root; no symlink is in it
	st      unix.Stat_t
	state   matchState // of rel against the ignore file
	// include limits what is taken of a directory, and keeps its path; see Options.Parents.
	include filter
}

func (m match) isDir() bool { return isDir(m.st) }

func (m match) String() string {
	if m.rel == "." || m.pattern == m.rel {
		return m.pattern
	}
	return m.pattern + " (" + m.rel + ")"
}

// selector finds what patterns select in a tree.
type selector struct {
	src     root
	why     *Ignore // nil: nothing is ignored
	ignore  filter
	exclude filter
	parents bool
}

func newSelector(src root, ignore *Ignore, opts Options) (*selector, error) {
	s := &selector{src: src, why: ignore, parents: opts.Parents}
	var err error
	if ignore != nil {
		if s.ignore, err = newFilter(ignore.patterns); err != nil {
			return nil, err
		}
	}
	if s.exclude, err = newFilter(opts.Exclude); err != nil {
		return nil, fmt.Errorf("exclude: %w", err)
	}
	return s, nil
}

// all returns what the patterns select, in their order.
func (s *selector) all(ctx context.Context, patterns []string) (all []match, err error) {
	for _, p := range patterns {
		var found []match
		if s.parents {
			found, err = s.withParents(ctx, p)
		} else {
			found, err = s.glob(ctx, p)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// glob finds what one pattern selects. As in BuildKit, symlinks in the part
// without wildcards are followed, and so is the last component, but none that
// a wildcard matches on the way.
func (s *selector) glob(ctx context.Context, pattern string) ([]match, error) {
	plain, wild := splitWildcards(path.Join("/", pattern))
	if len(wild) == 0 {
		m, err := s.find(ctx, pattern, plain)
		if err == nil && isSocket(m.st) {
			err = socketError(pattern)
		}
		if err != nil {
			return nil, err
		}
		return []match{m}, nil
	}
	if _, err := path.Match(strings.Join(wild, "/"), ""); err != nil {
		return nil, fmt.Errorf("pattern %q: %w: %w", pattern, err, errdefs.ErrInvalidArgument)
	}
	base, err := s.find(ctx, pattern, plain)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []match
	err = s.expand(ctx, base.rel, wild, func(rel string) error {
		m, err := s.find(ctx, pattern, rel)
		if err != nil || isSocket(m.st) {
			return err
		}
		if !m.isDir() {
			below := strings.TrimPrefix(rel, strings.TrimPrefix(base.rel+"/", "./"))
			if out, _, err := s.exclude.matchPath(below); err != nil || out {
				return err
			}
		}
		found = append(found, m)
		return nil
	})
	return found, err
}

// expand calls yield with every path below dir that the components match.
func (s *selector) expand(ctx context.Context, dir string, wild []string, yield func(rel string) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	fd, err := s.src.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if missing(err) {
		return nil // a file, in the middle of the pattern
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, classify(err))
	}
	list, err := names(fd)
	unix.Close(fd)
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	for _, name := range list {
		if ok, _ := path.Match(wild[0], name); !ok { // it is well-formed
			continue
		}
		rel := path.Join(dir, name)
		if len(wild) > 1 {
			err = s.expand(ctx, rel, wild[1:], yield)
		} else if ok, serr := s.visible(ctx, rel); serr != nil || ok {
			if err = serr; err == nil {
				err = yield(rel)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// find returns what a path without wildcards leads to.
func (s *selector) find(ctx context.Context, pattern, name string) (match, error) {
	m := match{pattern: pattern, name: path.Base(name)}
	var err error
	if m.rel, err = s.src.resolve(name, func(rel string) (bool, error) { return s.visible(ctx, rel) }); err != nil {
		return m, err
	}
	if m.st, err = s.src.lstat(m.rel); missing(err) {
		return m, fmt.Errorf("no source file %q: it does not exist: %w", pattern, errdefs.ErrNotFound)
	} else if err != nil {
		return m, fmt.Errorf("stat %s: %w", m.rel, classify(err))
	}
	if ok, err := s.visible(ctx, m.rel); err != nil {
		return m, err
	} else if !ok {
		return m, fmt.Errorf("no source file %q: %s: %w", pattern, s.why.reason(m.rel), errdefs.ErrNotFound)
	}
	_, m.state, err = s.ignore.matchPath(m.rel)
	return m, err
}

// visible reports whether the ignore file leaves rel in the tree: a directory
// that it excludes is there all the same when an exception is in it.
func (s *selector) visible(ctx context.Context, rel string) (bool, error) {
	hidden, state, err := s.ignore.matchPath(rel)
	if err != nil || !hidden {
		return err == nil, err
	}
	if !s.ignore.below(rel, true) {
		return false, nil
	}
	st, err := s.src.lstat(rel)
	if err != nil || !isDir(st) {
		return false, nil //nolint:nilerr // what cannot be looked at is not there
	}
	found := false
	err = s.walk(ctx, match{pattern: rel, rel: rel, st: st, state: state}, &finder{&found})
	if found {
		err = nil
	}
	return found, err
}

// finder ends a walk at the first thing that is there.
type finder struct{ found *bool }

var errFound = errors.New("found")

func (f *finder) node(context.Context, *entry) error {
	*f.found = true
	return errFound
}

func (f *finder) enter(e *entry) error {
	if e.rel == "" {
		return nil
	}
	*f.found = true
	return errFound
}

func (f *finder) leave(*entry) error { return nil }

// withParents selects for --parents: the directory before "/./", or the root, of
// which only what the rest of the pattern matches is taken.
func (s *selector) withParents(ctx context.Context, pattern string) ([]match, error) {
	base, keep, pivot := strings.Cut(pattern, "/./")
	if !pivot {
		base, keep = "/", pattern
	}
	keep = strings.TrimPrefix(path.Join("/", keep), "/")
	found, err := s.glob(ctx, base)
	if err != nil || keep == "" {
		return found, err
	}
	include, err := newFilter([]string{keep})
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	// Only what has no wildcard must be there.
	if !wildcards(base) && !wildcards(keep) {
		if err := s.require(ctx, pattern, found[0], keep); err != nil {
			return nil, err
		}
	}
	for i := range found {
		found[i].pattern, found[i].include = pattern, include
	}
	return found, nil
}

// require fails when a plain path below a directory is not there. A symlink
// on the way is not followed: its path could not be kept.
func (s *selector) require(ctx context.Context, pattern string, in match, keep string) error {
	rel := path.Join(in.rel, keep)
	st, err := s.src.lstat(rel)
	if err == nil && isSocket(st) {
		return socketError(pattern)
	}
	if missing(err) {
		return fmt.Errorf("no source file %q: it does not exist: %w", pattern, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("stat %s: a symlink is on the way: %w: %w", rel, err, errdefs.ErrInvalidArgument)
	}
	ok, err := s.visible(ctx, rel)
	if err == nil && !ok {
		err = fmt.Errorf("no source file %q: %s: %w", pattern, s.why.reason(rel), errdefs.ErrNotFound)
	}
	return err
}

// Sockets are left out of directories: nothing that was listening is in an image.
func isSocket(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFSOCK }

func socketError(pattern string) error {
	return fmt.Errorf("source %q is a socket, which no image can have: %w", pattern, errdefs.ErrInvalidArgument)
}

// splitWildcards splits a clean absolute path before the first component that
// has a wildcard.
func splitWildcards(p string) (plain string, wild []string) {
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if wildcards(part) {
			return path.Join("/", path.Join(parts[:i]...)), parts[i:]
		}
	}
	return p, nil
}

func wildcards(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}
