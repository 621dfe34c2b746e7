package build_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

// benched has what builds consist of: many small files and a large one to copy,
// commands that read and write, stages that can be built at the same time.
const benched = `FROM scratch AS tools
COPY busybox /bin/busybox
COPY busybox /bin/sh
ENV PATH=/bin
FROM tools AS a
WORKDIR /src
COPY src .
RUN busybox cat */* | busybox sha256sum > /out
FROM tools AS b
RUN busybox mkdir /many && for i in $(busybox seq 2000); do echo $i > /many/$i; done
RUN busybox rm /many/1*
FROM scratch
COPY --from=a /out /
COPY --from=b /many /many
COPY large /
CMD ["/out"]
`

func benchContext(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	files := map[string]string{"Dockerfile": benched}
	for i := range 1000 {
		files[fmt.Sprintf("src/%d/%d", i%20, i)] = fmt.Sprint(i)
	}
	writeTree(b, dir, files)
	copyFile(b, busybox(b), filepath.Join(dir, "busybox"))
	large := make([]byte, 32<<20)
	r := rand.NewChaCha8([32]byte{})
	for i := range large {
		if i%2 == 0 { // so that it can be compressed, as programs can
			large[i] = byte(r.Uint64())
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), large, 0o644); err != nil {
		b.Fatal(err)
	}
	return dir
}

// BenchmarkBuild builds with all layers to make, and with none. The first build
// of each, which learns what the files of the context are, does not count.
func BenchmarkBuild(b *testing.B) {
	dir := benchContext(b)
	for _, warm := range []bool{false, true} {
		b.Run(map[bool]string{false: "cold", true: "warm"}[warm], func(b *testing.B) {
			bld := newBuilder(b)
			one := func(o *build.Options) { o.ContextDir, o.NoCache, o.Emit = dir, !warm, nil }
			bld.must(benched, nil, one)
			for b.Loop() {
				bld.must(benched, nil, one)
			}
		})
	}
}

// BenchmarkDocker is the same with Docker.
func BenchmarkDocker(b *testing.B) {
	d := startDocker(b)
	dir := benchContext(b)
	for _, warm := range []bool{false, true} {
		b.Run(map[bool]string{false: "cold", true: "warm"}[warm], func(b *testing.B) {
			args := []string{"build", "-q", "--network", "none", "-t", "bench", dir}
			d.run(b, args...)
			if !warm {
				args = append(args, "--no-cache")
			}
			for b.Loop() {
				d.run(b, args...)
			}
		})
	}
}
