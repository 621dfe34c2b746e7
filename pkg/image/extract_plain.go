package image

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/image/layer"
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
	limit, words := opts.Limits.unpacked(opts.Size)
	// Headers alone can be a bomb too.
	limited := &layer.LimitReader{
		R: untilDone(ctx, tar), Left: limit + int64(opts.Limits.Files)*4096, Why: "it unpacks to more than " + words,
	}
	return layer.ExtractPlain(limited, dir, layer.PlainOptions{
		Limits: layer.Limits{Files: opts.Limits.Files, Bytes: limit, Words: words},
		Owner:  opts.Owner, Epoch: opts.Epoch,
	})
}
