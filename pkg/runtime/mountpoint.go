package runtime

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// resolve appends the opening of a path of the container, O_PATH, in the root
// file system. Where it can't be opened the script goes on at missing.
func (b *builder) resolve(p string, missing script.Label) script.Var {
	fd := b.NewVar(0)
	b.resolveTo(fd, p, 0, missing)
	return fd
}

// resolveTo is resolve into a variable that exists, with more RESOLVE_ flags.
func (b *builder) resolveTo(fd script.Var, p string, resolve uint64, missing script.Label) {
	how := b.Words(unix.O_PATH|unix.O_CLOEXEC, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS|resolve)
	b.Do(script.Op{
		Nr: unix.SYS_OPENAT2, Args: []script.Arg{b.root, b.String(p), how, script.Int(24)}, Out: fd, Err: missing,
		Event: explain.Event{Op: "open", Target: p}, Plumbing: true,
	})
}

// mountpoint appends the opening of a path of the container, after making what
// is missing of it: folders, and at the end a folder or an empty file.
func (b *builder) mountpoint(p string, dir bool) script.Var {
	return b.mountpointBy(p, dir, 0)
}

// mountpointBy is mountpoint with more RESOLVE_ flags.
func (b *builder) mountpointBy(p string, dir bool, resolve uint64) script.Var {
	p = path.Clean("/" + p)
	there, missing := b.NewLabel(), b.NewLabel()
	fd := b.NewVar(0)
	b.resolveTo(fd, p, resolve, missing)
	b.Op(b.Len() - 1).OK = there
	b.Place(missing)
	parent, parts := b.root, strings.Split(p[1:], "/")
	for i, part := range parts {
		prefix := "/" + strings.Join(parts[:i+1], "/")
		last := i == len(parts)-1
		if last && !dir {
			b.makeFile(parent, part, prefix)
		} else {
			b.Do(script.Op{
				Nr: unix.SYS_MKDIRAT, Args: []script.Arg{parent, b.String(part), script.Int(0o755)}, Accept: unix.EEXIST,
				Event: explain.Event{Op: "make mount point", Target: prefix}, Plumbing: true,
			})
		}
		// Opened by its whole path, from the root: if part is a symlink,
		// it is followed as the container would.
		next := fd
		if !last {
			next = b.NewVar(0)
		}
		b.resolveTo(next, prefix, resolve, 0)
		if i > 0 {
			b.closeFD(parent)
		}
		parent = next.Get()
	}
	b.Place(there)
	return fd
}

func (b *builder) makeFile(dir script.Arg, name, target string) {
	fd := b.NewVar(0)
	b.Do(script.Op{
		Nr:   unix.SYS_OPENAT,
		Args: []script.Arg{dir, b.String(name), script.Int(unix.O_CREAT | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK), script.Int(0o644)},
		Out:  fd, Event: explain.Event{Op: "make mount point", Target: target}, Plumbing: true,
	})
	b.closeFD(fd.Get())
}
