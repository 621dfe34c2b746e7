package main

import (
	"fmt"
	"io"
	"io/fs"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// weigh compares what the recipes' images take on disk in our store, where they
// share layers and are unpacked, with the archives that `docker save` makes of
// them, which is how images otherwise get to where no registry is.
func weigh(dir string) error {
	dirs := state.Dirs{Root: dir}
	if _, err := os.Stat(dirs.Images()); err != nil {
		return fmt.Errorf("weigh images: %w", err)
	}
	store, err := image.Open(dirs)
	if err != nil {
		return err
	}
	defer store.Close()
	all, err := store.List()
	if err != nil {
		return err
	}
	srv := httptest.NewServer(registry.New(store, registry.Options{}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")

	var names []string
	var each int64 // archives of one image each
	blobs, layers := map[string]bool{}, map[string]bool{}
	for _, img := range all {
		if img.Source != image.SourceRecipe || !strings.HasSuffix(img.Name, ":latest") {
			continue
		}
		for _, l := range append(img.Manifest.Layers, img.Manifest.Config, img.Descriptor) {
			blobs[filepath.Join(dirs.Images(), "blobs", l.Digest.Algorithm().String(), l.Digest.Encoded())] = true
		}
		for _, id := range img.Config.RootFS.DiffIDs {
			layers[filepath.Join(dirs.Layers(), id.Encoded())] = true
		}
		name := host + "/" + img.Name
		if err := command("docker", "pull", "--quiet", name); err != nil {
			return err
		}
		n, err := saved(name)
		if err != nil {
			return err
		}
		each += n
		names = append(names, name)
	}
	if len(names) == 0 {
		return fmt.Errorf("weigh images: %s has no images of recipes", dir)
	}
	together, err := saved(names...)
	if err != nil {
		return err
	}
	packed, err := diskUsage(blobs)
	if err != nil {
		return err
	}
	unpacked, err := diskUsage(layers)
	if err != nil {
		return err
	}
	fmt.Printf("\nDisk: the images of %d recipes\n\n| | bytes | ours is |\n|---|--:|--:|\n", len(names))
	fmt.Printf("| sandbox: the store, compressed | %.1f MB | |\n", float64(packed)/1e6)
	fmt.Printf("| sandbox: the store with all layers unpacked | %.1f MB | |\n", float64(packed+unpacked)/1e6)
	for _, row := range []struct {
		name string
		n    int64
	}{{"docker save, an archive each", each}, {"docker save, one archive for all", together}} {
		fmt.Printf("| %s | %.1f MB | %.2f× (%.2f× unpacked) |\n", row.name, float64(row.n)/1e6,
			float64(packed)/float64(row.n), float64(packed+unpacked)/float64(row.n))
	}
	return nil
}

// saved is how large an archive `docker save` makes of images, in bytes.
func saved(names ...string) (int64, error) {
	cmd := exec.Command("docker", append([]string{"save"}, names...)...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, out)
	if werr := cmd.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		return 0, fmt.Errorf("docker save: %w: %s", err, errs.String())
	}
	return n, nil
}

// diskUsage is what files and folders take on disk, in bytes, as du counts. What
// is missing takes nothing: layers are unpacked when they are needed.
func diskUsage(paths map[string]bool) (int64, error) {
	var blocks int64
	seen := map[uint64]bool{} // inodes: hard links are counted once
	for root := range paths {
		if _, err := os.Lstat(root); os.IsNotExist(err) {
			continue
		}
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return &fs.PathError{Op: "lstat", Path: path, Err: err}
			}
			if !seen[st.Ino] {
				seen[st.Ino] = true
				blocks += st.Blocks
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return blocks * 512, nil
}
