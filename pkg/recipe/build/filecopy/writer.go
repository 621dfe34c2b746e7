package filecopy

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// writer writes into the destination's root. As a visitor it writes one match.
type writer struct {
	opts  Options
	src   root
	dst   root
	owner *ids // nil: see Options.KeepOwner
	mode  mode
	data  copier
	group *errgroup.Group // copies content

	made []string // parents that no source describes
	// Of the match that is written: its destination directory, what of the
	// tree is open, and where a file with several names is.
	top   int
	stack []target
	links map[inode]string
}

// target is an open directory of the destination.
type target struct {
	fd   int
	made bool
}

type inode struct{ dev, ino uint64 }

type ids struct{ uid, gid int }

// match copies one match to its place.
func (w *writer) match(ctx context.Context, sel *selector, m match, to destination) (err error) {
	if w.opts.Extract && !m.isDir() {
		if done, err := w.extract(ctx, m, to); done || err != nil {
			return err
		}
	}
	w.links = map[inode]string{}
	// Files are made in order; what goes into them is copied in parallel.
	var group *errgroup.Group
	group, ctx = errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	w.group = group
	defer func() {
		// What a copier says is the cause of what the walk says.
		if gerr := group.Wait(); gerr != nil {
			err = gerr
		}
	}()
	if !m.isDir() {
		at, name, err := w.place(to, m.name)
		if err != nil {
			return err
		}
		defer unix.Close(at)
		w.stack = []target{{fd: at}}
		return sel.walk(ctx, m, &renamed{w, name})
	}
	rel, err := w.mkdirAll(to.path, w.madeMode())
	if err != nil {
		return err
	}
	if w.top, err = w.dst.open(rel, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		return fmt.Errorf("open %s: %w", rel, classify(err))
	}
	defer unix.Close(w.top)
	w.stack = nil
	return sel.walk(ctx, m, w)
}

// renamed writes a single file under another name than the one it has.
type renamed struct {
	*writer
	name string
}

func (r *renamed) node(ctx context.Context, e *entry) error { return r.write(ctx, e, r.name) }

// place makes and opens the directory that a file called name goes to, and says
// what it is called there: a destination that is a directory gets the file in
// it, anything else is the file.
func (w *writer) place(to destination, name string) (at int, base string, err error) {
	var rel string
	if to.dir {
		if rel, err = w.mkdirAll(to.path, w.madeMode()); err != nil {
			return -1, "", err
		}
	} else {
		if _, err = w.mkdirAll(path.Dir(to.path), w.madeMode()); err != nil {
			return -1, "", err
		}
		if rel, err = w.dst.resolve(to.path, nil); err != nil {
			return -1, "", err
		}
		st, err := w.dst.lstat(rel)
		if err != nil && !missing(err) {
			return -1, "", fmt.Errorf("stat %s: %w", rel, classify(err))
		}
		if err != nil || !isDir(st) {
			// A symlink to what is not there may name yet other directories.
			if rel, name = path.Dir(rel), path.Base(rel); err != nil {
				if rel, err = w.mkdirAll(rel, w.madeMode()); err != nil {
					return -1, "", err
				}
			}
		}
	}
	if at, err = w.dst.open(rel, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		return -1, "", fmt.Errorf("open %s: %w", rel, classify(err))
	}
	return at, name, nil
}

// madeMode is that of directories which no source describes. As in BuildKit an
// octal --chmod is for them too, a symbolic one is not, nor are special bits.
func (w *writer) madeMode() uint32 {
	if w.mode.octal {
		return w.mode.bits & 0o777
	}
	return 0o755
}

// mkdirAll makes a directory with its parents and returns its path without symlinks.
func (w *writer) mkdirAll(name string, mode uint32) (string, error) {
	rel, err := w.dst.resolve(name, nil)
	if err != nil {
		return "", err
	}
	fd, err := w.dst.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return "", err
	}
	defer func() { unix.Close(fd) }()
	done := ""
	for _, part := range strings.Split(rel, "/") {
		done = path.Join(done, part)
		next, err := openDir(fd, part)
		if errors.Is(err, unix.ENOENT) {
			if next, err = w.mkdir(fd, part, mode); err == nil {
				w.made = append(w.made, done)
			}
		}
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return "", fmt.Errorf("/%s is there, and is no directory: %w", done, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return "", fmt.Errorf("make directory /%s: %w", done, err)
		}
		unix.Close(fd)
		fd = next
	}
	return rel, nil
}

