package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// loadMemory maps total bytes, writes to every page of them, a step at a
// time, and holds them. The kernel gives a page only when it is written to:
// mapping alone costs no memory and no limit counts it.
func loadMemory(ctx context.Context, total, step int64, out *lines) error {
	mem, err := unix.Mmap(-1, 0, int(total), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("map %s: %w", human(float64(total)), err)
	}
	defer unix.Munmap(mem)
	// Or one write could bring in a huge page of 2 MiB. Kernels without huge
	// pages refuse the advice and need none.
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE)
	out.printf("memory: mapped %s, now touching it", human(float64(total)))
	page := int64(os.Getpagesize())
	for done := int64(0); done < total; {
		end := min(done+step, total)
		for at := done; at < end; at += page {
			mem[at] = byte(at/page) | 1 // not zero, and not the same everywhere
		}
		done = end
		// Before the next step, so that the last line says how far it came
		// when the kernel ends it there.
		out.printf("memory: %s of %s touched", human(float64(done)), human(float64(total)))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond): // for people to watch
		}
	}
	out.printf("memory: holding %s", human(float64(total)))
	<-ctx.Done()
	return nil
}
