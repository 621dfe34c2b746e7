package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The image to unpack: sizes of files are spread like those of a Debian system
// with some programs, many of a few kB and few of some MB.
const (
	bigName   = "docker.io/library/bench-big:latest"
	bigLayers = 10
	bigFiles  = 10000
	bigBytes  = 300e6
)

// dockerfile has what a build of a small service has: tools and sources in one
// layer each, two stages that can be built at the same time, a result of a few files.
const dockerfile = `FROM toolbox AS base
WORKDIR /src
RUN mkdir -p /out && printf 'one\ntwo\nthree\n' >/etc/settings

FROM base AS left
COPY left /src/
RUN find . -type f | sort | xargs sha256sum >/out/sums
RUN tar -cf /out/left.tar . && rm -rf /src/*

FROM base AS right
COPY right /src/
RUN find . -type f | sort | xargs cat | tr a-z A-Z | wc >/out/count
RUN cp -r . /out/ && chmod -R a+rX /out

FROM toolbox
COPY --from=left /out /usr/share/left
COPY --from=right /out /usr/share/right
RUN echo 'service:x:1000:1000::/:/bin/sh' >>/etc/passwd && mkdir -p /var/lib/service && chown 1000:1000 /var/lib/service
ENV LISTEN=:8080
USER service
CMD ["cat", "/usr/share/left/sums"]
`

// writeContext makes a build's folder: the Dockerfile and 600 files, 12 MB.
func writeContext(dir string) error {
	g := newGenerator()
	for _, side := range []string{"left", "right"} {
		for i := range 300 {
			name := filepath.Join(dir, side, fmt.Sprintf("package%d", i%20), fmt.Sprintf("file%d.txt", i))
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(name, g.content(20e3, false), 0o644); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644)
}

// generator makes files, the same at every run.
type generator struct {
	*rand.Rand
	words  []string
	source *rand.ChaCha8
}

func newGenerator() *generator {
	source := rand.NewChaCha8(sha256.Sum256([]byte("bench")))
	g := &generator{Rand: rand.New(source), source: source}
	for range 4000 {
		word := make([]byte, 3+g.IntN(9))
		for i := range word {
			word[i] = byte('a' + g.IntN(26))
		}
		g.words = append(g.words, string(word)+" ")
	}
	return g
}

// content is text, which gzip makes about a third of, or like a program with
// parts that cannot be made smaller.
func (g *generator) content(size int, program bool) []byte {
	b := make([]byte, 0, size+16)
	for len(b) < size {
		if program && g.IntN(3) == 0 {
			random := make([]byte, 512)
			_, _ = g.source.Read(random)
			b = append(b, random...)
			continue
		}
		b = append(b, g.words[g.IntN(len(g.words))]...)
	}
	return b[:size]
}

// sizes are those of n files, total bytes together.
func (g *generator) sizes(n int, total float64) []int {
	weights := make([]float64, n)
	var sum float64
	for i := range weights {
		weights[i] = math.Exp(2 * g.NormFloat64())
		sum += weights[i]
	}
	sizes := make([]int, n)
	for i, w := range weights {
		sizes[i] = int(w / sum * total)
	}
	return sizes
}

// writeImage writes an image as an archive that is both an OCI layout and what
// `docker save` writes, with layers as registries have them, compressed by gzip. It
// returns how many bytes and files there are in the image.
func writeImage(to string) (size int64, files int, err error) {
	g := newGenerator()
	sizes := g.sizes(bigFiles, bigBytes)
	blobs := map[digest.Digest][]byte{}
	put := func(mediaType string, data []byte) ispec.Descriptor {
		d := digest.FromBytes(data)
		blobs[d] = data
		return ispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	var manifest ispec.Manifest
	config := ispec.Image{
		Platform: ispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   ispec.ImageConfig{Env: []string{"PATH=/bin"}},
		RootFS:   ispec.RootFS{Type: "layers"},
	}
	var paths []string // of layers in the archive
	for i := range bigLayers {
		data, err := g.layer(i, sizes[i*bigFiles/bigLayers:(i+1)*bigFiles/bigLayers])
		if err != nil {
			return 0, 0, err
		}
		var packed bytes.Buffer
		zw := gzip.NewWriter(&packed)
		if _, err := zw.Write(data); err != nil {
			return 0, 0, err
		}
		if err := zw.Close(); err != nil {
			return 0, 0, err
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(data))
		layer := put(ispec.MediaTypeImageLayerGzip, packed.Bytes())
		manifest.Layers = append(manifest.Layers, layer)
		paths = append(paths, blobPath(layer.Digest))
	}
	for _, n := range sizes {
		size += int64(n)
	}
	document := func(mediaType string, v any) (ispec.Descriptor, error) {
		b, err := json.Marshal(v)
		return put(mediaType, b), err
	}
	manifest.Versioned, manifest.MediaType = specs.Versioned{SchemaVersion: 2}, ispec.MediaTypeImageManifest
	if manifest.Config, err = document(ispec.MediaTypeImageConfig, config); err != nil {
		return 0, 0, err
	}
	desc, err := document(manifest.MediaType, manifest)
	if err != nil {
		return 0, 0, err
	}
	desc.Platform = &config.Platform
	desc.Annotations = map[string]string{"io.containerd.image.name": bigName, ispec.AnnotationRefName: "latest"}
	return size, bigFiles, writeArchive(to, blobs, map[string]any{
		ispec.ImageLayoutFile: ispec.ImageLayout{Version: ispec.ImageLayoutVersion},
		ispec.ImageIndexFile:  ispec.Index{Versioned: manifest.Versioned, MediaType: ispec.MediaTypeImageIndex, Manifests: []ispec.Descriptor{desc}},
		"manifest.json": []map[string]any{{
			"Config": blobPath(manifest.Config.Digest), "RepoTags": []string{bigName}, "Layers": paths,
		}},
	})
}

func blobPath(d digest.Digest) string {
	return path.Join(ispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// layer makes the tar of one layer. The first has a program to run.
func (g *generator) layer(n int, sizes []int) ([]byte, error) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	add := func(name string, mode int64, content []byte) error {
		hdr := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(1e9, 0)}
		if content == nil {
			hdr.Typeflag = tar.TypeDir
		}
		if err := tw.WriteHeader(hdr); err != nil {
			return err
		}
		_, err := tw.Write(content)
		return err
	}
	if n == 0 {
		program, err := exec.LookPath("busybox")
		if err != nil {
			return nil, err
		}
		content, err := os.ReadFile(program)
		if err != nil {
			return nil, err
		}
		if err := add("bin/", 0o755, nil); err != nil {
			return nil, err
		}
		if err := add("bin/true", 0o755, content); err != nil {
			return nil, err
		}
	}
	for i, size := range sizes {
		dir := fmt.Sprintf("usr/lib/layer%d/dir%d/", n, i/25)
		if i%25 == 0 {
			if err := add(dir, 0o755, nil); err != nil {
				return nil, err
			}
		}
		if err := add(fmt.Sprintf("%sfile%d", dir, i), 0o644, g.content(size, size > 64<<10)); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), tw.Close()
}

func writeArchive(to string, blobs map[digest.Digest][]byte, documents map[string]any) (err error) {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	tw := tar.NewWriter(f)
	write := func(name string, data []byte) error {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err := io.Copy(tw, bytes.NewReader(data))
		return err
	}
	for name, v := range documents {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := write(name, b); err != nil {
			return err
		}
	}
	for d, data := range blobs {
		if err := write(blobPath(d), data); err != nil {
			return err
		}
	}
	return tw.Close()
}
