package host

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

func resourceChecks() []check {
	return []check{
		{
			name: "memory", why: "containers need little, a cluster with monitoring about 4 GiB",
			look: func(_ context.Context, h *Host) finding {
				total, available := h.meminfo("MemTotal"), h.meminfo("MemAvailable")
				text := fmt.Sprintf("%s, %s available", units.BytesSize(float64(total)), units.BytesSize(float64(available)))
				switch {
				case total == 0:
					return warnf("/proc/meminfo does not say")
				case available < 256*mib:
					return warnf("%s", text)
				case total < 2*gib:
					return finding{status: Warn, found: text, why: "enough for containers; a cluster with monitoring takes about 4 GiB"}
				}
				return okf("%s", text)
			}, fix: "end other programs, or give the machine more memory",
		},
		{
			name: "disk", why: "images, and what containers write, are kept in the state folder",
			look: func(_ context.Context, h *Host) finding {
				dir := existing(h.StateDir)
				var st unix.Statfs_t
				if err := unix.Statfs(dir, &st); err != nil {
					return failf("%s: %v", dir, err)
				}
				free := st.Bavail * uint64(st.Bsize) //nolint:gosec // a block size is positive
				text := fmt.Sprintf("%s free on %s (%s)", units.BytesSize(float64(free)), dir, filesystemOf(dir))
				switch {
				case st.Files > 0 && st.Ffree < 1000:
					return failf("%s, but only %d inodes", text, st.Ffree)
				case free < 200*mib:
					return failf("%s", text)
				case free < 2*gib:
					return warnf("%s", text)
				}
				return okf("%s", text)
			}, fix: "free some space, or choose another folder with --state-dir",
		},
		{
			name: "inotify watches", why: "each kubelet, container runtime and log reader watches files; a cluster runs out of the default number, with errors that do not say so",
			look: atLeast("sys/fs/inotify/max_user_watches", 524288),
			fix:  "sysctl -w fs.inotify.max_user_watches=524288, kept in " + sysctlFile, repair: sysctl("fs.inotify.max_user_watches", 524288),
		},
		{
			name: "inotify instances", why: "the same, counted by program",
			look: atLeast("sys/fs/inotify/max_user_instances", 512),
			fix:  "sysctl -w fs.inotify.max_user_instances=512, kept in " + sysctlFile, repair: sysctl("fs.inotify.max_user_instances", 512),
		},
	}
}

// meminfo returns a line of /proc/meminfo in bytes.
func (h *Host) meminfo(name string) uint64 {
	for line := range strings.Lines(read(h.Proc, "meminfo") + "\n") {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 54)
			return n << 10
		}
	}
	return 0
}

func atLeast(file string, want uint64) func(context.Context, *Host) finding {
	return func(_ context.Context, h *Host) finding {
		text := read(h.Proc, file)
		n, err := strconv.ParseUint(text, 10, 64)
		switch {
		case err != nil:
			return warnf("/proc/%s says %q", file, text)
		case n < want:
			return warnf("%d, less than %d", n, want)
		}
		return okf("%d", n)
	}
}
