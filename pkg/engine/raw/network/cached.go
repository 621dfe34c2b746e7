package network

import (
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// cached holds what was read from files, until one of them is replaced or
// written.
type cached[T any] struct {
	paths []string
	read  func() (T, error)

	mu     sync.Mutex
	stamps []stamp
	value  T
}

// stamp tells versions of a file apart.
type stamp struct {
	modified time.Time
	size     int64
	file     fs.FileInfo
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{} // absent, which is a version as well
	}
	return stamp{info.ModTime(), info.Size(), info}
}

func (s stamp) equal(o stamp) bool {
	if s.file == nil || o.file == nil {
		return s.file == o.file
	}
	return s.modified.Equal(o.modified) && s.size == o.size && os.SameFile(s.file, o.file)
}

func (c *cached[T]) get() (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Before reading: what changes meanwhile is read again next time.
	now := make([]stamp, len(c.paths))
	for i, path := range c.paths {
		now[i] = stampOf(path)
	}
	if c.stamps != nil && slices.EqualFunc(c.stamps, now, stamp.equal) {
		return c.value, nil
	}
	value, err := c.read()
	if err == nil {
		c.value, c.stamps = value, now
	}
	return value, err
}
