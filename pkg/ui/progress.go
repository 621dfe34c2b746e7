package ui

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Step is one line of progress.
type Step struct {
	Group  string // stage
	Name   string
	State  StepState
	Note   string
	Error  string
	Done   int64 // bytes
	Total  int64 // 0 where it is not known
	Took   time.Duration
	Active time.Time // since when it is under way, on this machine's clock
}

// StepState is how far a step is.
type StepState int

const (
	StepPending StepState = iota
	StepActive
	StepDone
	StepSkipped
	StepFailed
	StepAborted
)

// Final says whether the step will not change any more.
func (s StepState) Final() bool { return s >= StepDone }

// Progress shows steps as they proceed: redrawn in place on a live terminal;
// elsewhere one plain line for each step when it has ended.
type Progress struct {
	term    Terminal
	printed map[string]bool
	frame   int
	started map[string]time.Time
}

// NewProgress returns a Progress on t's stderr.
func NewProgress(t Terminal) *Progress {
	return &Progress{term: t, printed: map[string]bool{}, started: map[string]time.Time{}}
}

// Update shows steps; call it with all of them, whenever one has changed, and
// a few times a second for the spinner and the clock.
func (p *Progress) Update(steps []Step) {
	width := 0
	for _, s := range steps {
		width = max(width, Width(s.label()))
	}
	p.frame++
	var live, ended []string
	for _, s := range steps {
		key := s.Group + "\x00" + s.Name
		if p.printed[key] {
			continue
		}
		if s.State.Final() {
			p.printed[key] = true
			ended = append(ended, s.line(p.term.Style(), width, 0))
			continue
		}
		if s.State == StepActive {
			if s.Active.IsZero() {
				if p.started[key].IsZero() {
					p.started[key] = time.Now()
				}
				s.Active = p.started[key]
			}
			s.Took = time.Since(s.Active)
			live = append(live, s.line(p.term.Style(), width, p.frame))
		}
	}
	if ended != nil {
		// What has ended moves up, from the live lines to those that stay.
		p.term.Status()
		Lines(p.term.Stderr(), ended...)
	}
	p.term.Status(live...)
}

// Close takes the live lines off the screen.
func (p *Progress) Close() { p.term.Status() }

func (s Step) label() string {
	if s.Group == "" {
		return s.Name
	}
	return s.Group + "  " + s.Name
}

var spinner = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

func (s Step) line(style Style, width, frame int) string {
	var mark string
	switch s.State {
	case StepDone:
		mark = style.Green("✓")
	case StepSkipped:
		mark = style.Dim("-")
	case StepFailed:
		mark = style.Red("✗")
	case StepAborted:
		mark = style.Yellow("!")
	case StepActive:
		mark = style.Cyan(string(spinner[frame%len(spinner)]))
	default:
		mark = " "
	}
	label := s.label()
	parts := []string{mark + " " + label + strings.Repeat(" ", width-Width(label)), style.Dim(fmt.Sprintf("%7s", Duration(s.Took)))}
	if (s.Total > 0 || s.Done > 0) && !s.State.Final() {
		done := Bytes(s.Done)
		if s.Total > 0 {
			done += " / " + Bytes(s.Total)
		}
		parts = append(parts, done)
		if s.Took > 0 {
			parts = append(parts, fmt.Sprintf("%s/s", Bytes(int64(float64(s.Done)/s.Took.Seconds()))))
		}
	}
	if s.Note != "" {
		parts = append(parts, style.Dim(Plain(s.Note)))
	}
	if s.Error != "" {
		parts = append(parts, style.Red(Plain(s.Error)))
	}
	if s.State == StepAborted {
		parts = append(parts, style.Yellow("aborted"))
	}
	return strings.TrimRight(strings.Join(parts, "  "), " ")
}

// Duration prints d with the precision that a reader needs: 850 µs, 12 ms,
// 1.2 s, 3 min 4 s.
func Duration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}

// Ago prints how long ago t was, in one unit, as docker does: 5 seconds ago.
func Ago(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return Age(now.Sub(t)) + " ago"
}

// Age prints d in its largest whole unit.
func Age(d time.Duration) string {
	unit := func(n int, name string) string {
		if n == 1 {
			return "1 " + name
		}
		return fmt.Sprintf("%d %ss", n, name)
	}
	switch {
	case d < time.Second:
		return "less than a second"
	case d < time.Minute:
		return unit(int(d.Seconds()), "second")
	case d < time.Hour:
		return unit(int(d.Minutes()), "minute")
	case d < 48*time.Hour:
		return unit(int(d.Hours()), "hour")
	case d < 14*24*time.Hour:
		return unit(int(d.Hours()/24), "day")
	case d < 60*24*time.Hour:
		return unit(int(d.Hours()/24/7), "week")
	}
	return unit(int(d.Hours()/24/30), "month")
}

// Bytes prints n in binary units: 512 B, 64 MiB, 1.5 GiB.
func Bytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < 4 {
		value, unit = value/1024, unit+1
	}
	digits := 1
	if value >= 100 || value == float64(int64(value)) {
		digits = 0
	}
	return fmt.Sprintf("%.*f %ciB", digits, value, "KMGTP"[unit])
}

// Lines prints each of lines on w.
func Lines(w io.Writer, lines ...string) {
	for _, line := range lines {
		fmt.Fprintln(w, line)
	}
}
