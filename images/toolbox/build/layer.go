package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// layer collects the files of one layer.
type layer struct{ entries []*entry }

type entry struct {
	header tar.Header
	data   []byte
}

func (l *layer) add(h tar.Header, data []byte) *entry {
	e := &entry{h, data}
	l.entries = append(l.entries, e)
	return e
}

func (l *layer) dir(name string, mode int64) *entry {
	return l.add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

func (l *layer) file(name string, mode int64, data []byte) *entry {
	return l.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}, data)
}

func (l *layer) symlink(name, target string) *entry {
	return l.add(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

func (l *layer) copy(name string, mode int64, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	l.file(name, mode, data)
	return nil
}

func (e *entry) own(id int) { e.header.Uid, e.header.Gid = id, id }

// tar writes the entries in the order of their names, with nothing of this
// machine in them. A directory comes before what is in it; every directory is
// there, also those of the layers below, or unpacking would have to make up
// their modes.
func (l *layer) tar(at time.Time) ([]byte, error) {
	have := map[string]bool{}
	for _, e := range l.entries {
		have[e.header.Name] = true
	}
	for _, e := range slices.Clone(l.entries) {
		for dir := path.Dir(path.Clean(e.header.Name)); !have[dir+"/"]; dir = path.Dir(dir) {
			have[dir+"/"] = true
			l.dir(dir, 0o755)
		}
	}
	slices.SortFunc(l.entries, func(a, b *entry) int { return strings.Compare(a.header.Name, b.header.Name) })
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range l.entries {
		e.header.ModTime = at
		e.header.Format = tar.FormatPAX
		if err := w.WriteHeader(&e.header); err != nil {
			return nil, fmt.Errorf("%s: %w", e.header.Name, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("%s: %w", e.header.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
