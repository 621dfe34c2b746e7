// Package knobs holds what can be made to go wrong in the app, and how badly.
package knobs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Bounds of the knobs: enough for every exercise, and no more than one machine
// recovers from when the app is told to stop.
const (
	MaxDelay    = 30 * time.Second
	MaxCPU      = 64
	MaxMemory   = 16 << 30
	MaxLogNoise = 1000
)

// Settings are the positions of all knobs. Those of a healthy app are
// Defaults.
type Settings struct {
	ErrorRate  float64  `json:"error_rate"`  // share of requests that fail, 0 to 1
	Latency    Duration `json:"latency"`     // added to each request
	Jitter     Duration `json:"jitter"`      // added at random, up to this much
	CPU        float64  `json:"cpu"`         // cores kept busy
	Memory     Size     `json:"memory"`      // memory held
	Leak       Size     `json:"leak"`        // memory leaked in each second
	LogNoise   float64  `json:"log_noise"`   // useless log lines in each second
	Healthy    bool     `json:"healthy"`     // what /healthz says
	Ready      bool     `json:"ready"`       // what /readyz says, if all else is well
	CrashAfter Duration `json:"crash_after"` // exit when this much time has passed; 0: never
	ExitCode   int      `json:"exit_code"`   // of that exit
}

// Defaults are the settings of an app that works.
func Defaults() Settings { return Settings{Healthy: true, Ready: true, ExitCode: 1} }

// Validate names the first setting that is out of its bounds.
func (s Settings) Validate() error {
	switch {
	case !(s.ErrorRate >= 0 && s.ErrorRate <= 1): // so that NaN is refused
		return errors.New("error_rate: must be between 0 and 1")
	case s.Latency < 0 || s.Latency > Duration(MaxDelay):
		return fmt.Errorf("latency: must be between 0s and %s", MaxDelay)
	case s.Jitter < 0 || s.Jitter > Duration(MaxDelay):
		return fmt.Errorf("jitter: must be between 0s and %s", MaxDelay)
	case !(s.CPU >= 0 && s.CPU <= MaxCPU):
		return fmt.Errorf("cpu: must be between 0 and %d cores", MaxCPU)
	case s.Memory < 0 || s.Memory > MaxMemory:
		return fmt.Errorf("memory: must be between 0 and %s", Size(MaxMemory))
	case s.Leak < 0 || s.Leak > MaxMemory:
		return fmt.Errorf("leak: must be between 0 and %s in each second", Size(MaxMemory))
	case !(s.LogNoise >= 0 && s.LogNoise <= MaxLogNoise):
		return fmt.Errorf("log_noise: must be between 0 and %d lines in each second", MaxLogNoise)
	case s.CrashAfter < 0:
		return errors.New("crash_after: must not be negative")
	case s.ExitCode < 0 || s.ExitCode > 255:
		return errors.New("exit_code: must be between 0 and 255")
	}
	return nil
}

// Board is the knobs of a running app. It can be used by many goroutines.
type Board struct {
	initial Settings

	mu      sync.Mutex
	current Settings
	changed chan struct{} // closed, and replaced, by each change
}

// NewBoard has all knobs at their initial settings, to which Reset returns.
func NewBoard(initial Settings) *Board {
	return &Board{initial: initial, current: initial, changed: make(chan struct{})}
}

// Get returns the settings, and a channel that is closed when they change.
func (b *Board) Get() (Settings, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current, b.changed
}

// Patch turns the knobs that are in a JSON object, and leaves the others.
// Nothing is changed if there is an error.
func (b *Board) Patch(patch []byte) (Settings, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.current
	d := json.NewDecoder(bytes.NewReader(patch))
	d.DisallowUnknownFields()
	if err := d.Decode(&next); err != nil {
		return b.current, fmt.Errorf("knobs: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return b.current, errors.New("knobs: one JSON object is expected")
	}
	if err := next.Validate(); err != nil {
		return b.current, err
	}
	b.set(next)
	return next, nil
}

// Reset returns all knobs to their initial settings.
func (b *Board) Reset() Settings {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set(b.initial)
	return b.current
}

// set is called with mu held.
func (b *Board) set(s Settings) {
	b.current = s
	close(b.changed)
	b.changed = make(chan struct{})
}
