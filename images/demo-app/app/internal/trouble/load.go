package trouble

import (
	"context"
	"runtime/debug"
	"sync"
	"time"
)

// period is how long a core that is to be busy for a part of the time takes
// for being busy once and idle once. It is that of the kernel's CPU limits
// (cpu.max), so that half a core is throttled like any other half.
const period = 100 * time.Millisecond

// Burn keeps so many cores busy, until ctx ends. 1.5 cores are one that is
// always busy, and one that is busy half of the time.
func Burn(ctx context.Context, cores float64) {
	var all sync.WaitGroup
	for ; cores > 0; cores-- {
		share := min(cores, 1)
		all.Go(func() { burnOne(ctx, share) })
	}
	all.Wait()
}

func burnOne(ctx context.Context, share float64) {
	busy := time.Duration(share * float64(period))
	for ctx.Err() == nil {
		Spin(ctx, busy)
		if busy < period {
			Sleep(ctx, period-busy)
		}
	}
}

// Spin computes for that long, or until ctx ends.
func Spin(ctx context.Context, d time.Duration) {
	x := uint64(88172645463325252)
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; {
		for range 10_000 { // xorshift: nothing that a compiler could leave out
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
	}
	sink(x)
}

//go:noinline
func sink(uint64) {}

// Sleep waits for that long, or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Memory is memory that is held for no purpose. One goroutine can use it.
type Memory struct {
	chunks [][]byte
	size   int64
}

// chunk is small, so that memory grows evenly, until it is refused.
const chunk = 1 << 20

// Size is how much is held, in bytes.
func (m *Memory) Size() int64 { return m.size }

// Resize holds that much from now on: in resident memory, since each page is
// written to, or it would only be an address. What is let go is given back to
// the kernel at once.
func (m *Memory) Resize(size int64) {
	shrunk := size < m.size
	m.size = size
	for int64(len(m.chunks))*chunk < size {
		c := make([]byte, chunk)
		for i := 0; i < len(c); i += 4096 {
			c[i] = 1
		}
		m.chunks = append(m.chunks, c)
	}
	if keep := (size + chunk - 1) / chunk; keep < int64(len(m.chunks)) {
		clear(m.chunks[keep:])
		m.chunks = m.chunks[:keep]
	}
	if shrunk {
		debug.FreeOSMemory()
	}
}
