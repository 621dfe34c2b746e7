package filecopy

import "fmt"

// MkdirAll makes a directory within the folder root, with its parents, as
// WORKDIR does: what is there stays as it is, and what is made has mode 0755
// and the owner that Options.Chown describes. Symlinks are followed within root.
func MkdirAll(root, dir, owner string) error {
	dst, err := openRoot(root)
	if err != nil {
		return err
	}
	defer dst.close()
	w := &writer{dst: dst}
	if w.owner, err = dst.lookupOwner(owner); err != nil {
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	_, err = w.mkdirAll(dir, 0o755)
	return err
}
