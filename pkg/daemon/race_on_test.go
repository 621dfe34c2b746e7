//go:build race

package daemon

// raceEnabled: the race detector takes several times the memory.
const raceEnabled = true
