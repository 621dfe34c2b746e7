package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	lmount "github.com/sandboxlabs/sandbox/pkg/linux/mount"
	"golang.org/x/sys/unix"
)

// MountIDMapped is Mount for a container in a user namespace: what root owns
// in the layers appears owned by the container's root, and the layers stay
// as they are, shared with every other container. upper must have been
// prepared with the same mapping; what is copied up there belongs to the
// host's IDs. It needs Linux 5.19, and a file system below lower that
// supports ID-mapped mounts (ext4, xfs, btrfs; tmpfs since 6.3).
func MountIDMapped(target string, lower []string, upper, work string, m Mapping, opts Options, trace *explain.Tracer) error {
	userns, err := lmount.UserNamespace(m.UIDs, m.GIDs)
	if err != nil {
		return fmt.Errorf("mount overlay %s: %w", target, err)
	}
	defer userns.Close()
	layers, err := idmapAll(lower, userns, m, opts, trace)
	defer closeAll(layers)
	if err != nil {
		return fmt.Errorf("mount overlay %s: %w", target, err)
	}
	return trace.Do(event(target, lower, upper, work, opts), func() error {
		if appendsLayers() {
			// Before Linux 6.15 a layer must be attached somewhere: EINVAL.
			err := mount(target, layers, upper, work, opts)
			if !errors.Is(err, unix.EINVAL) {
				return explained(err, target, lower, upper, work)
			}
		}
		return explained(mountStaged(target, layers, upper, work, opts), target, lower, upper, work)
	})
}

// idmapAll clones the mount of each layer and maps its owners. The clones are
// attached nowhere; closing their fd unmounts them.
func idmapAll(lower []string, userns *os.File, m Mapping, opts Options, trace *explain.Tracer) ([]layer, error) {
	var layers []layer
	for _, dir := range lower {
		ev := explain.Event{
			Op: "mount_setattr", Target: dir,
			Value:  "MOUNT_ATTR_IDMAP uid " + mappingString(m.UIDs) + " gid " + mappingString(m.GIDs),
			Source: "linux.uidMappings",
			Why:    "a view of the layer in which the files of root belong to the container's root; nothing is copied or chowned",
		}
		err := trace.Do(ev, func() error {
			tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			if err != nil {
				return fmt.Errorf("open_tree: %w", err)
			}
			layers = append(layers, layer{dir, tree})
			return lmount.IDMap(tree, userns, false)
		})
		if err != nil {
			return layers, fmt.Errorf("layer %s: %w", dir, err)
		}
	}
	return layers, nil
}

func closeAll(layers []layer) {
	for _, l := range layers {
		unix.Close(l.fd)
	}
}

// mappingString writes mappings as user_namespaces(7) does in uid_map.
func mappingString(mappings []syscall.SysProcIDMap) string {
	parts := make([]string, len(mappings))
	for i, m := range mappings {
		parts[i] = fmt.Sprintf("%d:%d:%d", m.ContainerID, m.HostID, m.Size)
	}
	return strings.Join(parts, ",")
}

// mountStaged attaches the layers for as long as it takes to mount overlayfs,
// which keeps private clones of them:
//
//	target          tmpfs, with the directories 0, 1, …
//	target/N        layer N
//	target          overlay of these, on top of the tmpfs
//
// and then takes it all down but the overlay, which it moves back to target.
func mountStaged(target string, lower []layer, upper, work string, opts Options) (err error) {
	stage, err := newTmpfs()
	if err != nil {
		return err
	}
	defer unix.Close(stage)
	if err := attach(stage, target); err != nil {
		return err
	}
	attached := 1 // mounts on target
	defer func() {
		for ; attached > 0; attached-- {
			err = errors.Join(err, unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
		}
	}()
	staged := make([]layer, len(lower))
	for i, l := range lower {
		dir := filepath.Join(target, strconv.Itoa(i))
		if err := unix.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("mkdir %s: %w", dir, err)
		}
		if err := attach(l.fd, dir); err != nil {
			return fmt.Errorf("attach %s: %w", l.path, err)
		}
		staged[i] = layer{path: dir, fd: -1}
	}
	if err := mount(target, staged, upper, work, opts); err != nil {
		return err
	}
	attached++
	overlay, err := unix.OpenTree(unix.AT_FDCWD, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree %s: %w", target, err)
	}
	defer unix.Close(overlay)
	for ; attached > 0; attached-- {
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount stage: %w", err)
		}
	}
	return attach(overlay, target)
}

func newTmpfs() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen tmpfs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("fsconfig create: %w", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("fsmount tmpfs: %w", err)
	}
	return mnt, nil
}
