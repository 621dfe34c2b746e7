package build

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/sandboxlabs/sandbox/pkg/recipe/build/filecopy"
)

var cacheName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// cacheFolder is the name of a cache's folder. IDs that are paths, as those of
// mounts without an ID are, get a name without slashes.
func cacheFolder(id string) string {
	if cacheName.MatchString(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "@" + hex.EncodeToString(sum[:8])
}

// cacheDir is the folder of a cache mount, locked for the time of the run as its
// sharing asks for: not at all among "shared", alone for "locked", and for
// "private" the first copy that nobody uses.
func (x *execution) cacheDir(r *run, m *mount) (string, error) {
	name := cacheFolder(m.ID)
	for n := 0; ; n++ {
		folder := name
		if n > 0 {
			folder = fmt.Sprintf("%s+%d", name, n)
		}
		path := filepath.Join(x.cache.locks(), "cache-"+folder)
		var (
			held *os.File
			err  error
		)
		switch m.Sharing {
		case instructions.MountSharingPrivate:
			held, err = tryLock(path, exclusive)
		case instructions.MountSharingLocked:
			held, err = lock(r.ctx, path, exclusive)
		default:
			held, err = lock(r.ctx, path, shared)
		}
		if err != nil {
			return "", err
		}
		if held != nil {
			r.later(held.Close)
			now := time.Now()
			_ = os.Chtimes(path, now, now) // when it was last used; see Prune
			return x.seeded(r, m, filepath.Join(x.cache.caches(), folder))
		}
	}
}

// seeded returns the folder of a cache, made of what the mount says if it is
// new. It gets its name when it is complete.
func (x *execution) seeded(r *run, m *mount, dir string) (string, error) {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	if err := os.MkdirAll(x.cache.caches(), 0o700); err != nil {
		return "", err
	}
	half, err := r.temp("cache")
	if err != nil {
		return "", err
	}
	half = filepath.Join(half, "fs")
	if err := os.Mkdir(half, 0o755); err != nil {
		return "", err
	}
	if m.from != (origin{}) {
		from, err := x.open(r, m.from, false)
		if err != nil {
			return "", err
		}
		err = filecopy.Copy(r.ctx, from, []string{m.pattern()}, half, "/", filecopy.Options{Dir: true, KeepOwner: m.from.folder == nil || m.from.folder.rootfs})
		if err != nil {
			return "", err
		}
	}
	uid, gid, mode := 0, 0, os.FileMode(0o755)
	if m.UID != nil {
		uid = int(*m.UID)
	}
	if m.GID != nil {
		gid = int(*m.GID)
	}
	if m.Mode != nil {
		mode = os.FileMode(*m.Mode & 0o777)
	}
	if err := errors.Join(os.Chown(half, uid, gid), os.Chmod(half, mode)); err != nil {
		return "", err
	}
	err = os.Rename(half, dir)
	if errors.Is(err, fs.ErrExist) || isNotEmpty(err) {
		err = nil // another run that shares it was quicker
	}
	return dir, err
}
