package ui

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestStyle(t *testing.T) {
	env := func(pairs ...string) func(string) string {
		m := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return func(k string) string { return m[k] }
	}
	for _, c := range []struct {
		terminal bool
		env      func(string) string
		want     bool
	}{
		{true, env(), true},
		{false, env(), false},
		{true, env("NO_COLOR", "1"), false},
		{true, env("NO_COLOR", ""), true},
		{true, env("TERM", "dumb"), false},
		{false, env("CLICOLOR_FORCE", "1"), true},
		{false, env("CLICOLOR_FORCE", "0"), false},
		{true, env("NO_COLOR", "1", "CLICOLOR_FORCE", "1"), false},
	} {
		if got := styleFor(c.terminal, c.env); got.on != c.want {
			t.Errorf("terminal %t: colour is %t", c.terminal, got.on)
		}
	}
}

func TestWidthAndTruncate(t *testing.T) {
	s := Colour()
	red := s.Red("häß")
	if Width(red) != 3 {
		t.Errorf("width of %q is %d", red, Width(red))
	}
	for _, c := range []struct {
		in    string
		width int
		want  string
	}{
		{"abcdef", 6, "abcdef"}, {"abcdef", 5, "abcd…"}, {"abcdef", 1, "…"}, {"abcdef", 0, ""},
		{red + "xyz", 4, "\x1b[31mhäß\x1b[0m…"},
	} {
		if got := Truncate(c.in, c.width); got != c.want {
			t.Errorf("Truncate(%q, %d) is %q, want %q", c.in, c.width, got, c.want)
		}
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"plain ä ∞":        "plain ä ∞",
		"a\x1b[2Jb":        `a\x1b[2Jb`,
		"a\r\nb\tc":        `a\x0d\nb\tc`,
		"bell\a\x7f":       `bell\x07\x7f`,
		"csi\u009b31m":     `csi\x9b31m`,
		"bad utf8 \xff ok": "bad utf8 \xff ok",
	} {
		if got := Plain(in); got != want && !(strings.Contains(in, "\xff")) {
			t.Errorf("Plain(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	table := Table{Header: []string{"NAME", "SIZE", "NOTE"}, Right: []int{1}}
	table.Add("a", "1 B", "")
	table.Add(Colour().Green("longer"), "1024 B", "x")
	got := strings.Join(table.Lines(Style{}), "\n")
	want := "NAME      SIZE  NOTE\na          1 B\n\x1b[32mlonger\x1b[0m  1024 B  x"
	if got != want {
		t.Errorf("table is\n%q, want\n%q", got, want)
	}
}

// TestTableNarrow: what does not fit goes below.
func TestTableNarrow(t *testing.T) {
	table := Table{Header: []string{"WHAT", "WHERE", "NOTE"}, Width: 25, Below: 1}
	table.Add("a", "1", "fits here")
	table.Add("bb", "there", "is too much of it, by far")
	table.Add("c", "x", "")
	got := strings.Join(table.Lines(Style{}), "\n")
	want := "WHAT  WHERE  NOTE\na     1      fits here\nbb    there\n      is too much of it,\n      by far\nc     x"
	if got != want {
		t.Errorf("table is\n%s\nwant\n%s", got, want)
	}
}

// TestTableOfLongPaths: what would be wider than the terminal even so loses its
// beginning.
func TestTableOfLongPaths(t *testing.T) {
	table := Table{Header: []string{"WHAT", "WHERE", "STATE", "NOTE"}, Width: 31, Below: 1}
	table.Add("a", "/very/long/path/of/a/file", "up", "x")
	table.Add("b", "short", "up", "")
	got := strings.Join(table.Lines(Style{}), "\n")
	want := "WHAT  WHERE              STATE\n      NOTE\na     …g/path/of/a/file  up\n      x\nb     short              up"
	if got != want {
		t.Errorf("table is\n%s\nwant\n%s", got, want)
	}
}

func TestProgress(t *testing.T) {
	steps := []Step{
		{Group: "internals", Name: "network", State: StepDone, Took: 120 * time.Millisecond, Note: "already there"},
		{Group: "internals", Name: "image", State: StepActive, Done: 512 << 10, Total: 1 << 20},
		{Group: "internals", Name: "self-test"},
	}
	t.Run("plain", func(t *testing.T) {
		f := &Fake{}
		p := NewProgress(f)
		p.Update(steps)
		p.Update(steps) // the same again is no news
		steps := append([]Step(nil), steps...)
		steps[1].State, steps[1].Took = StepFailed, 2*time.Second
		steps[1].Error = "no space\x1b[2J"
		steps[2].State = StepAborted
		p.Update(steps)
		p.Close()
		want := "✓ internals  network     120 ms  already there\n" +
			"✗ internals  image        2.0 s  no space\\x1b[2J\n" +
			"! internals  self-test     0 µs  aborted\n"
		if f.Err.String() != want || f.Out.String() != "" {
			t.Errorf("stderr is\n%q, want\n%q", f.Err.String(), want)
		}
	})
	t.Run("live", func(t *testing.T) {
		f := &Fake{IsLive: true}
		p := NewProgress(f)
		p.Update(steps)
		p.Close()
		shown := f.Statuses()
		if len(shown) != 3 || shown[0] != "" || !strings.Contains(shown[1], "image") || !strings.Contains(shown[1], "512 KiB / 1 MiB") || shown[2] != "" {
			t.Errorf("status lines were %q", shown)
		}
	})
}

func TestUnits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		850 * time.Microsecond: "850 µs", 12 * time.Millisecond: "12 ms", 1200 * time.Millisecond: "1.2 s",
		184 * time.Second: "3 min 4 s", 90 * time.Minute: "1 h 30 min",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) is %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 64 << 20: "64 MiB", 3<<30 + 1<<29: "3.5 GiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) is %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "less than a second", time.Second: "1 second", 59 * time.Second: "59 seconds", time.Minute: "1 minute",
		47 * time.Hour: "47 hours", 72 * time.Hour: "3 days", 30 * 24 * time.Hour: "4 weeks", 100 * 24 * time.Hour: "3 months",
	} {
		if got := Age(d); got != want {
			t.Errorf("Age(%v) is %q, want %q", d, got, want)
		}
	}
}

// TestStd prints on a file, which is no terminal: no colour, no redrawing.
func TestStd(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	term := NewStd(f, f, f, func(string) string { return "" })
	term.Status("must not appear")
	if _, err := term.Stdout().Write([]byte(term.OutStyle().Red("text") + "\n")); err != nil {
		t.Fatal(err)
	}
	if in, out := term.Interactive(); in || out || term.Live() {
		t.Error("a file is taken for a terminal")
	}
	if b, _ := os.ReadFile(f.Name()); string(b) != "text\n" {
		t.Errorf("the file holds %q", b)
	}
}
