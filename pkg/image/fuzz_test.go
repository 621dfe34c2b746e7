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
