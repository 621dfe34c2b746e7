package filecopy

import (
	"crypto/sha256"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Cache remembers digests of files, so that a build reads each once. The zero
// Cache is ready to use, also concurrently; a nil one remembers nothing.
type Cache struct {
	mu   sync.Mutex
	sums map[fileKey]fileSum
}

// maxCache bounds it, in files.
const maxCache = 1 << 20

// settled is how old a change must be to be told from the next one: file systems
// stamp with the time of the last tick, at worst 10 ms ago.
const settled = 50 * time.Millisecond

// fileKey changes with whatever is done to a file: nobody can set the ctime.
type fileKey struct {
	inode
	size         int64
	mtime, ctime unix.Timespec
}

// fileSum is of a regular file.
type fileSum struct {
	sum   [sha256.Size]byte
	attrs string
}

func keyOf(st *unix.Stat_t) fileKey {
	return fileKey{inode{st.Dev, st.Ino}, st.Size, st.Mtim, st.Ctim}
}

func (c *Cache) get(st *unix.Stat_t) (fileSum, bool) {
	if c == nil {
		return fileSum{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	sum, ok := c.sums[keyOf(st)]
	return sum, ok
}

func (c *Cache) put(st *unix.Stat_t, sum fileSum) {
	if c == nil || time.Since(time.Unix(st.Ctim.Unix())) < settled {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sums == nil || len(c.sums) >= maxCache {
		c.sums = map[fileKey]fileSum{}
	}
	c.sums[keyOf(st)] = sum
}
