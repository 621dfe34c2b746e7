package filecopy

import (
	"context"
	"fmt"
	"path"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxDepth bounds how deep directories nest: two file descriptors are open for
// each level.
const maxDepth = 500

// entry is one file of a walk. Its descriptors are open only during the call.
type entry struct {
	at   int    // the open directory that it is in; -1 for the top
	fd   int    // of a directory: open; else -1
	name string // in that directory
	rel  string // below the match; "" for the match itself
	from string // below the tree's root
	st   unix.Stat_t
	link string // of a symlink: where to
	// parent: the directory itself was not selected, only something in it.
	parent bool
}

// visitor is told what is to be copied, directories before what is in them, and in
// an order that only names determine.
type visitor interface {
	enter(*entry) error
	leave(*entry) error
	node(context.Context, *entry) error // anything but a directory
}

// walk visits what is selected of a match.
func (s *selector) walk(ctx context.Context, m match, v visitor) error {
	w := &walker{selector: s, visitor: v, include: m.include}
	if m.isDir() {
		fd, err := s.src.open(m.rel, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return fmt.Errorf("open %s: %w", m.rel, classify(err))
		}
		defer unix.Close(fd)
		e := &entry{at: -1, fd: fd, name: m.name, from: m.rel, st: m.st}
		return w.dir(ctx, &step{entry: e, taken: true, ignored: m.state})
	}
	at, err := s.src.open(path.Dir(m.rel), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open %s: %w", path.Dir(m.rel), classify(err))
	}
	defer unix.Close(at)
	return v.node(ctx, &entry{at: at, fd: -1, name: m.name, from: m.rel, st: m.st})
}

type walker struct {
	*selector
	visitor
	include filter
	// path are the directories from the top to where the walk is. The visitor
	// enters those that were not selected when something in them was.
	path []*step
}

// step is a directory on the way.
type step struct {
	*entry
	taken, entered     bool
	ignored            matchState
	included, excluded matchState
}

func (w *walker) dir(ctx context.Context, d *step) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if len(w.path) >= maxDepth {
		return fmt.Errorf("%s: directories nest deeper than %d: %w", d.from, maxDepth, errdefs.ErrInvalidArgument)
	}
	w.path = append(w.path, d)
	defer func() { w.path = w.path[:len(w.path)-1] }()
	if d.taken {
		if err := w.enterPath(); err != nil {
			return err
		}
	}
	list, err := names(d.fd)
	if err != nil {
		return fmt.Errorf("read %s: %w", d.from, err)
	}
	for _, name := range list {
		if err := w.child(ctx, d, name); err != nil {
			return err
		}
	}
	if d.entered {
		return w.leave(d.entry)
	}
	return nil
}

// enterPath tells the visitor of the directories that it does not know yet.
func (w *walker) enterPath() error {
	for _, d := range w.path {
		if d.entered {
			continue
		}
		d.entered = true
		if err := w.enter(d.entry); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) child(ctx context.Context, d *step, name string) error {
	e := &entry{at: d.fd, fd: -1, name: name, rel: path.Join(d.rel, name), from: path.Join(d.from, name)}
	c := &step{entry: e, taken: true}
	hidden, state, err := w.ignore.match(e.from, d.ignored)
	if err != nil {
		return err
	}
	c.ignored = state
	if hidden {
		if !w.ignore.below(e.from, true) {
			return nil
		}
		c.taken = false
	}
	deeper, err := w.filter(d, c)
	if err != nil || !c.taken && !deeper {
		return err
	}
	if err := unix.Fstatat(d.fd, name, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat %s: %w", e.from, classify(err))
	}
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return w.open(ctx, c)
	case unix.S_IFSOCK:
		return nil // see isSocket
	case unix.S_IFLNK:
		if e.link, err = readlinkat(d.fd, name); err != nil {
			return fmt.Errorf("read link %s: %w", e.from, classify(err))
		}
	}
	if !c.taken {
		return nil
	}
	if err := w.enterPath(); err != nil {
		return err
	}
	return w.node(ctx, e)
}

// filter applies --parents and --exclude to what the ignore file has left; deeper
// says that a directory may hold something although it is not taken itself.
func (w *walker) filter(d, c *step) (deeper bool, err error) {
	in := true
	var out bool
	if w.include.m != nil {
		if in, c.included, err = w.include.match(c.rel, d.included); err != nil {
			return false, err
		}
	}
	if out, c.excluded, err = w.exclude.match(c.rel, d.excluded); err != nil {
		return false, err
	}
	if in && !out {
		return true, nil
	}
	c.taken, c.parent = false, true
	return (!out || w.exclude.below(c.rel, true)) && (in || w.include.below(c.rel, false)), nil
}

func (w *walker) open(ctx context.Context, c *step) error {
	fd, err := unix.Openat(c.at, c.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", c.from, classify(err))
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &c.st); err != nil {
		return fmt.Errorf("stat %s: %w", c.from, err)
	}
	c.fd = fd
	return w.dir(ctx, c)
}
