package filecopy

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func mustDigest(t testing.TB, tree Tree, opts Options, patterns ...string) digest.Digest {
	t.Helper()
	d, err := tree.Digest(t.Context(), patterns, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	return d
}

var digestTree = []string{"a", "d/b", "d/c => d/b", "d/l -> b", "d/p | fifo", "d/e/ mode=0700", "e/f", "n.txt"}

// TestDigestOfChanges: what Copy takes changes it, and nothing else does.
func TestDigestOfChanges(t *testing.T) {
	set := func(name, content string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644) }
	}
	for _, c := range []struct {
		name   string
		change func(dir string) error
		opts   Options
		other  bool
	}{
		{name: "content", change: set("d/b", "other"), other: true},
		{name: "content of the same length", change: set("d/b", "d/B"), other: true},
		{name: "new file", change: set("d/x", ""), other: true},
		{name: "mode", change: func(dir string) error { return os.Chmod(dir+"/d/b", 0o600) }, other: true},
		{name: "mode that --chmod replaces", opts: Options{Chmod: "644"}, change: func(dir string) error { return os.Chmod(dir+"/d/b", 0o600) }},
		{name: "mode that --chmod keeps", opts: Options{Chmod: "u+x"}, change: func(dir string) error { return os.Chmod(dir+"/d/b", 0o600) }, other: true},
		{name: "mode of a directory", change: func(dir string) error { return os.Chmod(dir+"/d/e", 0o755) }, other: true},
		{name: "owner", change: func(dir string) error { return os.Lchown(dir+"/d/b", 5, 6) }},
		{name: "owner that is kept", opts: Options{KeepOwner: true}, change: func(dir string) error { return os.Lchown(dir+"/d/l", 5, 6) }, other: true},
		{name: "owner that --chown replaces", opts: Options{KeepOwner: true, Chown: "1"}, change: func(dir string) error { return os.Lchown(dir+"/d/b", 5, 6) }},
		{name: "target of a symlink", other: true, change: func(dir string) error {
			return os.Symlink("c", replaced(dir+"/d/l"))
		}},
		{name: "kind", other: true, change: func(dir string) error {
			return os.WriteFile(replaced(dir+"/d/l"), []byte("b"), 0o644)
		}},
		{name: "no hard link any more", other: true, change: func(dir string) error {
			return os.WriteFile(replaced(dir+"/d/c"), []byte("d/b"), 0o644)
		}},
		{name: "name", other: true, change: func(dir string) error { return os.Rename(dir+"/d/e", dir+"/d/f") }},
		{name: "removed", other: true, change: func(dir string) error { return os.Remove(dir + "/d/p") }},
		{name: "moved into a directory", other: true, change: func(dir string) error { return os.Rename(dir+"/d/p", dir+"/d/e/p") }},
		{name: "xattr", other: true, change: func(dir string) error { return unix.Setxattr(dir+"/d/b", "user.x", []byte("1"), 0) }},
		{name: "xattr of a directory", other: true, change: func(dir string) error { return unix.Setxattr(dir+"/d/e", "user.x", []byte("1"), 0) }},
		{name: "xattr of the host", change: func(dir string) error { return unix.Setxattr(dir+"/d/b", "trusted.x", []byte("1"), 0) }},
		{name: "times", change: func(dir string) error { return os.Chtimes(dir+"/d/b", time.Unix(1, 0), time.Unix(1, 0)) }},
		{name: "the source's own mode", change: func(dir string) error { return os.Chmod(dir+"/d", 0o700) }},
		{name: "a file that is not copied", change: set("e/f", "other")},
		{name: "an ignored file", change: set("d/x.o", "other")},
		{name: "an excluded file", opts: Options{Exclude: []string{"x"}}, change: set("d/x", "other")},
		{name: "a socket", change: func(dir string) error { return unix.Mknod(dir+"/d/s", unix.S_IFSOCK|0o644, 0) }},
		{name: "another inode and another order", change: func(dir string) error {
			for _, name := range []string{"d/b", "d/c"} {
				replaced(dir + "/" + name)
			}
			if err := set("d/b", "d/b")(dir); err != nil {
				return err
			}
			return os.Link(dir+"/d/b", dir+"/d/c")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			makeTree(t, dir, digestTree...)
			tree := Tree{Root: dir, Ignore: mustIgnore(t, "**/*.o"), Cache: &Cache{}}
			before := mustDigest(t, tree, c.opts, "d", "n*")
			if again := mustDigest(t, tree, c.opts, "d", "n*"); again != before {
				t.Fatal("it is not the same twice")
			}
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			after := mustDigest(t, tree, c.opts, "d", "n*")
			if c.other != (before != after) {
				t.Errorf("another digest: %v, want %v", before != after, c.other)
			}
			tree.Cache = nil
			if fresh := mustDigest(t, tree, c.opts, "d", "n*"); fresh != after {
				t.Error("without the cache it is another")
			}
		})
	}
}

// replaced removes a file and returns its name.
func replaced(name string) string {
	if err := os.Remove(name); err != nil {
		panic(err)
	}
	return name
}

// TestDigestIsOfTheName: a file goes into a directory by the name that the
// pattern has for it.
func TestDigestIsOfTheName(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, "a=x", "b=x", "l -> a")
	seen := map[digest.Digest]string{}
	for _, p := range []string{"a", "b", "l"} {
		d := mustDigest(t, Tree{Root: dir}, Options{}, p)
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have the same digest", p, other)
		}
		seen[d] = p
	}
}

// TestCopyKeepsTheDigest: what was copied has the digest of its source.
func TestCopyKeepsTheDigest(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	makeTree(t, from, digestTree...)
	if err := Copy(t.Context(), Tree{Root: from}, []string{"."}, to, "/", Options{}); err != nil {
		t.Fatal(err)
	}
	want := mustDigest(t, Tree{Root: from}, Options{}, ".")
	if got := mustDigest(t, Tree{Root: to}, Options{}, "."); got != want {
		t.Errorf("the copy has digest %s, its source %s", got, want)
	}
}

func TestCacheSparesReading(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, "d/a", "d/b")
	time.Sleep(2 * settled) // a change a moment ago could be followed by another
	tree := Tree{Root: dir, Cache: &Cache{}}
	want := mustDigest(t, tree, Options{}, "d")
	if n := len(tree.Cache.sums); n != 2 {
		t.Fatalf("it remembers %d files, want 2", n)
	}
	// Only who reads notices.
	for key, sum := range tree.Cache.sums {
		sum.sum[0]++
		tree.Cache.sums[key] = sum
	}
	if mustDigest(t, tree, Options{}, "d") == want {
		t.Error("files were read again")
	}
}

func TestCacheOfFreshFiles(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, "a")
	tree := Tree{Root: dir, Cache: &Cache{}}
	mustDigest(t, tree, Options{}, "a")
	if len(tree.Cache.sums) > 0 {
		t.Skip("this machine is too slow")
	}
}

func TestInterrupted(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	makeTree(t, from, digestTree...)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(os.ErrDeadlineExceeded)
	if _, err := (Tree{Root: from}).Digest(ctx, []string{"."}, Options{}); !isCause(err) {
		t.Errorf("digest: %v", err)
	}
	if err := Copy(ctx, Tree{Root: from}, []string{"."}, to, "/", Options{}); !isCause(err) {
		t.Errorf("copy: %v", err)
	}
}
