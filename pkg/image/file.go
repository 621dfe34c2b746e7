package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// OpenFile opens a regular file of an image, as a container would find it; name
// is its path. Links are not followed.
func (s *Store) OpenFile(ctx context.Context, img Image, name string) (*os.File, error) {
	dirs, err := s.Unpack(ctx, img)
	if err != nil {
		return nil, err
	}
	rel := strings.TrimPrefix(path.Clean("/"+name), "/")
	for _, dir := range dirs {
		f, hidden, err := openIn(dir, rel)
		if err != nil {
			return nil, fmt.Errorf("file %s of image %s: %w", name, img.Name, err)
		}
		if f != nil {
			return f, nil
		}
		if hidden {
			break
		}
	}
	return nil, fmt.Errorf("image %s has no file %s: %w", img.Name, name, errdefs.ErrNotFound)
}

// openIn opens a file of a layer: nil if the layer has none, and hidden if it
// says that the layers below have none either, by a whiteout or an opaque
// directory (overlayfs.rst, "whiteouts and opaque directories").
func openIn(dir, rel string) (f *os.File, hidden bool, err error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, false, err
	}
	defer unix.Close(root)
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	parts := strings.Split(rel, "/")
	for i := range parts {
		at, err := unix.Openat2(root, path.Join(parts[:i+1]...), &how)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil, hidden, nil
		}
		if err != nil {
			return nil, false, err
		}
		var st unix.Stat_t
		err = unix.Fstat(at, &st)
		switch {
		case err != nil:
		case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
			hidden = true
			err = unix.ENOENT
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			hidden = hidden || opaque(at)
		case i < len(parts)-1:
			err = unix.ENOTDIR
		}
		last := i == len(parts)-1
		if err == nil && last && st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = fmt.Errorf("it is no regular file: %w", errdefs.ErrInvalidArgument)
		}
		if err == nil && last {
			// An O_PATH descriptor, of what is now known to be a file, opened again.
			f, err = os.Open(fmt.Sprint("/proc/self/fd/", at))
		}
		unix.Close(at)
		switch {
		case errors.Is(err, unix.ENOTDIR): // a file hides folders of its name
			return nil, true, nil
		case errors.Is(err, unix.ENOENT):
			return nil, hidden, nil
		case err != nil || last:
			return f, false, err
		}
	}
	return nil, hidden, nil
}

// opaque reports whether a directory hides those of its name in layers below.
func opaque(fd int) bool {
	return isOpaque(fmt.Sprint("/proc/self/fd/", fd))
}

func isOpaque(dir string) bool {
	value := make([]byte, 1)
	n, err := unix.Getxattr(dir, "trusted.overlay.opaque", value)
	return err == nil && n == 1 && value[0] == 'y'
}

// Files lists the regular files of one of an image's folders, sorted by name.
func (s *Store) Files(ctx context.Context, img Image, folder string) ([]api.ImageEntry, error) {
	dirs, err := s.Unpack(ctx, img)
	if err != nil {
		return nil, err
	}
	rel := strings.TrimPrefix(path.Clean("/"+folder), "/")
	names := map[string]bool{}
	for _, dir := range dirs {
		entries, err := os.ReadDir(filepath.Join(dir, rel))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return nil, err
		}
		for _, e := range entries {
			names[e.Name()] = true
		}
	}
	files := []api.ImageEntry{}
	for name := range names {
		f, err := s.OpenFile(ctx, img, path.Join(rel, name))
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		_ = f.Close()
		if err != nil {
			return nil, err
		}
		files = append(files, api.ImageEntry{Name: name, Size: st.Size(), Mode: uint32(st.Mode().Perm())})
	}
	slices.SortFunc(files, func(a, b api.ImageEntry) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}
