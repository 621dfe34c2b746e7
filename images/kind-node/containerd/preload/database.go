package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
)

// pageSize is that of the database's file, in bytes: bbolt's default is the
// kernel's, which is larger on some arm64 machines.
const pageSize = 4096

// copyDatabase writes to dst what the database src holds, with all times set
// to created, so that the file depends on the contents alone: keys in their
// order, and one transaction for each, since bbolt gives pages to the buckets
// of a transaction in a random order.
func copyDatabase(dst, src string, created time.Time) (err error) {
	stamp, err := created.UTC().MarshalBinary()
	if err != nil {
		return fmt.Errorf("encode %s: %w", created, err)
	}
	from, err := bolt.Open(src, 0o644, &bolt.Options{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("open %s: %w", src, err)
	}
	defer from.Close()
	to, err := bolt.Open(dst, 0o644, &bolt.Options{NoSync: true, PageSize: pageSize, FreelistType: bolt.FreelistArrayType})
	if err != nil {
		return fmt.Errorf("create %s: %w", dst, err)
	}
	defer func() {
		if cerr := to.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("close %s: %w", dst, cerr)
		}
		if err != nil {
			os.Remove(dst)
		}
	}()
	err = from.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			return copyBucket(to, [][]byte{bytes.Clone(name)}, b, stamp)
		})
	})
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", src, dst, err)
	}
	if err := to.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dst, err)
	}
	return nil
}

// copyBucket copies b to where path leads, with what is in it.
func copyBucket(to *bolt.DB, path [][]byte, b *bolt.Bucket, stamp []byte) error {
	if err := update(to, path, func(c *bolt.Bucket) error { return c.SetSequence(b.Sequence()) }); err != nil {
		return err
	}
	return b.ForEach(func(k, v []byte) error {
		if v == nil { // a bucket
			return copyBucket(to, append(path[:len(path):len(path)], bytes.Clone(k)), b.Bucket(k), stamp)
		}
		if name := string(k); name == "createdat" || name == "updatedat" {
			v = stamp
		}
		return update(to, path, func(c *bolt.Bucket) error { return c.Put(k, v) })
	})
}

// update runs fn on the bucket that path leads to, in a transaction of its
// own. The bucket is created where there is none.
func update(db *bolt.DB, path [][]byte, fn func(*bolt.Bucket) error) error {
	return db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(path[0])
		for _, name := range path[1:] {
			if err != nil {
				break
			}
			b, err = b.CreateBucketIfNotExists(name)
		}
		if err != nil {
			return fmt.Errorf("create bucket %q: %w", path, err)
		}
		return fn(b)
	})
}
