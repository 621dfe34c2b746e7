package pattern

import (
	"slices"
	"testing"
)

func TestPattern(t *testing.T) {
	p := New(`(\w+)=(\d+)`)
	if !p.MatchString("a=1") || p.MatchString("a=b") {
		t.Error("MatchString")
	}
	if got := p.FindStringSubmatch("a=1 b=2"); !slices.Equal(got, []string{"a=1", "a", "1"}) {
		t.Errorf("FindStringSubmatch: %q", got)
	}
	if got := p.FindAllStringSubmatch("a=1 b=2", -1); len(got) != 2 || got[1][2] != "2" {
		t.Errorf("FindAllStringSubmatch: %q", got)
	}
	if got := p.ReplaceAllString("a=1 b=2", "$2"); got != "1 2" {
		t.Errorf("ReplaceAllString: %q", got)
	}
	bad := New(`(`) // no panic yet
	defer func() {
		if recover() == nil {
			t.Error("a malformed pattern matches")
		}
	}()
	bad.MatchString("")
}
