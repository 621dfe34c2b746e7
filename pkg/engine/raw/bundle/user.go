package bundle

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// User is who a process runs as, in the container's IDs.
type User struct {
	UID, GID uint32
	// AdditionalGids starts with GID, as docker has it: a process that changes
	// its group keeps access to its first group's files.
	AdditionalGids []uint32
	Home           string // "" if unknown
}

// maxDatabase bounds /etc/passwd and /etc/group, which an image provides.
const maxDatabase = 4 << 20

// LookupUser resolves NAME|UID[:GROUP|GID] by the container's own /etc/passwd
// and /etc/group, as docker does; "" is root, and ":GROUP" root in that group.
// Both are opened below rootfs, out of which no symbolic link leads, and neither
// needs to exist.
//
// An unknown name is errdefs.ErrInvalidArgument.
func LookupUser(rootfs *os.File, spec string) (User, error) {
	name, group, _ := strings.Cut(spec, ":")
	hasGroup := group != ""
	if name == "" {
		name = "0"
	}
	u := User{Home: "/"}
	uid, numeric := parseID(name)
	u.UID = uid
	found := false
	// passwd(5): name:password:UID:GID:GECOS:directory:shell
	err := eachEntry(rootfs, "/etc/passwd", 7, func(fields []string) bool {
		entryUID, ok := parseID(fields[2])
		entryGID, ok2 := parseID(fields[3])
		if !ok || !ok2 || fields[0] != name && !(numeric && entryUID == uid) {
			return true
		}
		found = true
		name, u.UID, u.GID = fields[0], entryUID, entryGID
		if fields[5] != "" {
			u.Home = fields[5]
		}
		return false
	})
	switch {
	case err != nil:
		return User{}, err
	case !found && !numeric:
		return User{}, invalid("user %q is not in the image's /etc/passwd", name)
	case !found:
		name = "" // a member of no group
	}

	var groups []uint32
	gid, gidNumeric := parseID(group)
	groupFound := false
	// group(5): name:password:GID:members
	err = eachEntry(rootfs, "/etc/group", 4, func(fields []string) bool {
		entryGID, ok := parseID(fields[2])
		if !ok {
			return true
		}
		if hasGroup {
			if fields[0] == group || gidNumeric && entryGID == gid {
				u.GID, groupFound = entryGID, true
			}
			return !groupFound
		}
		for member := range strings.SplitSeq(fields[3], ",") {
			if name != "" && member == name {
				groups = append(groups, entryGID)
			}
		}
		return len(groups) < maxGroups
	})
	switch {
	case err != nil:
		return User{}, err
	case hasGroup && !groupFound && !gidNumeric:
		return User{}, invalid("group %q is not in the image's /etc/group", group)
	case hasGroup && !groupFound:
		u.GID = gid
	}
	u.AdditionalGids = []uint32{u.GID}
	for _, g := range groups {
		if g != u.GID {
			u.AdditionalGids = append(u.AdditionalGids, g)
		}
	}
	return u, nil
}

// maxGroups is less by one than NGROUPS_MAX, with the first group.
const maxGroups = 65535

// parseID accepts what docker does: the kernel's IDs are unsigned, but the upper
// half is not used, and -1 means "no change" to chown(2).
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > math.MaxInt32 {
		return 0, false
	}
	return uint32(n), true
}

// eachEntry calls fn with the fields of each line of a database of the
// container's, until it returns false. Lines with fewer fields are padded.
func eachEntry(rootfs *os.File, path string, fields int, fn func([]string) bool) error {
	file, err := openRegular(rootfs, path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the image's %s: %w", path, err)
	}
	defer file.Close()
	limited := &io.LimitedReader{R: file, N: maxDatabase + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxDatabase+1)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		entry := strings.Split(line, ":")
		for len(entry) < fields {
			entry = append(entry, "")
		}
		if !fn(entry) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the image's %s: %w", path, err)
	}
	if limited.N <= 0 {
		return invalid("the image's %s is larger than %d bytes", path, maxDatabase)
	}
	return nil
}

// openRegular opens a file of the container's. What an image has there may be
// anything, and to open a pipe or a device for reading could block for ever.
func openRegular(rootfs *os.File, path string) (*os.File, error) {
	handle, err := pathrs.OpenatInRoot(rootfs, path)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	info, err := handle.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, invalid("it is not a regular file")
	}
	return pathrs.Reopen(handle, unix.O_RDONLY|unix.O_CLOEXEC)
}
