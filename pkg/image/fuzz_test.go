package image

import (
	"archive/tar"
	"bytes"
	"testing"
)

// Fuzz with -fuzzminimizetime 10x: minimizing takes most of the time otherwise.

// FuzzImport: whatever an archive holds, it is imported whole or not at all.
func FuzzImport(f *testing.F) {
	good := newArchive(f, "app", tarOf(f, file("f", "1"))).seal(f).bytes(f)
	f.Add(good)
	f.Add(good[:len(good)/2])
	packed, err := compress(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	layer := tarOf(f, file("f", "1"))
	config := dockerConfig(layer)
	for _, entries := range [][]tar.Header{
		{file("l/layer.tar", string(layer)), file("c.json", config), manifestJSON(f, dockerImage{"c.json", []string{"app"}, []string{"l/layer.tar"}})},
		{symlink("l/layer.tar", "../m/layer.tar"), file("m/layer.tar", string(layer)), file("c.json", config), manifestJSON(f, dockerImage{"c.json", nil, []string{"l/layer.tar"}})},
		{manifestJSON(f, dockerImage{"../c", []string{"app"}, []string{"/l"}}), symlink("s", "s"), hardlink("h", "../h")},
		{file("repositories", "{}")},
	} {
		f.Add(tarOf(f, entries...))
	}
	f.Add(tarOf(f, file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", `{"manifests":[{}]}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newStore(t)
		s.limits.Archive = 1 << 20
		images, err := s.Import(t.Context(), bytes.NewReader(data), ImportOptions{})
		list, lerr := s.List()
		if lerr != nil {
			t.Fatal(lerr)
		}
		if err != nil && len(list) > 0 || err == nil && len(list) == 0 {
			t.Fatalf("import: %v, %v; the store lists %v", images, err, list)
		}
		checkClean(t, s)
	})
}

// FuzzLayers: whatever layers hold, what is told of them adds up.
func FuzzLayers(f *testing.F) {
	f.Add(tarOf(f, dir("d"), file("d/f", "1"), hardlink("h", "d/f"), symlink("l", "d"), file("l/g", "2")), tarOf(f, file(".wh.d", ""), file("h", "3")))
	f.Add(tarOf(f, file("d/f", "1"), symlink("a", "b"), symlink("b", "a")), tarOf(f, file("d/.wh..wh..opq", ""), file("a/f", "")))
	f.Add(tarOf(f, file("f", "1"), file("f", "22"), hardlink("f", "f")), tarOf(f, dir("f/g/h"), file("f/.wh.g", "")))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		view := &layersView{root: &viewNode{dir: true}, limit: 1000}
		var rows []*viewLayer
		for _, data := range [][]byte{a, b} {
			row := &viewLayer{}
			view.begin(row)
			rows = append(rows, row)
			tr := tar.NewReader(bytes.NewReader(data))
			for {
				hdr, err := tr.Next()
				if err != nil || hdr.Size > 1<<40 {
					break
				}
				if view.entry(hdr) != nil {
					return
				}
			}
		}
		for i, row := range rows {
			row.finish(true)
			if row.Unpacked < 0 || row.Wasted < 0 || row.Wasted > row.Unpacked || row.Added+row.Changed+row.Removed != len(row.Tree) || i == len(rows)-1 && row.Wasted > 0 {
				t.Fatalf("layer %d: %+v", i, row.ImageLayer)
			}
		}
	})
}
