package ui

import (
	"strings"
	"unicode/utf8"
)

// Style colours text, or leaves it alone.
type Style struct{ on bool }

// styleFor decides about colour: never when NO_COLOR is set to anything
// (no-color.org), always when CLICOLOR_FORCE is, otherwise on terminals only.
func styleFor(terminal bool, getenv func(string) string) Style {
	switch {
	case getenv("NO_COLOR") != "":
		return Style{}
	case getenv("CLICOLOR_FORCE") != "" && getenv("CLICOLOR_FORCE") != "0":
		return Style{on: true}
	}
	return Style{on: terminal && getenv("TERM") != "dumb"}
}

// Colour is a Style that always colours; for tests.
func Colour() Style { return Style{on: true} }

func (s Style) sgr(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s Style) Bold(text string) string   { return s.sgr("1", text) }
func (s Style) Dim(text string) string    { return s.sgr("2", text) }
func (s Style) Red(text string) string    { return s.sgr("31", text) }
func (s Style) Green(text string) string  { return s.sgr("32", text) }
func (s Style) Yellow(text string) string { return s.sgr("33", text) }
func (s Style) Cyan(text string) string   { return s.sgr("36", text) }

// Width is how many cells text takes: characters, without colour sequences.
func Width(text string) int {
	n := 0
	for len(text) > 0 {
		if seq := sgrLen(text); seq > 0 {
			text = text[seq:]
			continue
		}
		_, size := utf8.DecodeRuneInString(text)
		text = text[size:]
		n++
	}
	return n
}

// Truncate cuts text to width cells, with an ellipsis where it cut. Colour
// sequences are kept, so that a cut line does not colour the next one.
func Truncate(text string, width int) string {
	if Width(text) <= width {
		return text
	}
	if width <= 0 {
		return ""
	}
	var b strings.Builder
	n := 0
	for len(text) > 0 {
		if seq := sgrLen(text); seq > 0 {
			b.WriteString(text[:seq])
			text = text[seq:]
			continue
		}
		_, size := utf8.DecodeRuneInString(text)
		switch {
		case n < width-1:
			b.WriteString(text[:size])
		case n == width-1:
			b.WriteString("…")
		}
		n++
		text = text[size:]
	}
	return b.String()
}

// sgrLen is the length of the colour sequence that text begins with, or 0.
func sgrLen(text string) int {
	if !strings.HasPrefix(text, "\x1b[") {
		return 0
	}
	end := strings.IndexByte(text, 'm')
	if end < 0 || strings.Trim(text[2:end], "0123456789;") != "" {
		return 0
	}
	return end + 1
}

// Plain makes text safe to print: what came from a container, a label or an
// image must not move the cursor or set colours. Control characters become
// visible escapes.
func Plain(text string) string {
	clean := true
	for _, r := range text {
		if isControl(r) {
			clean = false
			break
		}
	}
	if clean {
		return text
	}
	const hex = "0123456789abcdef"
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case isControl(r):
			b.WriteString(`\x`)
			b.WriteByte(hex[r>>4&0xf])
			b.WriteByte(hex[r&0xf])
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// isControl covers C0, DEL and C1 (which some terminals take for ESC [).
func isControl(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }
