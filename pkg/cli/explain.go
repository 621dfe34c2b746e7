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
	n    int // events so far: the order in which they were told
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
	fmt.Fprintln(e.term.Stderr(), explainLine(e.term.Style(), e.n, ev))
}

func explainLine(style ui.Style, n int, ev api.Explain) string {
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
	if ev.Why != "" {
		b.WriteString("  " + style.Dim("# "+ui.Plain(ev.Why)))
	}
	return b.String()
}

// shorten keeps the end of a long text too: of a path it says the most.
func shorten(s string) string {
	s = ui.Plain(s)
	r := []rune(s)
	if len(r) <= maxShown {
		return s
	}
	return string(r[:maxShown/2-1]) + "…" + string(r[len(r)-maxShown/2:])
}

func warn(term ui.Terminal, text string) {
	fmt.Fprintf(term.Stderr(), "%s %s\n", term.Style().Yellow("warning:"), ui.Plain(text))
}
