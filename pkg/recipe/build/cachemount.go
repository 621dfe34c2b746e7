package build

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/pattern"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build/filecopy"
)

var cacheName = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// cacheFolder is the name of a cache's folder. IDs that are paths, as those of
// mounts without an ID are, get a name without slashes.
func cacheFolder(id string) string {
	if cacheName.MatchString(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "@" + hex.EncodeToString(sum[:8])
}

// cacheFolder is the folder of a mount's cache. Mounts share it that have the
// same ID and make a new cache alike: else one would have the owner, or the
// files, that another has asked for.
func (m *mount) cacheFolder() string {
	if m.UID == nil && m.GID == nil && m.Mode == nil && m.from == (origin{}) {
		return cacheFolder(m.ID)
	}
	h := sha256.New()
	for _, n := range []*uint64{m.UID, m.GID, m.Mode} {
		if n != nil {
			fmt.Fprint(h, *n)
		}
		fmt.Fprint(h, ",")
	}
	fmt.Fprint(h, m.Source, "\n", m.Content)
	return cacheFolder(m.ID) + "@" + hex.EncodeToString(h.Sum(nil)[:8])
}

// openCaches finds the folders of all cache mounts, and locks them in the order
// of their names for the time of the run.
func (x *execution) openCaches(r *run, mounts []*mount) error {
	byFolder := map[string][]*mount{}
	for _, m := range mounts {
		if m.Type == instructions.MountTypeCache {
			byFolder[m.cacheFolder()] = append(byFolder[m.cacheFolder()], m)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byFolder)) {
		same := byFolder[name]
		folder, err := x.lockCache(r, name, sharing(same))
		if err == nil {
			r.cache[name] = filepath.Join(x.cache.caches(), folder)
			err = x.seed(r, same[0], r.cache[name])
		}
		if err != nil {
			return fmt.Errorf("cache %s: %w", same[0].ID, err)
		}
	}
	return nil
}

// sharing is the narrowest that one of the mounts asks for.
func sharing(mounts []*mount) instructions.ShareMode {
	for _, s := range []instructions.ShareMode{instructions.MountSharingPrivate, instructions.MountSharingLocked} {
		if slices.ContainsFunc(mounts, func(m *mount) bool { return m.Sharing == s }) {
			return s
		}
	}
	return instructions.MountSharingShared
}

// lockCache returns the folder of a cache, locked as its sharing asks for: with
// others for "shared", alone for "locked", and for "private" the first copy that
// nobody uses.
func (x *execution) lockCache(r *run, name string, how instructions.ShareMode) (string, error) {
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
		switch how {
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
			return folder, nil
		}
	}
}

// seed makes a new cache of what the mount says. It gets its name when it is
// complete.
func (x *execution) seed(r *run, m *mount, dir string) error {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(x.cache.caches(), 0o700); err != nil {
		return err
	}
	half, err := r.temp("cache")
	if err != nil {
		return err
	}
	half = filepath.Join(half, "fs")
	if err := os.Mkdir(half, 0o755); err != nil {
		return err
	}
	uid, gid, mode := 0, 0, os.FileMode(0o755)
	if m.from != (origin{}) { // the cache begins as the folder there
		from, err := x.open(r, m.from, false)
		if err != nil {
			return err
		}
		owners := m.from.folder == nil || m.from.folder.rootfs
		err = filecopy.Copy(r.ctx, from, []string{m.pattern()}, half, "/", filecopy.Options{Dir: true, KeepOwner: owners})
		if err != nil {
			return err
		}
		source, err := within(from.Root, m.Source)
		if err != nil {
			return fmt.Errorf("source %s: %w", m.Source, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(source, &st); err != nil {
			return fmt.Errorf("source %s: %w", m.Source, err)
		}
		if mode = os.FileMode(st.Mode & 0o777); owners {
			uid, gid = int(st.Uid), int(st.Gid)
		}
	}
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
		return err
	}
	// An empty folder would be replaced, though somebody has it mounted.
	err = unix.Renameat2(unix.AT_FDCWD, half, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) { // another run that shares it was quicker
		return nil
	}
	if err != nil {
		return &os.LinkError{Op: "renameat2", Old: half, New: dir, Err: err}
	}
	return nil
}
