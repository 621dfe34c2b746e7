package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func extract(t *testing.T, entries ...tar.Header) (string, error) {
	t.Helper()
	root := tempDir(t)
	return root, Extract(root, bytes.NewReader(tarOf(t, entries...)), Limits{Files: 1000, Bytes: 1 << 20, Words: "1 MiB"})
}

// Of several entries of one name the last wins, whatever came before.
func TestExtractLastWins(t *testing.T) {
	old, recent := time.Unix(1_000_000, 0), time.Unix(2_000_000, 0)
	at := func(h tar.Header, when time.Time) tar.Header { h.ModTime = when; return h }
	root, err := extract(t,
		at(dir("d"), old), file("d/f", "1"), at(dir("d/e"), old), at(file("d", "2"), recent),
		dir("l"), file("l/f", "1"), symlink("l", "d"),
		at(dir("again"), recent), at(dir("again"), old),
		dir("w"), at(dir("w/sub"), old), tar.Header{Typeflag: tar.TypeChar, Name: "w"},
	)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(listing(t, root), " "), "again d l w"; got != want {
		t.Errorf("layer holds %s, want %s", got, want)
	}
	for name, want := range map[string]time.Time{"d": recent, "again": old} {
		if info, err := os.Lstat(filepath.Join(root, name)); err != nil || !info.ModTime().Equal(want) {
			t.Errorf("%s is of %v, %v, want %v", name, info.ModTime(), err, want)
		}
	}
	if info, err := os.Lstat(root + "/w"); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("w is no whiteout: %v, %v", info, err)
	}
}
