package images_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// file is what a tree says of one path, but for times: two trees are the same if
// they have the same paths with the same files.
type file struct {
	mode   uint32 // type and bits, as in stat(2)
	owner  string // uid:gid
	device uint64
	size   int64 // of a regular file
	// content is a digest, or a symbolic link's target.
	content string
	// link is the first path of the same file.
	link   string
	xattrs string
}

func (f file) String() string {
	s := fmt.Sprintf("%07o %s", f.mode, f.owner)
	switch f.mode & unix.S_IFMT {
	case unix.S_IFREG:
		s += fmt.Sprintf(" %d bytes %.12s", f.size, f.content)
	case unix.S_IFLNK:
		s += " → " + f.content
	case unix.S_IFCHR, unix.S_IFBLK:
		s += fmt.Sprintf(" device %d:%d", unix.Major(f.device), unix.Minor(f.device))
	}
	if f.link != "" {
		s += " = " + f.link
	}
	return s + f.xattrs
}

// walk describes all that is below root, by path from it.
func walk(root string) (map[string]file, error) {
	files := map[string]file{}
	first := map[[2]uint64]string{} // paths by device and inode
	return files, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		f := file{mode: st.Mode, owner: fmt.Sprintf("%d:%d", st.Uid, st.Gid)}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			f.size = st.Size
			f.content, err = sum(path)
		case unix.S_IFLNK:
			f.content, err = os.Readlink(path)
		case unix.S_IFCHR, unix.S_IFBLK:
			f.device = st.Rdev
		}
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			inode := [2]uint64{st.Dev, st.Ino}
			if f.link = first[inode]; f.link == "" {
				first[inode] = name
			}
		}
		if f.xattrs, err = xattrs(path); err != nil {
			return fmt.Errorf("extended attributes of %s: %w", path, err)
		}
		files[name] = f
		return nil
	})
}

func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// xattrs are a file's extended attributes as one string.
func xattrs(path string) (string, error) {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, list)
	if err != nil || n == 0 {
		return "", err
	}
	names := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var all strings.Builder
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&all, " %s=%x", name, value[:n])
	}
	return all.String(), nil
}

// TestWalk: the comparison of trees sees each kind of difference.
func TestWalk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners need root")
	}
	base := map[string]func(path string) error{
		"file": func(p string) error { return os.WriteFile(p, []byte("a"), 0o600) },
		"same": func(p string) error { return os.WriteFile(p, []byte("a"), 0o600) },
		"link": func(p string) error { return os.Symlink("file", p) },
		"dir":  func(p string) error { return os.Mkdir(p, 0o700) },
	}
	var none map[string]file
	for name, change := range map[string]func(dir string) error{
		"":          func(string) error { return nil },
		"time":      func(d string) error { return unix.Utimes(d+"/file", make([]unix.Timeval, 2)) },
		"content":   func(d string) error { return os.WriteFile(d+"/file", []byte("b"), 0o600) },
		"mode":      func(d string) error { return os.Chmod(d+"/file", 0o601) },
		"setuid":    func(d string) error { return os.Chmod(d+"/file", 0o600|fs.ModeSetuid) },
		"owner":     func(d string) error { return os.Lchown(d+"/dir", 1, 0) },
		"group":     func(d string) error { return os.Lchown(d+"/link", 0, 1) },
		"target":    func(d string) error { return os.Rename(link(d), d+"/link") },
		"more":      func(d string) error { return os.Mkdir(d+"/dir/more", 0o700) },
		"fewer":     func(d string) error { return os.Remove(d + "/dir") },
		"xattr":     func(d string) error { return unix.Lsetxattr(d+"/file", "trusted.sandbox", []byte("x"), 0) },
		"hard link": func(d string) error { return hardLink(d) },
		"device":    func(d string) error { return unix.Mknod(d+"/dir/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
		"type":      func(d string) error { return replaceByFIFO(d + "/file") },
	} {
		dir := t.TempDir()
		for _, path := range sortedKeys(base) {
			if err := base[path](filepath.Join(dir, path)); err != nil {
				t.Fatal(err)
			}
		}
		if none == nil {
			var err error
			if none, err = walk(dir); err != nil {
				t.Fatal(err)
			}
		}
		if err := change(dir); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := walk(dir)
		if err != nil {
			t.Fatal(err)
		}
		same := len(got) == len(none)
		for path, f := range none {
			same = same && got[path] == f
		}
		if want := name == "" || name == "time"; same != want {
			t.Errorf("%q: the trees are the same: %v, want %v: %v", name, same, want, got)
		}
	}
}

// link makes a link with another target beside the one in dir.
func link(dir string) string {
	_ = os.Symlink("dir", dir+"/other")
	return dir + "/other"
}

// hardLink makes the two files with the same content one.
func hardLink(dir string) error {
	if err := os.Remove(dir + "/same"); err != nil {
		return err
	}
	return os.Link(dir+"/file", dir+"/same")
}

func replaceByFIFO(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return unix.Mkfifo(path, 0o600)
}
