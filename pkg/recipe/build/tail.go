package build

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// What an error shows of a command's output. The two streams come by different
// ways: how they were interleaved is not known for sure. So that what a command
// has complained of is not lost behind what it has printed, some lines of the
// former are always shown.
const (
	lastLines  = 20
	lastErrors = 10      // of which are stderr's, if there are so many
	maxLine    = 1 << 10 // bytes
)

// tail keeps the last lines of an output.
type tail struct {
	kept []line // in the order in which they began
}

type line struct {
	stream string
	text   []byte
	ended  bool
}

func (t *tail) write(stream string, data []byte) {
	for len(data) > 0 {
		part, rest, ended := strings.Cut(string(data), "\n")
		i := t.current(stream)
		l := &t.kept[i]
		l.text = append(l.text, part[:min(len(part), maxLine-len(l.text))]...)
		l.ended = ended
		data = []byte(rest)
	}
	t.trim()
}

// text puts the characters of a stream together that come in pieces: each event
// is text of its own.
type text struct{ rest map[string][]byte }

func (t *text) add(stream string, data []byte) string {
	data = append(t.rest[stream], data...)
	end := len(data)
	for i := 1; i < utf8.UTFMax && i <= len(data); i++ {
		if b := data[len(data)-i]; utf8.RuneStart(b) {
			if !utf8.FullRune(data[len(data)-i:]) {
				end = len(data) - i
			}
			break
		}
	}
	if t.rest == nil {
		t.rest = map[string][]byte{}
	}
	t.rest[stream] = slices.Clone(data[end:])
	return string(data[:end])
}

// current is the line that a stream is in.
func (t *tail) current(stream string) int {
	for i, l := range slices.Backward(t.kept) {
		if l.stream == stream {
			if !l.ended {
				return i
			}
			break
		}
	}
	t.kept = append(t.kept, line{stream: stream})
	return len(t.kept) - 1
}

// trim forgets lines, now and then, that will not be shown.
func (t *tail) trim() {
	if len(t.kept) > 16*lastLines {
		t.kept = t.last()
	}
}

func (t *tail) last() []line {
	show := make([]bool, len(t.kept))
	left := lastLines
	mark := func(stream string, n int) {
		for i, l := range slices.Backward(t.kept) {
			if n > 0 && left > 0 && !show[i] && (stream == "" || l.stream == stream) {
				show[i] = true
				left--
				n--
			}
		}
	}
	mark("stderr", lastErrors)
	mark("", lastLines)
	var out []line
	for i, l := range t.kept {
		if show[i] {
			out = append(out, l)
		}
	}
	return out
}

func (t *tail) lines() (text []string) {
	for _, l := range t.last() {
		text = append(text, strings.TrimRight(strings.ToValidUTF8(string(l.text), "\uFFFD"), "\r"))
	}
	for len(text) > 0 && text[len(text)-1] == "" {
		text = text[:len(text)-1]
	}
	return text
}
