package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrNoMount is returned by Mount on a host without a cgroup v2 file system.
var ErrNoMount = errors.New("no cgroup v2 file system is mounted")

// Mount returns where the cgroup2 file system is mounted: on most hosts
// /sys/fs/cgroup, on one that also has version 1 (a "hybrid" host) usually
// /sys/fs/cgroup/unified.
func Mount() (root string, err error) {
	// The two usual places cost a system call each; mountinfo may have
	// thousands of lines.
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if isCgroup2(dir) {
			return dir, nil
		}
	}
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the cgroup v2 file system: %w", err)
	}
	for _, dir := range cgroup2Mounts(mountinfo) {
		// What is listed may be hidden under a later mount.
		if isCgroup2(dir) {
			return dir, nil
		}
	}
	return "", ErrNoMount
}

func isCgroup2(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// cgroup2Mounts returns the mount points of type cgroup2, in order. The format
// of mountinfo is in proc_pid_mountinfo(5):
//
//	36 35 98:0 /root /mount/point options [optional fields] - type source super
func cgroup2Mounts(mountinfo []byte) []string {
	var dirs []string
	for line := range bytes.Lines(mountinfo) {
		mount, fstype, ok := bytes.Cut(line, []byte(" - "))
		if !ok || !bytes.HasPrefix(fstype, []byte("cgroup2 ")) {
			continue
		}
		if fields := bytes.Fields(mount); len(fields) > 4 {
			dirs = append(dirs, unescape(fields[4]))
		}
	}
	return dirs
}

// unescape resolves the octal escapes, such as \040 for a space, of mountinfo.
func unescape(b []byte) string {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) {
			if n, err := strconv.ParseUint(string(b[i+1:i+4]), 8, 8); err == nil {
				out = append(out, byte(n))
				i += 3
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out)
}
