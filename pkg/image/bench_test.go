package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image/internal/tartest"
	"golang.org/x/sys/unix"
)

// sample is an archive of an image as they are on average: 300 MB in three
// layers, of 12000 small files and 60 large ones, that gzip halves.
func sample(b *testing.B) (data []byte, unpacked int64) {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	words := make([]byte, 1<<20)
	for i := range words {
		words[i] = "etaoin shrdlu\n"[r.IntN(14)]
	}
	content := func(size int) []byte {
		out := make([]byte, 0, size+4096)
		for len(out) < size { // text, and of every 4 KiB some noise
			at := r.IntN(len(words) - 3000)
			out = append(out, words[at:at+1000+r.IntN(2000)]...)
			for range 100 {
				out = append(out, byte(r.Uint32()), byte(r.Uint32()))
			}
		}
		return out[:size]
	}
	a := newArchive(b, "sample")
	for layer := range 3 {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		add := func(name string, data []byte) {
			must(b, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1e9, 0)}))
			_, err := w.Write(data)
			must(b, err)
		}
		for d := range 400 {
			dir := fmt.Sprintf("usr/lib/%d/%d", layer, d)
			must(b, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(1e9, 0)}))
			for f := range 10 {
				add(fmt.Sprintf("%s/%d.py", dir, f), content(500+r.IntN(12_000)))
			}
		}
		for f := range 20 {
			add(fmt.Sprintf("usr/bin/%d-%d", layer, f), content(1<<20+r.IntN(6<<20)))
		}
		must(b, w.Close())
		unpacked += int64(out.Len())
		var packed bytes.Buffer
		zw := pgzip.NewWriter(&packed)
		_, err := zw.Write(out.Bytes())
		must(b, err)
		must(b, zw.Close())
		a.manifest.Layers = append(a.manifest.Layers, a.blob(ispec.MediaTypeImageLayerGzip, packed.Bytes()))
		a.config.RootFS.DiffIDs = append(a.config.RootFS.DiffIDs, digest.FromBytes(out.Bytes()))
	}
	// Docker's list of contents as well, so that all can read it.
	a.seal(b)
	entry := dockerImage{Config: blobName(a.manifest.Config.Digest), RepoTags: []string{"sample:latest"}}
	for _, l := range a.manifest.Layers {
		entry.Layers = append(entry.Layers, blobName(l.Digest))
	}
	list := manifestJSON(b, entry)
	a.add("manifest.json", []byte(tartest.Data(list)))
	return a.bytes(b), unpacked
}

// BenchmarkSample brings an image of 300 MB in, from its archive to folders
// that can be mounted: here and, for comparison, by Docker and containerd. The
// disk is a large part of it, and ext4 takes its time for new files for some
// minutes after many were deleted: with TMPDIR on a tmpfs the programs alone
// are compared.
func BenchmarkSample(b *testing.B) {
	data, unpacked := sample(b)
	path := filepath.Join(tempDir(b), "sample.tar")
	must(b, os.WriteFile(path, data, 0o600))
	b.Logf("%d MB, compressed %d MB", unpacked/1e6, len(data)/1e6)
	measure := func(b *testing.B, do, undo func(b *testing.B)) {
		b.SetBytes(unpacked)
		var spent time.Duration
		defer func() { b.ReportMetric(spent.Seconds()/float64(b.N), "cpu-s/op") }()
		for b.Loop() {
			before := cpuTime(b)
			do(b)
			b.StopTimer()
			spent += cpuTime(b) - before
			undo(b)
			must(b, exec.Command("sync").Run()) // or the next one pays for it
			b.StartTimer()
		}
	}
	b.Run("import", func(b *testing.B) {
		s := newStore(b)
		measure(b, func(b *testing.B) { importFile(b, s, path) }, func(b *testing.B) { empty(b, s) })
	})
	b.Run("unpack", func(b *testing.B) {
		s := newStore(b)
		img := importFile(b, s, path)
		measure(b, func(b *testing.B) {
			_, err := s.Unpack(b.Context(), img)
			must(b, err)
		}, func(b *testing.B) {
			s.Close()
			for _, id := range img.Config.RootFS.DiffIDs {
				must(b, clearLayer(s.layerDir(id)))
			}
		})
	})
	b.Run("both", func(b *testing.B) {
		s := newStore(b)
		measure(b, func(b *testing.B) {
			_, err := s.Unpack(b.Context(), importFile(b, s, path))
			must(b, err)
		}, func(b *testing.B) { empty(b, s) })
	})
	b.Run("docker load", func(b *testing.B) {
		docker := startDocker(b, "overlay2")
		measure(b, func(b *testing.B) { run(b, append(docker, "load", "-q", "-i", path)...) },
			func(b *testing.B) { run(b, append(docker, "image", "rm", "-f", "sample")...) })
	})
	b.Run("ctr image import", func(b *testing.B) {
		ctr := startContainerd(b)
		measure(b, func(b *testing.B) { run(b, append(ctr, "image", "import", path)...) },
			func(b *testing.B) {
				run(b, append(ctr, "image", "rm", "--sync", "docker.io/library/sample:latest")...)
			})
	})
}

// cpuTime is what this process and the children that it waits for have used,
// and the daemons among its children.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var total time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		must(b, unix.Getrusage(who, &u))
		total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(b, err)
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// proc_pid_stat(5): after the name in parentheses ppid is the second
		// field, and the times are the 12th to 15th, in ticks of 10 ms.
		_, rest, _ := strings.Cut(string(data), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 15 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		for _, f := range fields[11:15] {
			ticks, err := strconv.Atoi(f)
			must(b, err)
			total += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return total
}

func importFile(b *testing.B, s *Store, path string) Image {
	b.Helper()
	f, err := os.Open(path)
	must(b, err)
	defer f.Close()
	images, err := s.Import(b.Context(), f, ImportOptions{})
	must(b, err)
	return images[0]
}

// empty removes everything from a store.
func empty(b *testing.B, s *Store) {
	b.Helper()
	s.Close()
	must(b, s.Remove(b.Context(), "sample"))
	_, err := s.GC(b.Context(), nil)
	must(b, err)
}

// BenchmarkUnpack unpacks one layer of many small files, and one of few large
// ones, as a first `sandbox run` of an image does.
func BenchmarkUnpack(b *testing.B) {
	for name, layer := range map[string][]byte{
		"1000 files": bigLayer(b, 1),
		"64 MiB":     tarOf(b, file("f", noise(b, 64<<20))),
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
