package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// defaultDetachKeys are docker's: ctrl-p, ctrl-q.
var defaultDetachKeys = []byte{0x10, 0x11}

// errDetached ends the copying of stdin when the detach keys were typed.
var errDetached = errors.New("detached")

// parseDetachKeys reads a list of keys, each one character or ctrl- with one of
// a-z @ [ \ ] ^ _.
func parseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, errors.New("the list of keys is empty")
	}
	var keys []byte
	for part := range strings.SplitSeq(s, ",") {
		key, isCtrl := strings.CutPrefix(strings.ToLower(part), "ctrl-")
		switch {
		case isCtrl && len(key) == 1 && (key[0] >= 'a' && key[0] <= 'z' || strings.Contains(`@[\]^_`, key)):
			// A terminal sends the letter's low five bits.
			keys = append(keys, strings.ToUpper(key)[0]&0x1f)
		case len(part) == 1:
			keys = append(keys, part[0])
		default:
			return nil, fmt.Errorf("%q is not a key: one character, or ctrl- and a letter", part)
		}
	}
	return keys, nil
}

// detachReader passes on what r reads, until keys have come in a row: then it
// ends with errDetached. The beginning of the sequence is held back as long as
// it may still become the whole.
type detachReader struct {
	r       io.Reader
	keys    []byte
	matched int    // keys seen so far
	pending []byte // read, and not yet passed on
	err     error
}

func (d *detachReader) Read(p []byte) (int, error) {
	for len(d.pending) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		buf := make([]byte, len(p))
		n, err := d.r.Read(buf)
		d.err = err
		d.scan(buf[:n])
	}
	n := copy(p, d.pending)
	d.pending = d.pending[n:]
	return n, nil
}

// scan moves buf to pending, less the detach keys.
func (d *detachReader) scan(buf []byte) {
	for _, c := range buf {
		if c == d.keys[d.matched] {
			if d.matched++; d.matched == len(d.keys) {
				d.err = errDetached
				return
			}
			continue
		}
		// What was held back was not the sequence; c may begin it anew.
		held := append(bytes.Clone(d.keys[:d.matched]), c)
		d.matched = 0
		if c == d.keys[0] {
			held, d.matched = held[:len(held)-1], 1
			if len(d.keys) == 1 {
				d.err = errDetached
			}
		}
		d.pending = append(d.pending, held...)
	}
	if d.err == io.EOF && d.matched > 0 {
		d.pending = append(d.pending, d.keys[:d.matched]...)
		d.matched = 0
	}
}
