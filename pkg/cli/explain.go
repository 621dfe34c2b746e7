package cli

import (
	"fmt"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

// explainer prints kernel operations as they arrive, on stderr: stdout is the
// container's. Since a stream cannot know how wide its columns will be, the
// narrow ones of known width come first.
type explainer struct {
	term ui.Terminal
	json bool
	n    int    // events so far: the order in which they were told
	why  string // of the last one
}

// maxShown is how much of a target or value is shown to people, in characters;
// JSON has all of it.
const maxShown = 120

func (e *explainer) frame(f api.Frame) {
	switch {
	case f.Explain != nil:
		e.event(*f.Explain)
	case f.Warning != "":
		warn(e.term, f.Warning)
	}
}

func (e *explainer) event(ev api.Explain) {
	e.n++
	if e.json {
		_ = ui.JSONLine(e.term.Stderr(), ev)
		return
	}
	if e.n == 1 {
		fmt.Fprintln(e.term.Stderr(), e.term.Style().Bold(" NO      TIME  BY       OPERATION"))
	}
	why := ev.Why
	if why == e.why {
		why = "" // said on the line before
	}
	e.why = ev.Why
	_, width := e.term.Size()
	for _, line := range explainLines(e.term.Style(), e.n, ev, why, width) {
		fmt.Fprintln(e.term.Stderr(), line)
	}
}

// whyIndent puts a reason that has a line of its own under the operation.
const whyIndent = "                           "

// explainLines is one operation; the reason goes to a second line where the
// first would be wider than the terminal (0: no limit).
func explainLines(style ui.Style, n int, ev api.Explain, why string, width int) []string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s  %s  %s",
		style.Dim(fmt.Sprintf("%3d", n)), style.Dim(fmt.Sprintf("%8s", ui.Duration(ev.Duration))),
		style.Dim(fmt.Sprintf("%-7s", ui.Plain(ev.Actor))), style.Cyan(fmt.Sprintf("%-13s", ui.Plain(ev.Op))))
	if ev.Target != "" {
		b.WriteString(" " + shorten(ev.Target))
	}
	if ev.Value != "" {
		if ev.Target != "" {
			b.WriteString(style.Dim(" ←"))
		}
		b.WriteString(" " + style.Bold(shorten(ev.Value)))
	}
	if ev.Error != "" {
		b.WriteString("  " + style.Red("= "+ui.Plain(ev.Error)))
	}
	if ev.Flag != "" {
		b.WriteString("  " + style.Yellow("("+ui.Plain(ev.Flag)+")"))
	}
	if why == "" {
		return []string{b.String()}
	}
	why = style.Dim("# " + ui.Plain(why))
	if line := b.String() + "  " + why; width == 0 || ui.Width(line) <= width {
		return []string{line}
	}
	return []string{b.String(), whyIndent + why}
}

// shorten leaves of a container's ID its first 12 digits, and of a text that is
// too long its two ends: of a path the last part says the most.
func shorten(s string) string {
	s = ui.Plain(s)
	for i := 0; i+idLen <= len(s); i++ {
		if isID(s, i) {
			s = s[:i+shortIDLen] + "…" + s[i+idLen:]
			i += shortIDLen
		}
	}
	r := []rune(s)
	if len(r) <= maxShown {
		return s
	}
	return string(r[:maxShown/2-1]) + "…" + string(r[len(r)-maxShown/2:])
}

// Lengths of an ID, in hex digits.
const (
	idLen      = 64
	shortIDLen = 12
)

// isID says whether the ID's number of hex digits, and no more, are at i.
func isID(s string, i int) bool {
	hex := func(i int) bool {
		return i >= 0 && i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f')
	}
	if hex(i-1) || hex(i+idLen) {
		return false
	}
	for j := range idLen {
		if !hex(i + j) {
			return false
		}
	}
	return true
}

func warn(term ui.Terminal, text string) {
	fmt.Fprintf(term.Stderr(), "%s %s\n", term.Style().Yellow("warning:"), ui.Plain(text))
}
