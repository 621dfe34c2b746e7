package image

import (
	"crypto/rand"
	"testing"
)

// BenchmarkUnpack unpacks one layer of many small files, and one of few large
// ones, as a first `sandbox run` of an image does.
func BenchmarkUnpack(b *testing.B) {
	noise := make([]byte, 64<<20)
	if _, err := rand.Read(noise); err != nil {
		b.Fatal(err)
	}
	for name, layer := range map[string][]byte{
		"1000 files": bigLayer(b, 1),
		"64 MiB":     tarOf(b, file("f", string(noise))),
	} {
		b.Run(name, func(b *testing.B) {
			s := newStore(b)
			img := importLayers(b, s, "app", layer)
			dir := s.layerDir(img.Config.RootFS.DiffIDs[0])
			b.SetBytes(int64(len(layer)))
			for b.Loop() {
				if _, err := s.Unpack(b.Context(), img); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				s.Close()
				if err := clearLayer(dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
