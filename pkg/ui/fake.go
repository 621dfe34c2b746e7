package ui

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// Fake is a Terminal in memory, for tests.
type Fake struct {
	In       io.Reader
	Out      Buffer
	Err      Buffer
	IsLive   bool
	TTY      bool
	Rows     int
	Cols     int
	Coloured bool

	mu       sync.Mutex
	statuses []string
	raw      int
}

// Buffer is a bytes.Buffer for several goroutines.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (f *Fake) Stdin() io.Reader {
	if f.In == nil {
		return strings.NewReader("")
	}
	return f.In
}
func (f *Fake) Stdout() io.Writer         { return &f.Out }
func (f *Fake) Stderr() io.Writer         { return &f.Err }
func (f *Fake) Live() bool                { return f.IsLive }
func (f *Fake) Style() Style              { return Style{on: f.Coloured} }
func (f *Fake) OutStyle() Style           { return Style{on: f.Coloured} }
func (f *Fake) Interactive() (bool, bool) { return f.TTY, f.TTY }
func (f *Fake) Size() (rows, cols int)    { return f.Rows, f.Cols }

// Status records what was drawn.
func (f *Fake) Status(lines ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.statuses = append(f.statuses, strings.Join(lines, "\n"))
}

// Statuses returns every state of the status lines so far.
func (f *Fake) Statuses() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.statuses...)
}

// Raw counts how often the terminal is raw.
func (f *Fake) Raw() (func() error, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.raw++
	return func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.raw--
		return nil
	}, nil
}

// IsRaw says whether Raw was called and not yet restored.
func (f *Fake) IsRaw() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.raw > 0
}
