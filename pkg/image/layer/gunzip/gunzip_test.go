package gunzip

import (
	"bytes"
	"compress/flate"
	stdgzip "compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/pgzip"
)

func read(data []byte) ([]byte, error) {
	z, err := NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// contents are of all sorts: what codes and blocks are like depends on it.
func contents() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	skewed := make([]byte, 1<<20) // gives codes of all lengths
	for i := range skewed {
		skewed[i] = byte(r.ExpFloat64() * 9)
	}
	var words bytes.Buffer
	for words.Len() < 2<<20 {
		words.WriteString(strings.Repeat("word"[r.IntN(4):], r.IntN(30)))
		words.WriteByte(byte(r.Uint32()))
	}
	far := append(append(bytes.Clone(noise[:window-100]), noise[:300]...), noise[:window]...) // matches at the window's end
	return map[string][]byte{
		"nothing": nil, "a byte": {7}, "zeros": make([]byte, 3<<20), "noise": noise, "skewed": skewed,
		"words": words.Bytes(), "far": far, "pairs": bytes.Repeat([]byte("ab"), 500_000), "sevens": bytes.Repeat([]byte("abcdefg"), 200_000),
		"mixed": append(append(bytes.Clone(words.Bytes()[:300_000]), noise[:100_000]...), make([]byte, 500_000)...),
	}
}

func TestReader(t *testing.T) {
	for name, content := range contents() {
		for _, level := range []int{stdgzip.HuffmanOnly, 0, 1, 6, 9} {
			writers := map[string]func(io.Writer) (io.WriteCloser, error){
				"gzip":      func(w io.Writer) (io.WriteCloser, error) { return stdgzip.NewWriterLevel(w, level) },
				"klauspost": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, level) },
				"pgzip":     func(w io.Writer) (io.WriteCloser, error) { return pgzip.NewWriterLevel(w, level) },
			}
			for tool, open := range writers {
				var packed bytes.Buffer
				w, err := open(&packed)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write(content); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if got, err := read(packed.Bytes()); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s by %s at level %d: %d bytes, %v; want %d", name, tool, level, len(got), err, len(content))
				}
			}
		}
	}
}

