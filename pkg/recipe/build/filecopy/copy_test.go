package filecopy

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

type copyCase struct {
	name     string
	context  []string
	ignore   []string
	there    []string // in the destination's root
	patterns []string
	dest     string
	opts     Options
	want     []string // listTree of the destination
	err      string
}

var copyCases = []copyCase{
	{name: "a file gets the destination's name", context: []string{"a mode=0640"}, patterns: []string{"a"}, dest: "/x/y",
		want: []string{"d 0755 0:0 x", "f 0640 0:0 x/y a"}},
	{name: "a slash makes it a directory", context: []string{"a"}, patterns: []string{"a"}, dest: "/x/",
		want: []string{"d 0755 0:0 x", "f 0644 0:0 x/a a"}},
	{name: "a directory that is there", context: []string{"a"}, there: []string{"x/ mode=0700"}, patterns: []string{"a"}, dest: "/x",
		want: []string{"d 0700 0:0 x", "f 0644 0:0 x/a a"}},
	{name: "of a directory the content", context: []string{"d/ mode=0700", "d/a", "d/e/ mode=0711", "d/e/b"}, patterns: []string{"d"}, dest: "/x",
		want: []string{"d 0755 0:0 x", "f 0644 0:0 x/a d/a", "d 0711 0:0 x/e", "f 0644 0:0 x/e/b d/e/b"}},
	{name: "everything", context: []string{"a", "d/b"}, patterns: []string{"."}, dest: "/",
		want: []string{"f 0644 0:0 a a", "d 0755 0:0 d", "f 0644 0:0 d/b d/b"}},
	{name: "owners of a context are root", context: []string{"a owner=5:6", "d/ owner=5:6", "l -> a owner=5:6"}, patterns: []string{"."}, dest: "/",
		want: []string{"f 0644 0:0 a a", "d 0755 0:0 d", "l 0777 0:0 l a"}},
	{name: "owners are kept", context: []string{"a owner=5:6", "d/ owner=5:6", "l -> a owner=5:6"}, patterns: []string{"."}, dest: "/x", opts: Options{KeepOwner: true},
		want: []string{"d 0755 0:0 x", "f 0644 5:6 x/a a", "d 0755 5:6 x/d", "l 0777 5:6 x/l a"}},
	{name: "chown by number, parents too", context: []string{"a"}, patterns: []string{"a"}, dest: "/x/y/", opts: Options{Chown: "7"},
		want: []string{"d 0755 7:7 x", "d 0755 7:7 x/y", "f 0644 7:7 x/y/a a"}},
	{name: "chown by name", context: []string{"a"}, there: []string{"etc/passwd=bob:x:5:6::/:", "etc/group=staff:x:8:"}, patterns: []string{"a"}, dest: "/a", opts: Options{Chown: "bob:staff"},
		want: []string{"f 0644 5:8 a a", "d 0755 0:0 etc", "f 0644 0:0 etc/group staff:x:8:", "f 0644 0:0 etc/passwd bob:x:5:6::/:"}},
	{name: "chown by a missing name", context: []string{"a"}, there: []string{"etc/passwd=bob:x:5:6::/:"}, patterns: []string{"a"}, dest: "/a", opts: Options{Chown: "eve"},
		err: `user "eve": it is not in the destination's /etc/passwd`},
	{name: "chown without a passwd", context: []string{"a"}, patterns: []string{"a"}, dest: "/a", opts: Options{Chown: "eve"},
		err: `the destination has no /etc/passwd, use a number`},
	{name: "octal chmod, also of made parents", context: []string{"d/a", "d/e/b"}, there: []string{"x/"}, patterns: []string{"d"}, dest: "/x/y/z/", opts: Options{Chmod: "1700"},
		want: []string{"d 0755 0:0 x", "d 0700 0:0 x/y", "d 0700 0:0 x/y/z", "f 1700 0:0 x/y/z/a d/a", "d 1700 0:0 x/y/z/e", "f 1700 0:0 x/y/z/e/b d/e/b"}},
	{name: "symbolic chmod, not of made parents", context: []string{"d/a", "d/e/b"}, patterns: []string{"d"}, dest: "/x/y/", opts: Options{Chmod: "u=rwx,go="},
		want: []string{"d 0755 0:0 x", "d 0755 0:0 x/y", "f 0700 0:0 x/y/a d/a", "d 0700 0:0 x/y/e", "f 0700 0:0 x/y/e/b d/e/b"}},
	{name: "symbolic chmod", context: []string{"a mode=0640", "d/ mode=0755"}, patterns: []string{"."}, dest: "/", opts: Options{Chmod: "go-rwx,u+X"},
		want: []string{"f 0600 0:0 a a", "d 0700 0:0 d"}},
	{name: "bad chmod", context: []string{"a"}, patterns: []string{"a"}, dest: "/a", opts: Options{Chmod: "999"}, err: "octal"},
	{name: "wildcards", context: []string{"a.txt", "b.txt", "c", "d/x.txt"}, patterns: []string{"*.txt", "d/?.txt"}, dest: "/x/", opts: Options{Dir: true},
		want: []string{"d 0755 0:0 x", "f 0644 0:0 x/a.txt a.txt", "f 0644 0:0 x/b.txt b.txt", "f 0644 0:0 x/x.txt d/x.txt"}},
	{name: "a wildcard matches directories, their content is merged", context: []string{"d1/a", "d2/b"}, patterns: []string{"d*"}, dest: "/x/",
		want: []string{"d 0755 0:0 x", "f 0644 0:0 x/a d1/a", "f 0644 0:0 x/b d2/b"}},
	{name: "a wildcard may match nothing", context: []string{"a"}, patterns: []string{"*.txt"}, dest: "/x/"},
	{name: "a wildcard and one file", context: []string{"a", "b"}, patterns: []string{"*"}, dest: "/x", err: "2 files match, and /x is no directory: end it with a slash"},
	{name: "a bad wildcard", context: []string{"a"}, patterns: []string{"[a"}, dest: "/x/", err: `pattern "[a": syntax error`},
	{name: "missing", context: []string{"a"}, patterns: []string{"b"}, dest: "/x", err: `no source file "b": it does not exist`},
	{name: "ignored", context: []string{"a"}, ignore: []string{"a"}, patterns: []string{"a"}, dest: "/x", err: `no source file "a": .dockerignore excludes it ("a")`},
	{name: "ignored with its directory", context: []string{"d/a"}, ignore: []string{"d"}, patterns: []string{"d/a"}, dest: "/x", err: `.dockerignore excludes it ("d")`},
	{name: "ignore, with an exception", context: []string{"d/a", "d/b", "d/e/c", "f"}, ignore: []string{"d", "!d/b"}, patterns: []string{"."}, dest: "/",
		want: []string{"d 0755 0:0 d", "f 0644 0:0 d/b d/b", "f 0644 0:0 f f"}},
	{name: "ignore all but one directory", context: []string{"d/a", "d/e/b", "f", "g/h"}, ignore: []string{"*", "!d/e"}, patterns: []string{"."}, dest: "/",
		want: []string{"d 0755 0:0 d", "d 0755 0:0 d/e", "f 0644 0:0 d/e/b d/e/b"}},
	{name: "an ignored directory with an exception is there", context: []string{"d/a", "d/b"}, ignore: []string{"d", "!d/b"}, patterns: []string{"d"}, dest: "/x",
		want: []string{"d 0755 0:0 x", "f 0644 0:0 x/b d/b"}},
	{name: "ignore by depth", context: []string{"a.o", "d/b.o", "d/c"}, ignore: []string{"**/*.o"}, patterns: []string{"."}, dest: "/",
		want: []string{"d 0755 0:0 d", "f 0644 0:0 d/c d/c"}},
	{name: "a source symlink is followed", context: []string{"a", "l -> a", "d/b", "m -> d"}, patterns: []string{"l", "m"}, dest: "/x/",
		want: []string{"d 0755 0:0 x", "f 0644 0:0 x/b d/b", "f 0644 0:0 x/l a"}},
	{name: "a source symlink stays within the tree", context: []string{"etc/x", "l -> /etc", "m -> ../../../etc"}, patterns: []string{"l/x", "m"}, dest: "/y/",
		want: []string{"d 0755 0:0 y", "f 0644 0:0 y/x etc/x"}},
	{name: "dots do not leave the tree", context: []string{"a"}, patterns: []string{"../../a"}, dest: "/x/../../y",
		want: []string{"f 0644 0:0 y a"}},
	{name: "a symlink in a circle", context: []string{"l -> l"}, patterns: []string{"l"}, dest: "/x", err: "circle"},
	{name: "symlinks in a directory are copied", context: []string{"d/l -> /etc/passwd", "d/m -> nowhere"}, patterns: []string{"d"}, dest: "/x",
		want: []string{"d 0755 0:0 x", "l 0777 0:0 x/l /etc/passwd", "l 0777 0:0 x/m nowhere"}},
	{name: "a symlink in the destination is followed", context: []string{"a"}, there: []string{"usr/lib/", "lib -> usr/lib"}, patterns: []string{"a"}, dest: "/lib/x/",
		want: []string{"l 0777 0:0 lib usr/lib", "d 0755 0:0 usr", "d 0755 0:0 usr/lib", "d 0755 0:0 usr/lib/x", "f 0644 0:0 usr/lib/x/a a"}},
	{name: "a symlink to nowhere in the destination", context: []string{"a"}, there: []string{"l -> /n/m"}, patterns: []string{"a"}, dest: "/l",
		want: []string{"l 0777 0:0 l /n/m", "d 0755 0:0 n", "f 0644 0:0 n/m a"}},
	{name: "a symlink in a destination directory is replaced", context: []string{"d/l"}, there: []string{"t", "l -> t"}, patterns: []string{"d"}, dest: "/",
		want: []string{"f 0644 0:0 l d/l", "f 0644 0:0 t t"}},
	{name: "a directory is merged, with its metadata", context: []string{"s/d/ mode=0711", "s/d/a"}, there: []string{"d/b", "d/ mode=0700 owner=5:6"}, patterns: []string{"s"}, dest: "/",
		want: []string{"d 0711 0:0 d", "f 0644 0:0 d/a s/d/a", "f 0644 0:0 d/b d/b"}},
	{name: "a directory over a file", context: []string{"s/d/a"}, there: []string{"d"}, patterns: []string{"s"}, dest: "/", err: "cannot copy directory d over what is no directory"},
	{name: "a directory over a symlink to one", context: []string{"s/lib/a"}, there: []string{"usr/lib/", "lib -> usr/lib"}, patterns: []string{"s"}, dest: "/", err: "cannot copy directory lib over"},
	{name: "a directory to a file", context: []string{"d/a"}, there: []string{"x"}, patterns: []string{"d"}, dest: "/x", err: "/x is there, and is no directory"},
	{name: "a file over a directory", context: []string{"s/d"}, there: []string{"d/"}, patterns: []string{"s"}, dest: "/", err: "cannot copy a file over directory d"},
	{name: "a file in the way", context: []string{"a"}, there: []string{"x"}, patterns: []string{"a"}, dest: "/x/y", err: "/x is there, and is no directory"},
	{name: "hard links", context: []string{"d/a", "d/e/b => d/a", "c => d/a"}, patterns: []string{"d"}, dest: "/x",
		want: []string{"d 0755 0:0 x", "f 0644 0:0 x/a d/a", "d 0755 0:0 x/e", "h 0644 0:0 x/e/b x/a"}},
	{name: "hard links of two sources are two files", context: []string{"a", "b => a"}, patterns: []string{"a", "b"}, dest: "/",
		want: []string{"f 0644 0:0 a a", "f 0644 0:0 b a"}},
	{name: "FIFOs are copied, sockets are not", context: []string{"d/p | fifo", "d/s | socket"}, patterns: []string{"d", "d/*"}, dest: "/x",
		want: []string{"d 0755 0:0 x", "p 0644 0:0 x/p"}},
	{name: "a socket", context: []string{"d/s | socket"}, patterns: []string{"d/s"}, dest: "/x", err: "is a socket"},
	{name: "a socket with its parents", context: []string{"d/s | socket"}, patterns: []string{"d/s"}, dest: "/x/", opts: Options{Parents: true}, err: "is a socket"},
	{name: "setuid is kept, also with chown", context: []string{"a mode=04755"}, patterns: []string{"a"}, dest: "/a", opts: Options{Chown: "1:2"},
		want: []string{"f 4755 1:2 a a"}},
	{name: "parents", context: []string{"a/b/c", "a/d"}, patterns: []string{"a/b/c"}, dest: "/x/", opts: Options{Parents: true},
		want: []string{"d 0755 0:0 x", "d 0755 0:0 x/a", "d 0755 0:0 x/a/b", "f 0644 0:0 x/a/b/c a/b/c"}},
	{name: "parents from a pivot", context: []string{"a/b/c.txt", "a/b/d.txt", "a/e"}, patterns: []string{"./a/./b/*.txt"}, dest: "/x/", opts: Options{Parents: true},
		want: []string{"d 0755 0:0 x", "d 0755 0:0 x/b", "f 0644 0:0 x/b/c.txt a/b/c.txt", "f 0644 0:0 x/b/d.txt a/b/d.txt"}},
	{name: "parents at any depth", context: []string{"s/a.txt", "s/x/b.txt", "s/x/y/c.txt", "s/n"}, patterns: []string{"./s/**/*.txt"}, dest: "/p/", opts: Options{Parents: true},
		want: []string{"d 0755 0:0 p", "d 0755 0:0 p/s", "f 0644 0:0 p/s/a.txt s/a.txt", "d 0755 0:0 p/s/x", "f 0644 0:0 p/s/x/b.txt s/x/b.txt", "d 0755 0:0 p/s/x/y", "f 0644 0:0 p/s/x/y/c.txt s/x/y/c.txt"}},
	{name: "parents of a directory", context: []string{"a/b/c", "a/d"}, patterns: []string{"a/b"}, dest: "/x/", opts: Options{Parents: true},
		want: []string{"d 0755 0:0 x", "d 0755 0:0 x/a", "d 0755 0:0 x/a/b", "f 0644 0:0 x/a/b/c a/b/c"}},
	{name: "parents, missing", context: []string{"a/b"}, patterns: []string{"a/c"}, dest: "/x/", opts: Options{Parents: true}, err: `no source file "a/c"`},
	{name: "parents keep mode and owner", context: []string{"a/b", "a/ mode=0711 owner=3:4"}, patterns: []string{"a/b"}, dest: "/", opts: Options{Parents: true, KeepOwner: true},
		want: []string{"d 0711 3:4 a", "f 0644 0:0 a/b a/b"}},
	{name: "exclude", context: []string{"d/a.txt", "d/b", "d/e/c.txt", "d/e/f"}, patterns: []string{"d"}, dest: "/x", opts: Options{Exclude: []string{"**/*.txt"}},
		want: []string{"d 0755 0:0 x", "f 0644 0:0 x/b d/b", "d 0755 0:0 x/e", "f 0644 0:0 x/e/f d/e/f"}},
	{name: "exclude with an exception", context: []string{"d/e/a", "d/e/b"}, patterns: []string{"d"}, dest: "/x", opts: Options{Exclude: []string{"e", "!e/b"}},
		want: []string{"d 0755 0:0 x", "d 0755 0:0 x/e", "f 0644 0:0 x/e/b d/e/b"}},
	{name: "exclude what a wildcard selects", context: []string{"d/hom.txt", "d/home", "d/homdir/x.txt", "d/homdir/y"}, patterns: []string{"d/hom*"}, dest: "/x/", opts: Options{Exclude: []string{"*.txt"}},
		want: []string{"d 0755 0:0 x", "f 0644 0:0 x/home d/home", "f 0644 0:0 x/y d/homdir/y"}},
	{name: "exclude everything", context: []string{"d/a"}, patterns: []string{"d*"}, dest: "/x", opts: Options{Exclude: []string{"*"}},
		want: []string{"d 0755 0:0 x"}},
	{name: "here-documents", patterns: nil, dest: "/x/", opts: Options{Chmod: "755", Chown: "1:2", Files: []File{{Name: "run.sh", Content: []byte("hi")}}},
		want: []string{"d 0755 1:2 x", "f 0755 1:2 x/run.sh hi"}},
	{name: "a here-document over a file", there: []string{"x=old"}, dest: "/x", opts: Options{Files: []File{{Name: "EOF", Content: []byte("new")}}},
		want: []string{"f 0644 0:0 x new"}},
}

func TestCopy(t *testing.T) {
	for _, c := range copyCases {
		t.Run(c.name, func(t *testing.T) {
			from, to := t.TempDir(), t.TempDir()
			makeTree(t, from, c.context...)
			makeTree(t, to, c.there...)
			tree := Tree{Root: from, Ignore: mustIgnore(t, c.ignore...)}
			_, derr := tree.Digest(t.Context(), c.patterns, c.opts)
			err := Copy(t.Context(), tree, c.patterns, to, c.dest, c.opts)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error is %v, want one with %q", err, c.err)
				}
				if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
					t.Errorf("%v has no class", err)
				}
				if strings.Contains(c.err, "no source file") && (derr == nil || !strings.Contains(derr.Error(), c.err)) {
					t.Errorf("digest has error %v, want one with %q", derr, c.err)
				}
				return
			}
			if err != nil || derr != nil {
				t.Fatal(err, derr)
			}
			if got := listTree(t, to); !slices.Equal(got, c.want) {
				t.Errorf("copied\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}
