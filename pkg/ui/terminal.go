// Package ui is what the commands print through: one small interface to the
// terminal, with a real one, and a fake one for tests; and the few shapes that
// are printed on it: tables, progress, JSON.
package ui

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// Terminal is where a command reads and prints. Stdout carries what was asked
// for, and only that, so that it can be piped; everything about the work
// itself (progress, warnings, errors, explain) goes to stderr.
type Terminal interface {
	Stdin() io.Reader
	// Stdout and Stderr write above the status lines, if there are any.
	Stdout() io.Writer
	Stderr() io.Writer
	// Live says whether Status can redraw: stderr is a terminal, and not a
	// dumb one. Where it is not, print plain lines instead.
	Live() bool
	// Status replaces the lines at the bottom of the terminal; none removes
	// them. It does nothing unless Live.
	Status(lines ...string)
	// Style colours text for stderr and, separately, for stdout.
	Style() Style
	OutStyle() Style
	// Interactive says whether stdin and stdout are terminals, which is what
	// `run -t` needs.
	Interactive() (stdin, stdout bool)
	// Size is the terminal's, in character cells; 0, 0 where there is none.
	Size() (rows, cols int)
	// Raw hands every key to the reader of Stdin, untouched by the kernel's
	// line discipline, until restore is called. What is written to Stderr
	// meanwhile still breaks its lines.
	Raw() (restore func() error, err error)
}

// Std is the process's own terminal.
type Std struct {
	in       *os.File
	out, err *os.File
	live     bool
	style    Style
	outStyle Style

	mu    sync.Mutex
	drawn int // status lines on the screen
	last  []string
	raw   bool
}

// NewStd returns the terminal made of three files, normally os.Stdin,
// os.Stdout and os.Stderr. getenv is os.Getenv, or a fake.
func NewStd(in, out, err *os.File, getenv func(string) string) *Std {
	dumb := getenv("TERM") == "dumb"
	return &Std{
		in: in, out: out, err: err,
		live:     isTerminal(err) && !dumb,
		style:    styleFor(isTerminal(err), getenv),
		outStyle: styleFor(isTerminal(out), getenv),
	}
}

func isTerminal(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

func (t *Std) Stdin() io.Reader  { return t.in }
func (t *Std) Stdout() io.Writer { return &above{t, t.out} }
func (t *Std) Stderr() io.Writer { return &above{t, t.err} }
func (t *Std) Live() bool        { return t.live }
func (t *Std) Style() Style      { return t.style }
func (t *Std) OutStyle() Style   { return t.outStyle }

func (t *Std) Interactive() (stdin, stdout bool) { return isTerminal(t.in), isTerminal(t.out) }

func (t *Std) Size() (rows, cols int) {
	for _, f := range []*os.File{t.out, t.err, t.in} {
		if isTerminal(f) {
			if w, h, err := term.GetSize(int(f.Fd())); err == nil {
				return h, w
			}
		}
	}
	return 0, 0
}

func (t *Std) Raw() (func() error, error) {
	fd := int(t.in.Fd())
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	t.setRaw(true)
	return func() error {
		t.setRaw(false)
		return term.Restore(fd, old)
	}, nil
}

func (t *Std) setRaw(raw bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.raw = raw
}

// Status moves the cursor up over the previous lines and overwrites them, and
// cuts each line at the terminal's width: a wrapped line would break the count.
func (t *Std) Status(lines ...string) {
	if !t.live {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = lines
	t.redraw()
}

func (t *Std) redraw() {
	height, width := t.Size()
	var b strings.Builder
	b.WriteString(t.erase())
	lines := t.last
	if room := height - 2; room > 0 && len(lines) > room+1 { // the cursor's line is one, too
		// What has scrolled away cannot be drawn over.
		lines = append(lines[:room:room], fmt.Sprintf("… and %d lines more, for which this terminal has no room", len(t.last)-room))
	}
	for _, line := range lines {
		if width > 1 {
			line = Truncate(line, width-1)
		}
		b.WriteString(line)
		b.WriteString("\n")
	}
	t.drawn = len(lines)
	_, _ = io.WriteString(t.err, b.String())
}

// erase returns the control sequence that takes the status lines off the
// screen: cursor up to the first one, then clear to the end (ECMA-48 CUU, ED).
func (t *Std) erase() string {
	if t.drawn == 0 {
		return ""
	}
	seq := "\r" + strings.Repeat("\x1b[1A", t.drawn) + "\x1b[J"
	t.drawn = 0
	return seq
}

// above writes to a file while the status lines, if any, are taken down and
// put back below.
type above struct {
	t *Std
	f *os.File
}

func (a *above) Write(p []byte) (int, error) {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	if a.t.raw && a.f == a.t.err && isTerminal(a.f) {
		// The line discipline does not add the carriage returns now.
		if _, err := a.f.Write(bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	if a.t.drawn == 0 {
		return a.f.Write(p)
	}
	_, _ = io.WriteString(a.t.err, a.t.erase())
	n, err := a.f.Write(p)
	a.t.redraw()
	return n, err
}
