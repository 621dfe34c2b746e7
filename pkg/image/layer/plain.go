package layer

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// PlainOptions are the choices of ExtractPlain.
type PlainOptions struct {
	Limits Limits
	Owner  *[2]int   // UID and GID of all that is made; nil: as the tar says
	Epoch  time.Time // no mtime is later; zero: no limit
}

// ExtractPlain unpacks a tar that is no layer into an open directory that may
// have something in it. Entries replace what is there, directories with all
// that is in them when the entry is none; names that start with ".wh." are
// names like others; the root's own entry is passed over; and a symlink is
// followed as if dir were the root of the file system.
func ExtractPlain(r io.Reader, dir *os.File, opts PlainOptions) error {
	root, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("duplicate %s: %w", dir.Name(), err)
	}
	x := &extractor{
		root: root, limits: opts.Limits, buf: make([]byte, CopyBuffer),
		parent: -1, plain: true, epoch: opts.Epoch,
	}
	defer x.close()
	if opts.Owner != nil {
		x.own = &ids{opts.Owner[0], opts.Owner[1]}
	}
	return x.extract(r)
}

// removeTree deletes name, a directory, with all that is in it.
func removeTree(dir int, name string) error {
	root, err := os.OpenRoot("/proc/self/fd/" + strconv.Itoa(dir))
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(name)
}
