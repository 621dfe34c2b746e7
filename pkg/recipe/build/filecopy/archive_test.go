package filecopy

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// tarOf writes entries; a name that ends in a slash is a directory, one with
// Linkname a symlink unless it says otherwise.
func tarOf(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range entries {
		content := h.Name
		switch {
		case h.Typeflag != 0:
			content = ""
		case h.Linkname != "":
			h.Typeflag, content = tar.TypeSymlink, ""
		case strings.HasSuffix(h.Name, "/"):
			h.Typeflag, content = tar.TypeDir, ""
			if h.Mode == 0 {
				h.Mode = 0o755
			}
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// plainBzip2 is the tar of the next test, packed by bzip2.
const plainBzip2 = "QlpoOTFBWSZTWV9DFkoAAGNbkNmAQADvhAAC9AAeAAQAAAggAHISkanpGQA0yPUEiRBMI/VHqehNMi1oMCnYVZgJtIW/ngiMiHLn" +
	"TeYPCWjEQkM4IJGJUGJatCveoXGBUt6d9qESU3jVossyTTRUR/i4q2HHHGEPxdyRThQkF9DFkoA="

func TestAddUnpacksWhateverCompression(t *testing.T) {
	plain := tarOf(t, tar.Header{Name: "a", Uid: 5, Gid: 6, ModTime: time.Unix(1e9, 0)}, tar.Header{Name: "d/b"})
	pack := func(open func(io.Writer) (io.WriteCloser, error)) []byte {
		var buf bytes.Buffer
		w, err := open(&buf)
		if err == nil {
			_, err = w.Write(plain)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	// Go has no writer for it.
	bzipped, err := base64.StdEncoding.DecodeString(plainBzip2)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"tar":   plain,
		"gzip":  pack(func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		"xz":    pack(func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
		"zstd":  pack(func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
		"bzip2": bzipped,
	} {
		t.Run(name, func(t *testing.T) {
			from, to := t.TempDir(), t.TempDir()
			if err := os.WriteFile(filepath.Join(from, "x"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := Copy(t.Context(), Tree{Root: from}, []string{"x"}, to, "/o/", Options{Extract: true, Chmod: "777"}); err != nil {
				t.Fatal(err)
			}
			want := []string{"d 0755 0:0 o", "f 0644 5:6 o/a a", "d 0755 0:0 o/d", "f 0644 0:0 o/d/b d/b"}
			if got := listTree(t, to); !slices.Equal(got, want) {
				t.Errorf("unpacked %q, want %q", got, want)
			}
			// COPY does not unpack.
			if err := Copy(t.Context(), Tree{Root: from}, []string{"x"}, to, "/p/", Options{}); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(to + "/p/x"); err != nil || !bytes.Equal(got, data) {
				t.Errorf("copied other bytes: %v", err)
			}
		})
	}
}

func TestAdd(t *testing.T) {
	for _, c := range []struct {
		name  string
		tar   []byte
		there []string
		opts  Options
		want  []string
		err   string
	}{
		{name: "what is no tar is copied", tar: []byte("#!/bin/sh"), want: []string{"f 0644 0:0 x.tar #!/bin/sh"}},
		{name: "nothing is copied too", tar: nil, want: []string{"f 0644 0:0 x.tar"}},
		{name: "whiteouts are files", tar: tarOf(t, tar.Header{Name: ".wh.a"}), there: []string{"a"},
			want: []string{"f 0644 0:0 .wh.a .wh.a", "f 0644 0:0 a a"}},
		{name: "a file replaces a directory", tar: tarOf(t, tar.Header{Name: "d"}), there: []string{"d/e/f"}, want: []string{"f 0644 0:0 d d"}},
		{name: "a directory replaces a file", tar: tarOf(t, tar.Header{Name: "d/"}), there: []string{"d"}, want: []string{"d 0755 0:0 d"}},
		{name: "directories are merged", tar: tarOf(t, tar.Header{Name: "d/", Mode: 0o711}, tar.Header{Name: "d/a"}), there: []string{"d/b"},
			want: []string{"d 0711 0:0 d", "f 0644 0:0 d/a d/a", "f 0644 0:0 d/b d/b"}},
		{name: "the root's own metadata are not the destination's", tar: tarOf(t, tar.Header{Name: "./", Mode: 0o700, Uid: 9}, tar.Header{Name: "./a"}),
			want: []string{"f 0644 0:0 a ./a"}},
		{name: "chown", tar: tarOf(t, tar.Header{Name: "a", Uid: 5, Gid: 6}, tar.Header{Name: "l", Linkname: "a", Uid: 5}), opts: Options{Chown: "7:8"},
			want: []string{"f 0644 7:8 a a", "l 0777 7:8 l a"}},
		{name: "a symlink that was there is followed within the root", tar: tarOf(t, tar.Header{Name: "run/a"}), there: []string{"run -> /var/run", "var/run/"},
			want: []string{"l 0777 0:0 run /var/run", "d 0755 0:0 var", "d 0755 0:0 var/run", "f 0644 0:0 var/run/a run/a"}},
		{name: "a symlink out of the root ends in it", tar: tarOf(t, tar.Header{Name: "l", Linkname: "../../../.."}, tar.Header{Name: "l/a"}),
			want: []string{"f 0644 0:0 a l/a", "l 0777 0:0 l ../../../.."}},
		{name: "names out of the root", tar: tarOf(t, tar.Header{Name: "../a"}), err: `entry "../a"`},
		{name: "devices", tar: tarOf(t, tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}), err: "device node 1:3"},
		{name: "a whiteout as overlayfs has it", tar: tarOf(t, tar.Header{Name: "null", Typeflag: tar.TypeChar}), err: "device node 0:0"},
		{name: "cut off", tar: tarOf(t, tar.Header{Name: "a"})[:512], err: `entry "a": unexpected EOF`},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, to := t.TempDir(), t.TempDir()
			if err := os.WriteFile(filepath.Join(from, "x.tar"), c.tar, 0o644); err != nil {
				t.Fatal(err)
			}
			makeTree(t, to, c.there...)
			c.opts.Extract = true
			err := Copy(t.Context(), Tree{Root: from}, []string{"x.tar"}, to, "/", c.opts)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error is %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := listTree(t, to); !slices.Equal(got, c.want) {
				t.Errorf("unpacked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// TestAddArchives: several archives can go to a destination that is not there
// yet, since each makes a directory of it; several files cannot.
func TestAddArchives(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for name, data := range map[string][]byte{
		"a.tar": tarOf(t, tar.Header{Name: "one"}), "b.tar": tarOf(t, tar.Header{Name: "two"}), "c": []byte("c"), "d": []byte("d"),
	} {
		if err := os.WriteFile(filepath.Join(from, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := Copy(t.Context(), Tree{Root: from}, []string{"*.tar", "c"}, to, "/x", Options{Extract: true, Chmod: "700"}); err != nil {
		t.Fatal(err)
	}
	want := []string{"d 0755 0:0 x", "f 0700 0:0 x/c c", "f 0644 0:0 x/one one", "f 0644 0:0 x/two two"}
	if got := listTree(t, to); !slices.Equal(got, want) {
		t.Errorf("unpacked %q, want %q", got, want)
	}
	for _, opts := range []Options{{Extract: true}, {}} {
		if err := Copy(t.Context(), Tree{Root: from}, []string{"*"}, t.TempDir(), "/x", opts); err == nil {
			t.Error("two files made one")
		}
	}
}
