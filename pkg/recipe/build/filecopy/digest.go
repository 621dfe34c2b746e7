package filecopy

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// digestVersion changes when the same files get another digest.
const digestVersion = "filecopy 1"

// Digest is of all that Copy with these patterns and options would take: names,
// content, kinds, modes, owners if they are kept, targets of symlinks, which files
// are the same one, xattrs. It does not depend on times, on inode numbers or
// on the order that the file system lists names in. The options themselves, and
// the destination, are not in it, but for what they make of the files.
func (t Tree) Digest(ctx context.Context, patterns []string, opts Options) (digest.Digest, error) {
	d, err := t.digest(ctx, patterns, opts)
	if err != nil {
		return "", fmt.Errorf("digest of source files: %w", err)
	}
	return d, nil
}

func (t Tree) digest(ctx context.Context, patterns []string, opts Options) (digest.Digest, error) {
	src, err := openRoot(t.Root)
	if err != nil {
		return "", err
	}
	defer src.close()
	mode, err := parseMode(opts.Chmod)
	if err != nil {
		return "", err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	d := &digester{
		group: group, cache: t.Cache, mode: mode,
		owners: opts.KeepOwner && opts.Chown == "", links: map[inode]int{},
	}
	err = func() error {
		sel, err := newSelector(src, t.Ignore, opts)
		if err != nil {
			return err
		}
		matches, err := sel.all(ctx, patterns)
		if err != nil {
			return err
		}
		for _, m := range matches {
			clear(d.links) // see writer.match
			if err := sel.walk(ctx, m, d); err != nil {
				return fmt.Errorf("%s: %w", m, err)
			}
		}
		return nil
	}()
	// What a reader says is the cause of what the walk says.
	if gerr := group.Wait(); gerr != nil {
		err = gerr
	}
	if err != nil {
		return "", err
	}
	h := sha256.New()
	out := bufio.NewWriterSize(h, 32<<10)
	writeField(out, digestVersion)
	for i := range d.records {
		d.records[i].writeTo(out)
	}
	for _, f := range opts.Files {
		writeField(out, "file", path.Base(path.Join("/", f.Name)), string(f.Content))
	}
	if err := out.Flush(); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// digester notes what a walk visits, while others read the files.
type digester struct {
	group   *errgroup.Group
	cache   *Cache
	mode    mode
	owners  bool
	links   map[inode]int // the record that a file with several names is in
	records []*record
}

// record is one file of the digest.
type record struct {
	kind, name, link string
	mode             uint32
	own              ids
	file             fileSum // set by the time that the group has ended
}

func (r *record) writeTo(w io.Writer) {
	writeField(w, r.kind, r.name, r.link, r.file.attrs, string(r.file.sum[:]))
	var n [12]byte
	binary.LittleEndian.PutUint32(n[0:], r.mode)
	binary.LittleEndian.PutUint32(n[4:], uint32(r.own.uid))
	binary.LittleEndian.PutUint32(n[8:], uint32(r.own.gid))
	_, _ = w.Write(n[:])
}

// writeField writes strings such that no others give the same bytes. A hash
// does not fail.
func writeField(w io.Writer, fields ...string) {
	for _, f := range fields {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(f)))
		_, _ = w.Write(n[:])
		_, _ = io.WriteString(w, f)
	}
}

func (d *digester) add(kind string, e *entry) *record {
	r := &record{kind: kind, name: e.name, link: e.link}
	if kind != "link" && kind != "symlink" {
		r.mode = d.mode.apply(e.st.Mode)
	}
	if d.owners {
		r.own = ids{int(e.st.Uid), int(e.st.Gid)}
	}
	d.records = append(d.records, r)
	return r
}

func (d *digester) enter(e *entry) error {
	if e.rel == "" {
		// Of the source itself only the content is copied.
		d.records = append(d.records, &record{kind: "content"})
		return nil
	}
	kind := "directory"
	if e.parent {
		kind = "parent"
	}
	attrs, err := xattrs(e.fd)
	if err != nil {
		return wrap(e, err)
	}
	d.add(kind, e).file.attrs = encode(attrs)
	return nil
}

func (d *digester) leave(*entry) error {
	d.records = append(d.records, &record{kind: "end"})
	return nil
}

func (d *digester) node(ctx context.Context, e *entry) error {
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return wrap(e, d.regular(ctx, e))
	case unix.S_IFLNK:
		d.add("symlink", e)
	case unix.S_IFIFO:
		d.add("fifo", e)
	default:
		return wrap(e, deviceError(&e.st))
	}
	return nil
}

func (d *digester) regular(ctx context.Context, e *entry) error {
	if e.st.Nlink > 1 && e.rel != "" {
		id := inode{e.st.Dev, e.st.Ino}
		if first, ok := d.links[id]; ok {
			d.add("link", e).link = fmt.Sprint(first)
			return nil
		}
		d.links[id] = len(d.records)
	}
	r := d.add("regular", e)
	if sum, ok := d.cache.get(&e.st); ok {
		r.file = sum
		return nil
	}
	fd, err := openRegular(e)
	if err != nil {
		return err
	}
	from := e.from
	d.group.Go(func() error {
		defer unix.Close(fd)
		var err error
		if r.file, err = d.read(ctx, fd); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		return nil
	})
	return nil
}

// read digests an open file, and remembers that if the file stayed as it was.
func (d *digester) read(ctx context.Context, fd int) (fileSum, error) {
	var before, after unix.Stat_t
	if err := unix.Fstat(fd, &before); err != nil {
		return fileSum{}, err
	}
	attrs, err := xattrs(fd)
	if err != nil {
		return fileSum{}, err
	}
	sum := fileSum{attrs: encode(attrs)}
	h := sha256.New()
	if err := hashContent(ctx, h, fd, before.Size); err != nil {
		return fileSum{}, err
	}
	h.Sum(sum.sum[:0])
	if err := unix.Fstat(fd, &after); err != nil {
		return fileSum{}, err
	}
	if keyOf(&before) == keyOf(&after) {
		d.cache.put(&before, sum)
	}
	return sum, nil
}

func hashContent(ctx context.Context, h hash.Hash, fd int, size int64) error {
	buf := make([]byte, min(max(size+1, 512), 256<<10))
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			return nil
		}
		h.Write(buf[:n])
	}
}

func encode(attrs []xattr) string {
	if len(attrs) == 0 {
		return ""
	}
	var b []byte
	for _, a := range attrs {
		b = fmt.Appendf(b, "%q=%q;", a.name, a.value)
	}
	return string(b)
}

func deviceError(st *unix.Stat_t) error {
	return fmt.Errorf("device node %d:%d: images may not bring devices, a container gets its own /dev: %w",
		unix.Major(st.Rdev), unix.Minor(st.Rdev), errdefs.ErrInvalidArgument)
}

// openRegular opens a file of a walk, and looks at it again.
func openRegular(e *entry) (int, error) {
	// Not blocking: it may have become a FIFO.
	fd, err := unix.Openat(e.at, path.Base(e.from), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open: %w", classify(err))
	}
	err = unix.Fstat(fd, &e.st)
	if err == nil && e.st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = fmt.Errorf("it was replaced while it was read: %w", errdefs.ErrAborted)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
