package image

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sandboxlabs/sandbox/pkg/linux/overlay"
	"golang.org/x/sys/unix"
)

var epoch = time.Unix(1_700_000_000, 0)

// tree describes everything below root that a layer holds, one line per
// entry. Whiteouts have no times; the root's own name is ".".
func tree(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
			lines = append(lines, fmt.Sprintf("%q whiteout", name))
			return nil
		}
		line := fmt.Sprintf("%q %o %d:%d %d.%09d", name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + digest.FromBytes(data).Encoded()[:12]
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" -> %q", target)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			line += fmt.Sprintf(" = %q", first[st.Ino])
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			line += xattrsOf(t, path)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func xattrsOf(t testing.TB, path string) string {
	t.Helper()
	list, value := make([]byte, 64<<10), make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(strings.Trim(string(list[:n]), "\x00"), "\x00")
	slices.Sort(names)
	line := ""
	for _, name := range names {
		if name == "" || strings.HasPrefix(name, "security.") && name != "security.capability" {
			continue // a label comes from the host
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		line += fmt.Sprintf(" %s=%q", name, value[:n])
	}
	return line
}

// upperOf runs change in an overlay over lower and returns its upperdir,
// which is as a build leaves it.
func upperOf(t testing.TB, lower []string, change func(root string)) string {
	t.Helper()
	base := tempDir(t)
	upper, work, merged := filepath.Join(base, "upper"), filepath.Join(base, "work"), filepath.Join(base, "merged")
	if len(lower) == 0 {
		lower = []string{filepath.Join(base, "empty")}
		mkdir(t, lower[0])
	}
	mkdir(t, merged)
	if err := overlay.Prepare(lower, upper, work, overlay.Mapping{}); err != nil {
		t.Fatal(err)
	}
	if err := overlay.Mount(merged, lower, upper, work, overlay.Options{}, nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := overlay.Unmount(merged, nil); err != nil {
			t.Error(err)
		}
	}()
	change(merged)
	return upper
}

// mountLower shows layers, top first, as one.
func mountLower(t testing.TB, lower []string) string {
	t.Helper()
	merged := filepath.Join(tempDir(t), "merged")
	mkdir(t, merged)
	must(t, overlay.Mount(merged, lower, "", "", overlay.Options{}, nil))
	t.Cleanup(func() { must(t, overlay.Unmount(merged, nil)) })
	return merged
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, data string) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
