package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ExtractOptions are for a tar that is no layer; see Extract.
type ExtractOptions struct {
	Limits Limits
	// Size is how many bytes the tar has on disk, compressed or not: what it
	// may unpack to depends on that.
	Size int64
	// Owner is UID and GID of all that is made; nil: as the tar says.
	Owner *[2]int
	Epoch time.Time // no mtime is later; zero: no limit
}

// Extract unpacks a tar into an open directory as ADD does. Unlike those of a
// layer, its entries replace what is there, directories with all that is in them
// when the entry is none; names that start with ".wh." are names like others; its
// root's own entry is passed over; and a symlink, whether it was there before or
// came with the tar, is followed as if dir were the root of the file system.
//
// What was unpacked before an error, or the end of ctx, stays.
func Extract(ctx context.Context, tar io.Reader, dir *os.File, opts ExtractOptions) error {
	root, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("duplicate %s: %w", dir.Name(), err)
	}
	limit, words := opts.Limits.unpacked(opts.Size)
	x := &extractor{
		root: root, limits: extractLimits{files: opts.Limits.Files, bytes: limit, words: words},
		buf: make([]byte, copyBuffer), parent: -1, plain: true, epoch: opts.Epoch,
	}
	defer x.close()
	if opts.Owner != nil {
		x.own = &ids{opts.Owner[0], opts.Owner[1]}
	}
	// Headers alone can be a bomb too.
	return x.extract(&limitReader{
		r: untilDone(ctx, tar), left: limit + int64(opts.Limits.Files)*4096, why: "it unpacks to more than " + words,
	})
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
