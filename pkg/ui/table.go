package ui

import (
	"encoding/json"
	"io"
	"strings"
)

// Table is printed with aligned columns, two blanks apart, without borders, so
// that it can be cut(1) and grepped.
type Table struct {
	Header []string
	Rows   [][]string
	// Right lists the columns, from 0, that are aligned to the right.
	Right []int
	// Width is that of the terminal; 0 where there is none. In a row that does
	// not fit, the last cell goes below, beginning with column Below, on as many
	// lines as it takes. Where that is not enough, cells of the column Below lose
	// their beginnings.
	Width, Below int
}

// Add appends a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Lines lays the table out; the header in bold.
func (t *Table) Lines(style Style) []string {
	rows := t.Rows
	if t.Header != nil {
		head := make([]string, len(t.Header))
		for i, cell := range t.Header {
			head[i] = style.Bold(cell)
		}
		rows = append([][]string{head}, rows...)
	}
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], Width(cell))
		}
	}
	if room := t.Width - 1; t.Width > 0 && t.Below < len(widths)-1 {
		for i, w := range widths[:len(widths)-1] {
			if i != t.Below {
				room -= w + 2
			}
		}
		widths[t.Below] = min(widths[t.Below], max(room, minWidth))
	}
	right := make(map[int]bool, len(t.Right))
	for _, i := range t.Right {
		right[i] = true
	}
	lines := make([]string, 0, len(rows))
	indent := 0
	for _, w := range widths[:min(t.Below, len(widths))] {
		indent += w + 2
	}
	for _, row := range rows {
		var b strings.Builder
		var below []string
		if last := len(row) - 1; t.Width > 0 && last > 0 && wide(row, widths) >= t.Width {
			below = wrap(row[last], t.Width-1-indent)
			row = row[:last]
		}
		for i, cell := range row {
			if i > 0 {
				b.WriteString("  ")
			}
			if t.Width > 0 && i == t.Below {
				cell = truncateLeft(cell, widths[i])
			}
			pad := strings.Repeat(" ", widths[i]-Width(cell))
			if right[i] {
				cell, pad = pad+cell, ""
			}
			b.WriteString(cell)
			b.WriteString(pad)
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
		for _, line := range below {
			lines = append(lines, strings.Repeat(" ", indent)+line)
		}
	}
	return lines
}

// minWidth is the least that a column is cut to.
const minWidth = 12

// truncateLeft cuts the beginning of a text without colours: of a path, or a
// URL, the end tells more.
func truncateLeft(text string, width int) string {
	over := Width(text) - width
	if over <= 0 {
		return text
	}
	return "…" + string([]rune(text)[over+1:])
}

// wide is how many cells a row takes.
func wide(row []string, widths []int) int {
	last := len(row) - 1
	n := Width(row[last])
	if n == 0 {
		return 0
	}
	for _, w := range widths[:last] {
		n += w + 2
	}
	return n
}

// wrap breaks a text at blanks into lines of at most width cells, as far as its
// words are that short.
func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && Width(line)+1+Width(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// Write prints the table on w.
func (t *Table) Write(w io.Writer, style Style) error {
	lines := t.Lines(style)
	if len(lines) == 0 {
		return nil
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

// JSON prints v on w, indented.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// JSONLine prints v on w as one line.
func JSONLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
