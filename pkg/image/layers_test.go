package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/overlay"
)

// withHistory imports layers as an image with a history.
func withHistory(t testing.TB, s *Store, history []ispec.History, layers ...[]byte) Image {
	t.Helper()
	a := newArchive(t, "app", layers...)
	a.config.History = history
	images, err := s.Import(t.Context(), bytes.NewReader(a.seal(t).bytes(t)), ImportOptions{})
	must(t, err)
	return images[0]
}

// shown is a tree in short: "added etc/passwd 4 -rw-r--r-- wasted".
func shown(l api.ImageLayer) []string {
	var lines []string
	for _, f := range l.Tree {
		line := fmt.Sprintf("%s %s %d %s", f.Change, f.Path, f.Size, f.Mode)
		if f.Wasted {
			line += " wasted"
		}
		lines = append(lines, line)
	}
	return lines
}

func TestLayers(t *testing.T) {
	s := newStore(t)
	tmp, su := dir("tmp"), file("su", "12345678")
	tmp.Mode, su.Mode = 0o1777, 0o4755
	chmod := dir("etc")
	chmod.Mode = 0o700
	img := withHistory(t, s, []ispec.History{
		{CreatedBy: "/bin/sh -c #(nop) ADD file:123 in / "},
		{CreatedBy: `/bin/sh -c #(nop)  CMD ["sh"]`, EmptyLayer: true},
		{CreatedBy: "RUN /bin/sh -c apt-get update # buildkit"},
		{CreatedBy: "/bin/sh -c make"},
		{Comment: "imported", EmptyLayer: true},
	},
		tarOf(t, dir("./"), dir("etc"), file("etc/a", "1"), file("etc/b", "22"), tmp, su, dir("var/lib"), file("var/lib/x", "333"), file("var/lib/y", "4444"),
			file("h1", "hard"), hardlink("h2", "h1"), symlink("l", "etc")),
		tarOf(t, dir("etc"), file("etc/a", "changed"), file("etc/.wh.b", ""), dir("var"), dir("var/lib"), file("var/lib/.wh..wh..opq", ""), file("var/lib/y", "5"), file(".wh.h1", ""), file(".wh.nothing", "")),
		tarOf(t, chmod, file("etc/a", "again"), file("h2", "x"), file("new/deep/f", "1"), file(".wh.var", "")),
	)
	layers, err := s.Layers(t.Context(), img, true)
	must(t, err)
	for i, want := range []struct {
		instruction             string
		empty                   bool
		unpacked, wasted        int64
		added, changed, removed int
		tree                    string
	}{
		{"ADD file:123 in /", false, 1 + 2 + 8 + 3 + 4 + 4, 1 + 2 + 3 + 4 + 4, 12, 0, 0, `added etc 0 drwxr-xr-x
added etc/a 1 -rw-r--r-- wasted
added etc/b 2 -rw-r--r-- wasted
added h1 4 -rw-r--r-- wasted
added h2 4 -rw-r--r-- wasted
added l 0 lrwxrwxrwx
added su 8 -rwsr-xr-x
added tmp 0 drwxrwxrwt
added var 0 drwxr-xr-x wasted
added var/lib 0 drwxr-xr-x wasted
added var/lib/x 3 -rw-r--r-- wasted
added var/lib/y 4 -rw-r--r-- wasted`},
		{`CMD ["sh"]`, true, 0, 0, 0, 0, 0, ""},
		{"RUN /bin/sh -c apt-get update", false, 7 + 1, 7 + 1, 0, 2, 3, `changed etc/a 7 -rw-r--r-- wasted
removed etc/b 2 -rw-r--r--
removed h1 4 -rw-r--r--
removed var/lib/x 3 -rw-r--r--
changed var/lib/y 1 -rw-r--r-- wasted`},
		{"RUN make", false, 5 + 1 + 1, 0, 3, 3, 3, `changed etc 0 drwx------
changed etc/a 5 -rw-r--r--
changed h2 1 -rw-r--r--
added new 0 drwxr-xr-x
added new/deep 0 drwxr-xr-x
added new/deep/f 1 -rw-r--r--
removed var 0 drwxr-xr-x
removed var/lib 0 drwxr-xr-x
removed var/lib/y 1 -rw-r--r--`},
		{"imported", true, 0, 0, 0, 0, 0, ""},
	} {
		l := layers[i]
		if l.Instruction != want.instruction || l.Empty != want.empty || l.Unpacked != want.unpacked || l.Wasted != want.wasted ||
			l.Added != want.added || l.Changed != want.changed || l.Removed != want.removed || (l.Digest == "") != want.empty || (l.Size == 0) != want.empty || (l.DiffID == "") != want.empty {
			l.Tree = nil
			t.Errorf("instruction %d: got %+v, want %+v", i, l, want)
		}
		if got := strings.Join(shown(layers[i]), "\n"); got != want.tree {
			t.Errorf("instruction %d:\n%s\nwant:\n%s", i, got, want.tree)
		}
	}
	plain, err := s.Layers(t.Context(), img, false)
	if err != nil || plain[0].Tree != nil || plain[0].Added != 12 {
		t.Errorf("without tree: %+v, %v", plain[0], err)
	}
}

// Every layer has a row, whatever the history says.
func TestLayersWithoutHistory(t *testing.T) {
	s := newStore(t)
	for name, history := range map[string][]ispec.History{
		"none":     nil,
		"too few":  {{CreatedBy: "a"}},
		"too many": {{CreatedBy: "a"}, {CreatedBy: "b"}, {CreatedBy: "c"}},
	} {
		layers, err := s.Layers(t.Context(), withHistory(t, s, history, tarOf(t, file("a", "1")), tarOf(t, file("b", "1"))), false)
		if err != nil || len(layers) != max(2, len(history)) || layers[1].Added != 1 || layers[1].Digest == "" || len(layers) == 3 && !layers[2].Empty {
			t.Errorf("%s: %+v, %v", name, layers, err)
		}
	}
}

// What the layers are said to make together is what overlayfs makes of them.
func TestLayersAsOverlay(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	whole := 0
	for round := range 40 {
		s := newStore(t)
		var tars [][]byte
		for range 4 {
			tars = append(tars, randomLayer(t, r))
		}
		img := importLayers(t, s, "app", tars...)
		lower, err := s.Unpack(t.Context(), img)
		if err != nil || len(lower) < len(tars) {
			continue // it contradicts itself, or has one layer twice
		}
		whole++
		view := &layersView{root: &viewNode{dir: true}, limit: 1000}
		for i, l := range img.Manifest.Layers {
			must(t, s.viewLayer(t.Context(), view, l, &viewLayer{}))
			merged := filepath.Join(tempDir(t), "merged")
			mkdir(t, merged)
			must(t, overlay.Mount(merged, lower[len(lower)-1-i:], "", "", overlay.Options{}, nil))
			// A directory of one layer alone shows that layer's whiteouts as well.
			want := slices.DeleteFunc(listing(t, merged), func(name string) bool {
				info, err := os.Lstat(filepath.Join(merged, name))
				return err != nil || info.Mode()&os.ModeDevice != 0
			})
			must(t, overlay.Unmount(merged, nil))
			got := view.root.paths(".")
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				for _, l := range tars[:i+1] {
					t.Log(entriesOf(t, l))
				}
				t.Fatalf("round %d, layer %d:\nview    %v\noverlay %v", round, i, got, want)
			}
		}
	}
	if whole < 10 {
		t.Errorf("only %d images could be unpacked", whole)
	}
}

func (n *viewNode) paths(at string) (all []string) {
	for base, child := range n.children {
		name := path.Join(at, base)
		all = append(append(all, name), child.paths(name)...)
	}
	return all
}

func randomLayer(t *testing.T, r *rand.Rand) []byte {
	t.Helper()
	names := []string{"a", "b", "c"}
	var entries []tar.Header
	for range 1 + r.IntN(6) {
		var parts []string
		for range 1 + r.IntN(3) {
			parts = append(parts, names[r.IntN(len(names))])
		}
		name := path.Join(parts...)
		switch r.IntN(6) {
		case 0:
			entries = append(entries, file(path.Join(path.Dir(name), ".wh."+path.Base(name)), ""))
		case 1:
			entries = append(entries, dir(name), file(name+"/.wh..wh..opq", ""))
		case 2:
			entries = append(entries, file(name, "x"))
		case 3:
			entries = append(entries, symlink(name, "a"))
		default:
			entries = append(entries, dir(name))
		}
	}
	return tarOf(t, entries...)
}

func entriesOf(t *testing.T, layer []byte) (names []string) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(layer))
	for hdr, err := tr.Next(); err == nil; hdr, err = tr.Next() {
		names = append(names, string(hdr.Typeflag)+hdr.Name)
	}
	return names
}

func TestLayersRefuses(t *testing.T) {
	for want, entries := range map[string][]tar.Header{
		`entry "../x": path with ".."`:                          {file("../x", "1")},
		`entry "out/f": a symlink leads out`:                    {symlink("out", "../.."), file("out/f", "1")},
		`entry "a/f": symlinks go round in a circle`:            {symlink("a", "b"), symlink("b", "a"), file("a/f", "1")},
		`entry "h": hard link to "g": no such file`:             {hardlink("h", "g")},
		"more than 20 entries":                                  {file(strings.Repeat("d/", 30)+"f", "1")},
		"its path has 6001 bytes, at most 4095 can be unpacked": {file(strings.Repeat("d/", 3000)+"f", "1")},
	} {
		s := newStore(t)
		s.limits.Files = 20
		if _, err := s.Layers(t.Context(), importLayers(t, s, "app", tarOf(t, entries...)), true); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	s := newStore(t)
	img := importLayers(t, s, "app", tarOf(t, file("f", "1")))
	must(t, os.Remove(s.blobPath(img.Manifest.Layers[0].Digest)))
	if _, err := s.Layers(t.Context(), img, true); !errdefs.IsNotFound(err) {
		t.Errorf("without its blob: %v", err)
	}
}
