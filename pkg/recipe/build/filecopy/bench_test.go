package filecopy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// benchTree is 6,000 small files and 4 large ones, 300 MB, as what `npm install`
// or `go build` leaves.
func benchTree(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	small := make([]byte, 7000)
	for i := range small {
		small[i] = byte(rand.Int())
	}
	for i := range 6000 {
		sub := filepath.Join(dir, "tree", fmt.Sprint(i/600), fmt.Sprint(i/20))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), small[:i], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 4 {
		if err := os.WriteFile(filepath.Join(dir, "tree", fmt.Sprint("large", i)), bytes.Repeat(small[:4096], 17<<10), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func BenchmarkCopy(b *testing.B) {
	dir := benchTree(b)
	for name, copyTree := range map[string]func(to string) error{
		"filecopy": func(to string) error {
			return Copy(b.Context(), Tree{Root: dir}, []string{"tree"}, to, "/", Options{KeepOwner: true})
		},
		"cp -a": func(to string) error { return exec.Command("cp", "-a", dir+"/tree/.", to).Run() },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				to := b.TempDir()
				b.StartTimer()
				if err := copyTree(to); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				os.RemoveAll(to)
				b.StartTimer()
			}
		})
	}
}

func BenchmarkDigest(b *testing.B) {
	dir := benchTree(b)
	for name, cache := range map[string]*Cache{"fresh": nil, "remembered": {}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := (Tree{Root: dir, Cache: cache}).Digest(b.Context(), []string{"tree"}, Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
