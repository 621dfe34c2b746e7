package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// loadCPU computes on n threads and prints how much CPU time they got.
func loadCPU(ctx context.Context, n int, interval time.Duration, out *lines) error {
	out.printf("cpu: %d threads compute", n)
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			runtime.LockOSThread()
			x := uint64(1)
			for ctx.Err() == nil {
				for range 1 << 16 { // some 100 µs between looks at the clock
					x ^= x << 13
					x ^= x >> 7
					x ^= x << 17
				}
			}
			runtime.KeepAlive(x)
		})
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	start := time.Now()
	first, err := cpuTime()
	if err != nil {
		return err
	}
	for lastTime, last := start, first; ; {
		select {
		case <-ctx.Done():
			group.Wait()
			used, err := cpuTime()
			if err != nil {
				return err
			}
			wall := time.Since(start)
			out.printf("cpu: used %.2f s of CPU in %.2f s: %.2f CPUs", (used - first).Seconds(), wall.Seconds(), float64(used-first)/float64(wall))
			return nil
		case <-ticker.C:
		}
		now, err := cpuTime()
		if err != nil {
			return err
		}
		nowTime := time.Now()
		out.printf("cpu: %.2f CPUs", float64(now-last)/float64(nowTime.Sub(lastTime)))
		lastTime, last = nowTime, now
	}
}

// cpuTime is what the whole process has used, in user and system mode.
func cpuTime() (time.Duration, error) {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), nil
}
