package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ioBlock is what one read or write moves: small enough for a steady rate
// under a low limit, and a multiple of what O_DIRECT asks for.
const ioBlock = 256 << 10

// loadIO writes a file of total bytes and reads it, over and over.
func loadIO(ctx context.Context, path string, total int64, interval time.Duration, out *lines) (err error) {
	file, direct, err := openIO(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	// O_DIRECT wants memory that begins on a page.
	block, err := unix.Mmap(-1, 0, ioBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map a buffer: %w", err)
	}
	defer unix.Munmap(block)
	for i := range block {
		block[i] = byte(i * 7)
	}
	blocks := max(total/ioBlock, 1)
	how := "past the page cache (O_DIRECT)"
	if !direct {
		how = "through the page cache: this file system has no O_DIRECT"
	}
	out.printf("io: writing and reading %s, %s, %s", file.Name(), human(float64(blocks*ioBlock)), how)

	meter := &meter{out: out, interval: interval, start: time.Now(), last: time.Now()}
	for ctx.Err() == nil {
		if err := pass(ctx, blocks, func(at int64) (int, error) { return file.WriteAt(block, at) }, &meter.wrote, meter); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if !direct {
			// Onto the disk, then out of the cache, or reading would be copying.
			if err := file.Sync(); err != nil {
				return err
			}
			_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		if err := pass(ctx, blocks, func(at int64) (int, error) { return file.ReadAt(block, at) }, &meter.read, meter); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read: %w", err)
		}
	}
	meter.total()
	return nil
}

func pass(ctx context.Context, blocks int64, move func(at int64) (int, error), count *int64, m *meter) error {
	for i := range blocks {
		if ctx.Err() != nil {
			return nil
		}
		n, err := move(i * ioBlock)
		if err != nil {
			return err
		}
		*count += int64(n)
		m.tick()
	}
	return nil
}

// openIO creates the file, new within a folder; with O_DIRECT if it can be had.
func openIO(path string) (file *os.File, direct bool, err error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, fmt.Sprintf("stress-%d", os.Getpid()))
	} else if err == nil {
		return nil, false, fmt.Errorf("%s exists: give a folder, or a name that is free", path)
	}
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	file, err = os.OpenFile(path, flags|unix.O_DIRECT, 0o600)
	if errors.Is(err, unix.EINVAL) {
		_ = os.Remove(path) // open(2) creates the file before it refuses O_DIRECT
		file, err = os.OpenFile(path, flags, 0o600)
		return file, false, err
	}
	return file, true, err
}

// meter prints rates.
type meter struct {
	out                 *lines
	interval            time.Duration
	start, last         time.Time
	wrote, read         int64 // bytes, since start
	lastWrote, lastRead int64 // at last
}

func (m *meter) tick() {
	since := time.Since(m.last)
	if since < m.interval {
		return
	}
	m.out.printf("io: write %s/s, read %s/s", human(float64(m.wrote-m.lastWrote)/since.Seconds()), human(float64(m.read-m.lastRead)/since.Seconds()))
	m.last, m.lastWrote, m.lastRead = time.Now(), m.wrote, m.read
}

func (m *meter) total() {
	m.out.printf("io: wrote %s, read %s in %.1f s", human(float64(m.wrote)), human(float64(m.read)), time.Since(m.start).Seconds())
}
