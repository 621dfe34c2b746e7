// Package filecopy puts files into a root file system as the instructions COPY
// and ADD of a Dockerfile do, and digests what they would take.
//
// Both sides are hostile: a build context comes from anywhere, and a root file
// system was written by whatever ran in it. No path is given to the kernel
// whole but to openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS;
// symlinks are followed here, within the root, before.
package filecopy

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Tree is a folder that files are taken from: a build context, or a mounted
// view of layers.
type Tree struct {
	Root   string
	Ignore *Ignore // what of it is not there, for COPY; nil: nothing
	Cache  *Cache  // remembers digests of files between calls; may be nil
}

// Options are the flags of COPY and ADD.
type Options struct {
	// Chown is "user[:group]". Names are those of the destination's
	// /etc/passwd and /etc/group.
	Chown string
	// Chmod is octal, or symbolic as chmod(1) takes it.
	Chmod     string
	Extract   bool // ADD: unpack local tars, compressed or not
	KeepOwner bool // COPY --from keeps owners; what comes from a context is root's
	Dir       bool // the destination ends in a slash, or there are several sources
	Parents   bool // --parents: keep the path of each source, or what follows "/./" in it
	Exclude   []string
	// Epoch is the latest mtime that what is copied gets; zero: no limit.
	Epoch time.Time
	Files []File // written after what patterns select
}

// File is a here-document: its name as the Dockerfile gives it.
type File struct {
	Name    string
	Content []byte
}

// Copy puts what patterns select at dest, an absolute path within toRoot. The
// semantics are those of BuildKit:
//
//   - Patterns are paths below the tree's root, with filepath.Match's wildcards
//     in each component. A wildcard may select nothing; a plain path must exist.
//   - Symlinks in a source's path, the last one too, are followed within the
//     tree; symlinks in a directory are copied.
//   - Of a directory the content is copied. It is merged into what is there: files
//     and symlinks are replaced, directories get the source's metadata. A
//     directory does not replace anything else, nor does a file a directory.
//   - Missing parents are made, root's or Chown's, with an octal Chmod's mode, or
//     0755.
//
// Unlike BuildKit it refuses a wildcard that selects several files for a
// destination which is no directory (of these only the last would be left), a
// name for Chown that the destination does not have, device nodes and sockets. In
// directories it leaves sockets out, where BuildKit has empty files. And --exclude
// is also for files that a wildcard selects, as BuildKit's reference has it, not
// only for those in directories.
//
// What was copied before an error, or the end of ctx, stays.
func Copy(ctx context.Context, from Tree, patterns []string, toRoot, dest string, opts Options) error {
	if err := copyAll(ctx, from, patterns, toRoot, dest, opts); err != nil {
		return fmt.Errorf("copy to %s: %w", dest, err)
	}
	return nil
}

func copyAll(ctx context.Context, from Tree, patterns []string, toRoot, dest string, opts Options) error {
	src, err := openRoot(from.Root)
	if err != nil {
		return err
	}
	defer src.close()
	dst, err := openRoot(toRoot)
	if err != nil {
		return err
	}
	defer dst.close()

	sel, err := newSelector(src, from.Ignore, opts)
	if err != nil {
		return err
	}
	matches, err := sel.all(ctx, patterns)
	if err != nil {
		return err
	}
	w := &writer{opts: opts, src: src, dst: dst}
	if w.mode, err = parseMode(opts.Chmod); err != nil {
		return err
	}
	if w.owner, err = dst.lookupOwner(opts.Chown); err != nil {
		return err
	}
	to := destination{path: path.Join("/", dest), dir: opts.Dir || strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")}
	if err := w.single(to, matches); err != nil {
		return err
	}
	for _, m := range matches {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := w.match(ctx, sel, m, to); err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	for _, f := range opts.Files {
		if err := w.file(f, to); err != nil {
			return fmt.Errorf("here-document %s: %w", f.Name, err)
		}
	}
	return w.settle()
}

// destination is where an instruction copies to.
type destination struct {
	path string // absolute and clean, below the destination's root
	dir  bool   // it is to be a directory, whatever is copied
}

// single refuses several sources for one file.
func (w *writer) single(to destination, matches []match) error {
	files := len(w.opts.Files)
	for _, m := range matches {
		if !m.isDir() {
			files++
		}
	}
	if to.dir || files < 2 {
		return nil
	}
	if w.opts.Extract { // what is unpacked makes a directory of the destination
		for _, m := range matches {
			f, err := w.archive(m)
			if err != nil {
				return fmt.Errorf("%s: %w", m, err)
			}
			if f != nil {
				f.Close()
				files--
			}
		}
		if files < 2 {
			return nil
		}
	}
	rel, err := w.dst.resolve(to.path, nil)
	if err != nil {
		return err
	}
	st, err := w.dst.lstat(rel)
	if err == nil && isDir(st) {
		return nil
	}
	if err != nil && !missing(err) {
		return err
	}
	return fmt.Errorf("%d files match, and %s is no directory: end it with a slash: %w", files, to.path, errdefs.ErrInvalidArgument)
}

func isDir(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }
