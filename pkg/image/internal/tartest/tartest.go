// Package tartest writes the tars that tests need, well-formed or not.
package tartest

import (
	"archive/tar"
	"bytes"
	"testing"
)

// paxData carries an entry's content from File to Of.
const paxData = "SBT.data"

// File is a regular file's entry.
func File(name, data string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)),
		PAXRecords: map[string]string{paxData: data}}
}

// Data is the content of an entry from File.
func Data(h tar.Header) string { return h.PAXRecords[paxData] }

// Dir is a directory's entry.
func Dir(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}
}

// Symlink is the entry of a symbolic link.
func Symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
}

// Hardlink is the entry of a hard link.
func Hardlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}
}

// Of writes entries as they are, also those that no honest tool writes.
func Of(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		data := Data(h)
		delete(h.PAXRecords, paxData)
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := w.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
