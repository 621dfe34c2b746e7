package build

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	numbered := func(prefix string, from, to int) (lines []string) {
		for i := from; i <= to; i++ {
			lines = append(lines, fmt.Sprint(prefix, i))
		}
		return lines
	}
	text := func(lines ...[]string) string { return strings.Join(slices.Concat(lines...), "\n") + "\n" }
	type chunk struct{ stream, data string }
	for _, tt := range []struct {
		name   string
		chunks []chunk
		want   []string
	}{
		{name: "nothing"},
		{"one stream", []chunk{{"stdout", text(numbered("o", 1, 500))}}, numbered("o", 481, 500)},
		{"an error that came first", []chunk{{"stderr", "oops\n"}, {"stdout", text(numbered("o", 1, 5000))}}, append([]string{"oops"}, numbered("o", 4982, 5000)...)},
		{"many errors", []chunk{{"stderr", text(numbered("e", 1, 50))}, {"stdout", text(numbered("o", 1, 50))}}, slices.Concat(numbered("e", 41, 50), numbered("o", 41, 50))},
		{"in pieces", []chunk{{"stdout", "a"}, {"stderr", "x"}, {"stdout", "b\nc"}, {"stderr", "y\n"}, {"stdout", "\r\n\n\n"}}, []string{"ab", "xy", "c"}},
		{"no text", []chunk{{"stdout", "a\xff\n"}}, []string{"a\uFFFD"}},
		{"a long line", []chunk{{"stdout", strings.Repeat("a", 5000)}, {"stdout", strings.Repeat("a", 5000) + "\nb"}}, []string{strings.Repeat("a", maxLine), "b"}},
	} {
		tail := &tail{}
		for _, c := range tt.chunks {
			tail.write(c.stream, []byte(c.data))
		}
		if got := tail.lines(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
