// Package bundle packs a folder of recipes into one file, which travels inside
// the sandbox binary, and unpacks it again.
package bundle

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// FileName is what makes a folder a recipe.
const FileName = "recipe.yaml"

// What a bundle may hold. Recipes are text.
const (
	maxFiles = 10_000
	maxBytes = 64 << 20
)

// epoch is the time of all that is packed: the archive of the same files is the
// same.
var epoch = time.Unix(0, 0)

// Pack writes the recipes in the folders of dir, and the files beside them, as
// an archive. Names that begin with a dot or an underscore are left out at the
// top, symbolic links anywhere.
func Pack(dir string, w io.Writer) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	zw, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zw)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || strings.HasPrefix(e.Name(), "_") {
			continue
		}
		if e.IsDir() {
			if _, err := os.Stat(filepath.Join(dir, e.Name(), FileName)); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		} else if !strings.HasSuffix(e.Name(), ".json") {
			continue // the package's own tests and the like
		}
		if err := packTree(tw, dir, e.Name()); err != nil {
			return fmt.Errorf("pack recipe %s: %w", e.Name(), err)
		}
	}
	return errors.Join(tw.Close(), zw.Close())
}

// packTree adds name and all below it, in the order of names.
func packTree(tw *tar.Writer, dir, name string) error {
	return filepath.WalkDir(filepath.Join(dir, name), func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		hdr := &tar.Header{Name: filepath.ToSlash(rel), ModTime: epoch, Format: tar.FormatPAX}
		switch {
		case e.IsDir():
			hdr.Typeflag, hdr.Name, hdr.Mode = tar.TypeDir, hdr.Name+"/", 0o755
			return tw.WriteHeader(hdr)
		case !info.Mode().IsRegular():
			return nil
		}
		hdr.Typeflag, hdr.Mode, hdr.Size = tar.TypeReg, 0o644, info.Size()
		if info.Mode()&0o111 != 0 {
			hdr.Mode = 0o755
		}
		if err := tw.WriteHeader(hdr); err != nil {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(tw, f)
		return err
	})
}

// unpacking is held by the one who unpacks: stages ask for recipes at the same
// time, and each removes what it does not know.
var unpacking sync.Mutex

// Unpack makes root/DIGEST of an archive, unless it is there, and returns that
// folder. The folders of other archives are removed: a new version of the
// program has brought a new one.
func Unpack(ctx context.Context, archive io.Reader, root string) (string, error) {
	data, err := io.ReadAll(io.LimitReader(archive, maxBytes+1))
	if err != nil {
		return "", fmt.Errorf("unpack recipes: %w", err)
	}
	if len(data) > maxBytes {
		return "", fmt.Errorf("unpack recipes: the archive has more than %d bytes", maxBytes)
	}
	unpacking.Lock()
	defer unpacking.Unlock()
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:])
	dir := filepath.Join(root, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, removeOthers(root, name)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", fmt.Errorf("unpack recipes: %w", err)
	}
	tmp, err := os.MkdirTemp(root, ".new-")
	if err != nil {
		return "", fmt.Errorf("unpack recipes: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := extract(ctx, data, tmp); err != nil {
		return "", fmt.Errorf("unpack recipes: %w", err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil { //nolint:gosec // it holds what the program comes with
		return "", fmt.Errorf("unpack recipes: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", fmt.Errorf("unpack recipes: %w", err)
	}
	return dir, removeOthers(root, name)
}

// removeOthers leaves of root only the folder name. One that a build still
// reads would be one of another version of this daemon, of which there is none.
func removeOthers(root, name string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != name {
			errs = append(errs, os.RemoveAll(filepath.Join(root, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// extract writes the archive's files below dir. They are the program's own, but
// a path that leads out of dir would be root's to follow: os.Root forbids it.
func extract(ctx context.Context, data []byte, dir string) error {
	zr, err := gzip.NewReader(strings.NewReader(string(data)))
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	tr := tar.NewReader(io.LimitReader(zr, maxBytes))
	for n := 0; ; n++ {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if n == maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		name := path.Clean(hdr.Name)
		switch hdr.Typeflag {
		case tar.TypeDir:
			err = root.Mkdir(name, 0o755)
		case tar.TypeReg:
			err = writeFile(root, name, fs.FileMode(hdr.Mode)&0o755, tr) //nolint:gosec // masked
		default:
			err = fmt.Errorf("entry of type %q", hdr.Typeflag)
		}
		if err != nil {
			return fmt.Errorf("entry %q: %w", hdr.Name, err)
		}
	}
}

func writeFile(root *os.Root, name string, mode fs.FileMode, r io.Reader) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(mode), f.Close()) // whatever the umask is
}

// Names lists the recipes in a folder, without reading them.
func Names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(dir, e.Name(), FileName)); err == nil {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
