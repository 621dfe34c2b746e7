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
	right := make(map[int]bool, len(t.Right))
	for _, i := range t.Right {
		right[i] = true
	}
	lines := make([]string, 0, len(rows))
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			if i > 0 {
				b.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-Width(cell))
			if right[i] {
				cell, pad = pad+cell, ""
			}
			b.WriteString(cell)
			b.WriteString(pad)
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return lines
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
