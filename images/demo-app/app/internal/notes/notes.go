// Package notes keeps short texts: in memory, or in PostgreSQL.
package notes

import (
	"context"
	"sync"
	"time"
)

// MaxText is how long a note may be, in bytes.
const MaxText = 1000

// Limit is how many notes are listed.
const Limit = 100

// Note is one text.
type Note struct {
	ID      int64     `json:"id"`
	Text    string    `json:"text"`
	Created time.Time `json:"created"`
}

// Store keeps notes.
type Store interface {
	// Add keeps a text, and returns the note that it has become.
	Add(ctx context.Context, text string) (Note, error)
	// List returns the last Limit notes, the newest first.
	List(ctx context.Context) ([]Note, error)
	// Ping says whether the store can be used.
	Ping(ctx context.Context) error
	// Kind is where the notes are: "memory" or "postgres".
	Kind() string
	Close()
}

// InMemory keeps the last Limit notes until the app ends. Each replica of the
// app has its own.
type InMemory struct {
	mu    sync.Mutex
	last  int64
	notes []Note // the newest first
}

// Add implements Store.
func (m *InMemory) Add(_ context.Context, text string) (Note, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last++
	n := Note{ID: m.last, Text: text, Created: time.Now().UTC()}
	m.notes = append([]Note{n}, m.notes[:min(len(m.notes), Limit-1)]...)
	return n, nil
}

// List implements Store.
func (m *InMemory) List(context.Context) ([]Note, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Note{}, m.notes...), nil
}

// Ping implements Store.
func (m *InMemory) Ping(context.Context) error { return nil }

// Kind implements Store.
func (m *InMemory) Kind() string { return "memory" }

// Close implements Store.
func (m *InMemory) Close() {}
