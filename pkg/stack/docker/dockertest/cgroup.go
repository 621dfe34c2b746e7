package dockertest

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroups are the folders of the parent cgroups of a name, of all hierarchies.
func Cgroups(name string) []string {
	v1, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	v2, _ := filepath.Glob("/sys/fs/cgroup/" + name)
	return append(v1, v2...)
}

// RemoveCgroups removes the parents of a name that daemons leave behind even
// when they are empty. One with a process in it stays, and is an error.
func RemoveCgroups(name string) error {
	var errs []error
	for _, root := range Cgroups(name) {
		var dirs []string
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil && !strings.Contains(err.Error(), "no such") {
			errs = append(errs, err)
		}
		for _, dir := range slices.Backward(dirs) { // children first
			if err := rmdir(dir); err != nil {
				errs = append(errs, fmt.Errorf("rmdir %s: %w", dir, err))
			}
		}
	}
	return errors.Join(errs...)
}

// rmdir waits for the processes of a cgroup, which the kernel has killed, to be
// gone.
func rmdir(dir string) (err error) {
	for range 500 {
		if err = unix.Rmdir(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}
