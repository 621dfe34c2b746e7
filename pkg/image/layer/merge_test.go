package layer

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/linux/overlay"
)

// merged unpacks layers, bottom first, and mounts them one upon the other.
func merged(t *testing.T, layers ...[]byte) string {
	t.Helper()
	tmp := tempDir(t)
	var lower []string
	for i, data := range layers {
		root := filepath.Join(tmp, strconv.Itoa(i))
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := Extract(root, bytes.NewReader(data), Limits{Files: 1000, Bytes: 1 << 20, Words: "1 MiB"}); err != nil {
			t.Fatal(err)
		}
		lower = append([]string{root}, lower...)
	}
	return mount(t, lower)
}

// mount shows layers, top first, as one.
func mount(t *testing.T, lower []string) string {
	t.Helper()
	target := filepath.Join(tempDir(t), "merged")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := overlay.Mount(target, lower, "", "", overlay.Options{}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := overlay.Unmount(target, nil); err != nil {
			t.Error(err)
		}
	})
	return target
}

// A whiteout in an opaque directory is not seen.
func TestWhiteoutsInOpaqueDirectories(t *testing.T) {
	base := tarOf(t, file("base", "1"), dir("o"), file("o/old", "1"))
	for name, c := range map[string]struct {
		upper []byte
		want  string
	}{
		"in an opaque directory, before":        {tarOf(t, dir("o"), file("o/.wh.old", ""), file("o/.wh..wh..opq", "")), "base o"},
		"in an opaque directory, after":         {tarOf(t, dir("o"), file("o/.wh..wh..opq", ""), file("o/.wh.old", "")), "base o"},
		"deep in an opaque directory":           {tarOf(t, file("o/.wh..wh..opq", ""), file("o/a/b/.wh.c", ""), file("o/d", "1")), "base o o/a o/a/b o/d"},
		"in what has been made anew":            {tarOf(t, file(".wh.o", ""), dir("o"), file("o/.wh.old", ""), file("o/f", "1")), "base o o/f"},
		"opaque, then a file, then a directory": {tarOf(t, file("o/.wh..wh..opq", ""), file("o", ""), dir("o"), file("o/.wh.old", "")), "base o"},
		"of nothing, in the root":               {tarOf(t, file(".wh.nothing", "")), "base o o/old"},
	} {
		t.Run(name, func(t *testing.T) {
			root := merged(t, base, c.upper)
			if got := strings.Join(listing(t, root), " "); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// What was removed and is made anew has nothing of what it was, also when the
// tar leaves its directories out.
func TestWhiteoutThenParents(t *testing.T) {
	base := tarOf(t, dir("d"), file("d/old", "1"), dir("e"), dir("e/s"), file("e/s/old", "1"), file("f", "1"))
	root := merged(t, base, tarOf(t,
		file(".wh.d", ""), file("d/sub/new", "2"),
		file("e/.wh.s", ""), file("e/s/.wh..wh..opq", ""), file("e/s/new", "2"),
		file(".wh.f", ""), dir("f/g"),
	))
	want := "d d/sub d/sub/new e e/s e/s/new f f/g"
	if got := strings.Join(listing(t, root), " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
