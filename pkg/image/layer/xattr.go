package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Whiteouts in a layer's tar (image-spec, layer.md, "Whiteouts") and how
// overlayfs wants them (kernel, filesystems/overlayfs.rst).
const (
	WhiteoutPrefix = ".wh."
	WhiteoutOpaque = ".wh..wh..opq"
	WhiteoutMeta   = ".wh..wh." // other files of AUFS's own

	xattrOverlay  = "trusted.overlay."
	xattrOpaque   = xattrOverlay + "opaque"
	xattrWhiteout = xattrOverlay + "whiteout"

	// paxXattr is how tars name xattrs (tar(5) of star, and of all others).
	paxXattr = "SCHILY.xattr."
)

// allowedXattr: file capabilities and what programs keep for themselves.
// Everything else belongs to the host: overlayfs's own marks, labels of
// security modules, ACLs by the host's user IDs.
func allowedXattr(name string) bool {
	return name == "security.capability" ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// xattrs reads the extended attributes of one file after the other.
type xattrs struct{ list, value []byte }

// take puts the attributes that a layer holds into hdr, and removes the others
// from the file. It reports whether overlayfs' marks say that a directory is
// opaque, or that a file is a whiteout.
func (x *xattrs) take(fd int, hdr *tar.Header) (marked bool, err error) {
	names, err := x.names(fd)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list xattrs: %w", err)
	}
	for len(names) > 0 {
		end := bytes.IndexByte(names, 0)
		if end < 0 {
			end = len(names)
		}
		name := string(names[:end])
		names = names[min(end+1, len(names)):]
		switch {
		case name == xattrWhiteout && hdr.Typeflag == tar.TypeReg:
			marked = true
		case name == xattrOpaque && hdr.Typeflag == tar.TypeDir:
			value, err := x.get(fd, name)
			if err != nil {
				return false, err
			}
			// "x" only says that there are whiteouts of the xattr kind.
			marked = string(value) == "y"
		case name == xattrOverlay+"redirect", name == xattrOverlay+"metacopy":
			return false, fmt.Errorf("its content is in a layer below (%s): the overlay was mounted with redirect_dir or metacopy: %w", name, errdefs.ErrFailedPrecondition)
		case allowedXattr(name):
			if strings.Contains(name, "=") {
				return false, fmt.Errorf("xattr %q: a tar has no form for a name with \"=\": %w", name, errdefs.ErrInvalidArgument)
			}
			value, err := x.get(fd, name)
			if err != nil {
				return false, err
			}
			if hdr.PAXRecords == nil {
				hdr.PAXRecords = map[string]string{}
			}
			hdr.PAXRecords[paxXattr+name] = string(value)
		default:
			// A security module's label cannot be taken off, and comes anew
			// with every file.
			err := unix.Fremovexattr(fd, name)
			if err != nil && !errors.Is(err, unix.ENODATA) && !strings.HasPrefix(name, "security.") {
				return false, fmt.Errorf("remove xattr %s: %w", name, err)
			}
		}
	}
	return marked, nil
}

// names returns the names of a file's xattrs, each ended by a NUL.
func (x *xattrs) names(fd int) ([]byte, error) {
	if x.list == nil {
		x.list = make([]byte, 1<<10)
	}
	for {
		n, err := unix.Flistxattr(fd, x.list)
		if !errors.Is(err, unix.ERANGE) {
			return x.list[:max(n, 0)], err
		}
		x.list = make([]byte, 64<<10) // XATTR_LIST_MAX (xattr(7))
	}
}

func (x *xattrs) get(fd int, name string) ([]byte, error) {
	if x.value == nil {
		x.value = make([]byte, 64<<10) // XATTR_SIZE_MAX (xattr(7))
	}
	n, err := unix.Fgetxattr(fd, name, x.value)
	if err != nil {
		return nil, fmt.Errorf("get xattr %s: %w", name, err)
	}
	return x.value[:n], nil
}