func pack(t testing.TB, content []byte, level int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := stdgzip.NewWriterLevel(&out, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Input and output may come and go in pieces of any size.
func TestReaderPieces(t *testing.T) {
	content := contents()["mixed"]
	packed := pack(t, content, 6)
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "data with EOF": iotest.DataErrReader,
	} {
		z, err := NewReader(wrap(bytes.NewReader(packed)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(iotest.OneByteReader(z)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	broken := errors.New("broken")
	z, err := NewReader(io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(z); !errors.Is(err, broken) {
		t.Errorf("got %v, want the source's error", err)
	}
	if n, err := z.Read(make([]byte, 1)); n != 0 || !errors.Is(err, broken) {
		t.Errorf("after an error: %d, %v", n, err)
	}
	if _, err := NewReader(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v, want the source's error", err)
	}
}

func TestReaderHeader(t *testing.T) {
	content := []byte("content")
	var out bytes.Buffer
	w := stdgzip.NewWriter(&out)
	w.Name, w.Comment, w.Extra = "name", "comment", bytes.Repeat([]byte("x"), 3000)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// With the header's checksum, which no writer here makes.
	var body bytes.Buffer
	fw, err := flate.NewWriter(&body, 6)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fw.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := fw.Close(); err != nil {
		t.Fatal(err)
	}
	head := []byte{0x1f, 0x8b, 8, flagHeaderCRC, 0, 0, 0, 0, 0, 255}
	head = binary.LittleEndian.AppendUint16(head, uint16(crc32.ChecksumIEEE(head)))
	checked := append(head, body.Bytes()...)
	checked = binary.LittleEndian.AppendUint32(checked, crc32.ChecksumIEEE(content))
	checked = binary.LittleEndian.AppendUint32(checked, uint32(len(content)))
	for name, data := range map[string][]byte{"fields": out.Bytes(), "checksum": checked} {
		if got, err := read(data); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		for n := range len(data) {
			if _, err := read(data[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, first %d bytes: %v, want unexpected EOF", name, n, err)
			}
		}
	}
	checked[4]++
	if _, err := read(checked); !errors.Is(err, ErrCorrupt) {
		t.Errorf("damaged header: %v", err)
	}
}

func TestReaderMembers(t *testing.T) {
	a, b := contents()["words"], contents()["noise"]
	both := append(pack(t, a, 6), append(pack(t, nil, 6), pack(t, b, 1)...)...)
	if got, err := read(both); err != nil || !bytes.Equal(got, append(bytes.Clone(a), b...)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for _, tail := range []string{"x", "garbage that is long", "\x1f\x8b"} {
		if _, err := read(append(bytes.Clone(both), tail...)); err == nil {
			t.Errorf("%q after the end is taken", tail)
		}
	}
	// A match must not reach into the member before.
	member := func(dict []byte, content []byte) []byte {
		var out bytes.Buffer
		fw, err := flate.NewWriterDict(&out, 9, dict)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fw.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := fw.Close(); err != nil {
			t.Fatal(err)
		}
		data := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, out.Bytes()...)
		data = binary.LittleEndian.AppendUint32(data, crc32.ChecksumIEEE(content))
		return binary.LittleEndian.AppendUint32(data, uint32(len(content)))
	}
	text := []byte("some text that comes twice")
	if _, err := read(append(pack(t, text, 6), member(text, text)...)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a match into the member before: %v", err)
	}
}

// Whatever is cut off or changed is found, as the standard library finds it.
func TestReaderDamaged(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	content := append(contents()["words"][:20_000], contents()["noise"][:3000]...)
	for _, level := range []int{0, 1, 9, stdgzip.HuffmanOnly} {
		packed := pack(t, content, level)
		for n := 0; n < len(packed); n += 1 + n/100 {
			if _, err := read(packed[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("level %d, first %d of %d bytes: %v, want unexpected EOF", level, n, len(packed), err)
			}
		}
		for range 2000 {
			bad := bytes.Clone(packed)
			bad[10+r.IntN(len(bad)-10)] ^= 1 << r.IntN(8)
			compare(t, bad)
		}
	}
}

// compare reads data here and by the standard library.
func compare(t *testing.T, data []byte) {
	t.Helper()
	got, err := read(data)
	var want []byte
	std, wantErr := stdgzip.NewReader(bytes.NewReader(data))
	if wantErr == nil {
		want, wantErr = io.ReadAll(io.LimitReader(std, 64<<20))
	}
	if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v; the standard library: %d bytes, %v", len(got), err, len(want), wantErr)
	}
}

// FuzzReader: the same bytes, or an error, as by the standard library. What
// is fuzzed is the body of a member, whose checksum comes from there: others
// would not get past it.
func FuzzReader(f *testing.F) {
	for _, content := range contents() {
		if len(content) < 64<<10 {
			f.Add(content, false)
		}
		packed := pack(f, content[:min(len(content), 5000)], 6)
		f.Add(packed[10:len(packed)-8], true)
		packed = pack(f, content[:min(len(content), 5000)], 1)
		f.Add(packed[10:len(packed)-8], true)
	}
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, data []byte, body bool) {
		if body {
			src := bytes.NewReader(data)
			content, err := io.ReadAll(io.LimitReader(flate.NewReader(src), 8<<20))
			if err == nil {
				data = data[:len(data)-src.Len()] // without what follows the last block
			}
			data = append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, data...)
			data = binary.LittleEndian.AppendUint32(data, crc32.ChecksumIEEE(content))
			data = binary.LittleEndian.AppendUint32(data, uint32(len(content)))
		}
		compare(t, data)
	})
}

func BenchmarkReader(b *testing.B) {
	for _, name := range []string{"words", "skewed", "mixed"} {
		content := contents()[name]
		packed := pack(b, content, 6)
		for reader, open := range map[string]func(io.Reader) (io.Reader, error){
			"ours":      func(r io.Reader) (io.Reader, error) { return NewReader(r) },
			"klauspost": func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
			"std":       func(r io.Reader) (io.Reader, error) { return stdgzip.NewReader(r) },
		} {
			b.Run(name+"/"+reader, func(b *testing.B) {
				b.SetBytes(int64(len(content)))
				buf := make([]byte, 256<<10)
				for b.Loop() {
					r, err := open(bytes.NewReader(packed))
					if err != nil {
						b.Fatal(err)
					}
					if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
