package image

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"
)

// skippable is a frame of zstd that holds no data (RFC 8878, 3.1.2).
func skippable(data string) []byte {
	frame := binary.LittleEndian.AppendUint32(nil, 0x184d2a5e)
	return append(binary.LittleEndian.AppendUint32(frame, uint32(len(data))), data...)
}

// Archives in the forms in which they are handed on.
func TestImportCompressed(t *testing.T) {
	l := tarOf(t, file("f", "1"))
	plain := newArchive(t, "app", l).seal(t).bytes(t)
	var xzed bytes.Buffer
	w, err := xz.NewWriter(&xzed)
	must(t, err)
	_, err = w.Write(plain)
	must(t, err)
	must(t, w.Close())
	enc, err := zstd.NewWriter(nil)
	must(t, err)
	half := len(plain) / 2
	one, err := compress(plain[:half])
	must(t, err)
	two, err := compress(plain[half:])
	must(t, err)
	forms := map[string][]byte{
		"xz":                          xzed.Bytes(),
		"zstd with frames to skip":    slices.Concat(skippable("contents"), enc.EncodeAll(plain, nil), skippable("")),
		"zstd of several frames":      append(enc.EncodeAll(plain[:half], nil), enc.EncodeAll(plain[half:], nil)...),
		"gzip of several members":     append(one, two...),
		"more after the end marker":   append(plain, "garbage"...),
		"nothing where the end marks": bytes.TrimRight(plain, "\x00"),
	}
	// Padded to a block again.
	cut := forms["nothing where the end marks"]
	forms["nothing where the end marks"] = append(cut, make([]byte, (512-len(cut)%512)%512)...)
	if path, err := exec.LookPath("bzip2"); err == nil {
		cmd := exec.Command(path, "-c")
		cmd.Stdin = bytes.NewReader(plain)
		forms["bzip2"], err = cmd.Output()
		must(t, err)
	}
	for name, data := range forms {
		t.Run(name, func(t *testing.T) {
			images, err := newStore(t).Import(t.Context(), bytes.NewReader(data), ImportOptions{})
			if err != nil || len(images) != 1 {
				t.Errorf("imported %+v, %v", images, err)
			}
		})
	}
}

// Layers in the forms that registries have them, whatever their type says.
func TestUnpackCompressed(t *testing.T) {
	l := tarOf(t, file("f", "1"))
	enc, err := zstd.NewWriter(nil)
	must(t, err)
	one, err := compress(l[:700])
	must(t, err)
	two, err := compress(l[700:])
	must(t, err)
	empty, err := compress(nil)
	must(t, err)
	for name, c := range map[string]struct {
		mediaType  string
		blob, data []byte
	}{
		"zstd in chunks":            {ispec.MediaTypeImageLayerZstd, slices.Concat(skippable("x"), enc.EncodeAll(l[:700], nil), enc.EncodeAll(l[700:], nil), skippable("toc")), l},
		"gzip of several members":   {ispec.MediaTypeImageLayerGzip, append(one, two...), l},
		"gzip that is none":         {ispec.MediaTypeImageLayerGzip, l, l},
		"zstd that is gzip":         {ispec.MediaTypeImageLayerZstd, append(one, two...), l},
		"plain that is zstd":        {ispec.MediaTypeImageLayer, enc.EncodeAll(l, nil), l},
		"docker's gzip":             {dockerLayer + ".gzip", append(one, two...), l},
		"no bytes":                  {ispec.MediaTypeImageLayer, nil, nil},
		"no bytes, compressed":      {ispec.MediaTypeImageLayerGzip, empty, nil},
		"no entries":                {ispec.MediaTypeImageLayer, make([]byte, 1024), make([]byte, 1024)},
		"garbage after the end":     {ispec.MediaTypeImageLayer, append(slices.Clone(l), "garbage"...), append(slices.Clone(l), "garbage"...)},
		"without the end's marking": {ispec.MediaTypeImageLayer, l[:len(l)-1024], l[:len(l)-1024]},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			a := newArchive(t, "app")
			a.manifest.Layers = []ispec.Descriptor{a.blob(c.mediaType, c.blob)}
			a.config.RootFS.DiffIDs = []digest.Digest{digest.FromBytes(c.data)}
			images, err := s.Import(t.Context(), bytes.NewReader(a.seal(t).bytes(t)), ImportOptions{})
			must(t, err)
			dirs, err := s.Unpack(t.Context(), images[0])
			must(t, err)
			if got := listing(t, dirs[0]); len(c.data) > 1024 && !slices.Equal(got, []string{"f"}) {
				t.Errorf("layer holds %v", got)
			}
		})
	}
}

// Of an archive that was appended to, as by tar -r, the last entries count.
func TestImportLastWins(t *testing.T) {
	old, l := tarOf(t, file("f", "1")), tarOf(t, file("f", "2"))
	images, err := newStore(t).Import(t.Context(), bytes.NewReader(tarOf(t,
		file("c.json", dockerConfig(old)), symlink("l.tar", "x"), file("l.tar", string(old)),
		manifestJSON(t, dockerImage{"c.json", []string{"old:1", "old:2"}, []string{"l.tar"}}, dockerImage{"c.json", nil, []string{"l.tar"}}),
		file("c.json", dockerConfig(l)), file("./l.tar", string(l)),
		manifestJSON(t, dockerImage{"c.json", []string{"new:1"}, []string{"l.tar"}}))), ImportOptions{})
	if err != nil || len(images) != 1 || images[0].Name != "new:1" || images[0].Config.RootFS.DiffIDs[0] != digest.FromBytes(l) {
		t.Errorf("docker's: %+v, %v", images, err)
	}
	first, last := newArchive(t, "first", old).seal(t), newArchive(t, "last", l).seal(t)
	data := bytes.TrimRight(first.bytes(t), "\x00")
	data = append(data, make([]byte, (512-len(data)%512)%512)...)
	images, err = newStore(t).Import(t.Context(), bytes.NewReader(append(data, last.bytes(t)...)), ImportOptions{})
	if err != nil || len(images) != 1 || images[0].Name != "last:latest" {
		t.Errorf("a layout: %+v, %v", images, err)
	}
}
