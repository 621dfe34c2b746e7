package aws

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/state"
)

// extract writes the add-on to a folder that is named after its contents, and
// returns the folder: another add-on is another bind, and so another container.
// Folders of former ones go.
func (s *Stage) extract() (string, error) {
	files := map[string][]byte{}
	sum := sha256.New()
	err := fs.WalkDir(s.Init, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(s.Init, path)
		files[path] = b
		fmt.Fprintf(sum, "%s %d %s", path, len(b), b)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read LocalStack's add-on: %w", err)
	}
	parent := s.Dirs.StageDir(Name)
	folder := filepath.Join(parent, "init-"+hex.EncodeToString(sum.Sum(nil)[:6]))
	for path, b := range files {
		target := filepath.Join(folder, path)
		if have, err := os.ReadFile(target); err == nil && string(have) == string(b) {
			continue
		}
		if err := state.WriteFile(target, b, 0o444); err != nil {
			return "", fmt.Errorf("extract LocalStack's add-on: %w", err)
		}
	}
	entries, err := os.ReadDir(parent)
	for _, e := range entries {
		if path := filepath.Join(parent, e.Name()); strings.HasPrefix(e.Name(), "init-") && path != folder {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return folder, err
}

func (s *Stage) removeFiles() error {
	if err := os.RemoveAll(s.Dirs.StageDir(Name)); err != nil {
		return fmt.Errorf("remove LocalStack's add-on: %w", err)
	}
	return nil
}