func (w *writer) mkdir(at int, name string, mode uint32) (int, error) {
	if err := unix.Mkdirat(at, name, 0o700); err != nil {
		return -1, err
	}
	fd, err := openDir(at, name)
	if err != nil {
		return -1, err
	}
	if w.owner != nil {
		err = unix.Fchown(fd, w.owner.uid, w.owner.gid)
	}
	if err == nil {
		err = unix.Fchmod(fd, mode) // past the umask
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func openDir(at int, name string) (int, error) {
	return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// settle gives the parents that were made their mtime: it is not that of a
// source, and files were put into them since.
func (w *writer) settle() error {
	if w.opts.Epoch.IsZero() || time.Now().Before(w.opts.Epoch) {
		return nil
	}
	for _, rel := range slices.Backward(w.made) {
		at, err := w.dst.open(path.Dir(rel), unix.O_RDONLY|unix.O_DIRECTORY)
		if err == nil {
			err = setTime(at, path.Base(rel), unix.Timespec{Sec: w.opts.Epoch.Unix(), Nsec: int64(w.opts.Epoch.Nanosecond())})
			unix.Close(at)
		}
		if err != nil {
			return fmt.Errorf("/%s: %w", rel, classify(err))
		}
	}
	return nil
}

func (w *writer) enter(e *entry) error {
	if sameFile(e.st, w.dst.st) {
		return fmt.Errorf("%s is the root file system that is copied to: %w", e.from, errdefs.ErrInvalidArgument)
	}
	if e.rel == "" {
		w.stack = append(w.stack, target{fd: w.top})
		return nil
	}
	at := w.stack[len(w.stack)-1].fd
	err := unix.Mkdirat(at, e.name, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make directory %s: %w", e.rel, classify(err))
	}
	made := err == nil
	fd, err := openDir(at, e.name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("cannot copy directory %s over what is no directory: %w", e.rel, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("open directory %s: %w", e.rel, err)
	}
	w.stack = append(w.stack, target{fd, made})
	return nil
}

func sameFile(a, b unix.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

func (w *writer) leave(e *entry) error {
	t := w.stack[len(w.stack)-1]
	w.stack = w.stack[:len(w.stack)-1]
	if e.rel == "" {
		// Metadata stay as they are, but the time is the source's, as in BuildKit.
		return wrap(e, w.time(t.fd, "", &e.st))
	}
	defer unix.Close(t.fd)
	if e.parent && !t.made {
		return wrap(e, unix.Fchmod(t.fd, e.st.Mode&0o7777))
	}
	err := w.metadata(t.fd, e.fd, &e.st)
	if err == nil {
		err = w.time(t.fd, "", &e.st)
	}
	return wrap(e, err)
}

func wrap(e *entry, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", e.from, err)
	}
	return nil
}

func (w *writer) node(ctx context.Context, e *entry) error { return w.write(ctx, e, e.name) }

// write makes a file in the innermost directory.
func (w *writer) write(ctx context.Context, e *entry, name string) error {
	at := w.stack[len(w.stack)-1].fd
	var err error
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = w.regular(ctx, at, name, e)
	case unix.S_IFLNK:
		err = w.replace(at, name, func() error { return unix.Symlinkat(e.link, at, name) })
		if err == nil {
			err = w.nodeMetadata(at, name, e)
		}
	case unix.S_IFIFO:
		err = w.replace(at, name, func() error { return unix.Mknodat(at, name, unix.S_IFIFO|0o600, 0) })
		if err == nil {
			err = w.nodeMetadata(at, name, e)
		}
	default:
		err = deviceError(&e.st)
	}
	return wrap(e, err)
}

// replace makes a node by create, in the place of any other that is no directory.
func (w *writer) replace(at int, name string, create func() error) error {
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	err = unix.Unlinkat(at, name, 0)
	if errors.Is(err, unix.EISDIR) {
		return fmt.Errorf("cannot copy a file over directory %s: %w", name, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return create()
}

func (w *writer) regular(ctx context.Context, at int, name string, e *entry) error {
	if e.st.Nlink > 1 && e.rel != "" {
		id := inode{e.st.Dev, e.st.Ino}
		if first, ok := w.links[id]; ok {
			return w.link(first, at, name)
		}
		w.links[id] = e.rel
	}
	from, err := openRegular(e)
	if err != nil {
		return err
	}
	to, err := w.create(at, name)
	if err != nil {
		unix.Close(from)
		return err
	}
	w.group.Go(func() error {
		defer unix.Close(from)
		return wrap(e, w.fill(ctx, to, from, &e.st))
	})
	return nil
}

// create makes a file, and opens it to be written.
func (w *writer) create(at int, name string) (fd int, err error) {
	err = w.replace(at, name, func() (err error) {
		fd, err = unix.Openat(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	return fd, err
}

// fill gives a new file all but its name, and closes it.
func (w *writer) fill(ctx context.Context, to, from int, st *unix.Stat_t) error {
	err := w.data.copy(ctx, to, from, st.Size)
	if err == nil {
		err = w.metadata(to, from, st)
	}
	if err == nil {
		err = w.time(to, "", st)
	}
	// close(2) reports the errors of delayed writes on some file systems.
	if cerr := unix.Close(to); err == nil {
		err = cerr
	}
	return err
}

// link gives a file that was copied already its next name.
func (w *writer) link(first string, at int, name string) error {
	from, err := openBeneath(w.top, path.Dir(first), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", first, classify(err))
	}
	defer unix.Close(from)
	err = w.replace(at, name, func() error { return unix.Linkat(from, path.Base(first), at, name, 0) })
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", first, err)
	}
	return nil
}

// file writes a here-document.
func (w *writer) file(f File, to destination) error {
	name := path.Base(path.Join("/", f.Name))
	at, name, err := w.place(to, name)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	fd, err := w.create(at, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := writeAll(fd, f.Content); err != nil {
		return err
	}
	st := unix.Stat_t{Mode: unix.S_IFREG | 0o644, Mtim: unix.NsecToTimespec(time.Now().UnixNano())}
	if err := w.chmodown(fd, &st); err != nil {
		return err
	}
	return w.time(fd, "", &st)
}
