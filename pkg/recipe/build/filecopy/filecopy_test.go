package filecopy

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// makeTree makes files in dir from lines such as
//
//	name          a file whose content is its name
//	name=content
//	name/         a directory
//	name -> target
//	name => other  a hard link
//	name | fifo, name | socket
//
// any of which may end in " mode=0640" or " owner=1:2".
func makeTree(t testing.TB, dir string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		words := strings.Fields(line)
		name, content, _ := strings.Cut(words[0], "=")
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case len(words) > 2 && words[1] == "->":
			err = os.Symlink(words[2], file)
		case len(words) > 2 && words[1] == "=>":
			err = os.Link(filepath.Join(dir, words[2]), file)
		case len(words) > 2 && words[1] == "|" && words[2] == "fifo":
			err = unix.Mkfifo(file, 0o644)
		case len(words) > 2 && words[1] == "|" && words[2] == "socket":
			err = unix.Mknod(file, unix.S_IFSOCK|0o644, 0)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(file, 0o755)
		default:
			if content == "" {
				content = name
			}
			err = os.WriteFile(file, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range words[1:] {
			if s, ok := strings.CutPrefix(word, "owner="); ok {
				var uid, gid int
				if _, err := fmt.Sscanf(s, "%d:%d", &uid, &gid); err != nil {
					t.Fatal(err)
				}
				if err := os.Lchown(file, uid, gid); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, word := range words[1:] {
			if s, ok := strings.CutPrefix(word, "mode="); ok {
				var mode uint32
				if _, err := fmt.Sscanf(s, "%o", &mode); err != nil {
					t.Fatal(err)
				}
				if err := unix.Chmod(file, mode); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// listTree is a tree as lines "kind mode uid:gid path content", sorted. Hard
// links show the first name of the file.
func listTree(t testing.TB, dir string) (lines []string) {
	t.Helper()
	links := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(dir, p)
		kind, text := "f", ""
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFDIR:
			kind = "d"
		case syscall.S_IFLNK:
			kind = "l"
			text, err = os.Readlink(p)
		case syscall.S_IFREG:
			var data []byte
			data, err = os.ReadFile(p)
			text = string(data)
			if strings.ContainsFunc(text, unicode.IsControl) {
				text = fmt.Sprint(len(text), " bytes, ", digest.FromBytes(data).Encoded()[:8])
			}
			if first, ok := links[st.Ino]; ok {
				kind, text = "h", first
			} else if st.Nlink > 1 {
				links[st.Ino] = rel
			}
		case syscall.S_IFIFO:
			kind = "p"
		default:
			kind = "?"
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %04o %d:%d %s %s", kind, st.Mode&0o7777, st.Uid, st.Gid, rel, text)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func mustIgnore(t testing.TB, lines ...string) *Ignore {
	t.Helper()
	if len(lines) == 0 {
		return nil
	}
	i, err := ParseIgnore(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return i
}
