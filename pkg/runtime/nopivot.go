package runtime

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// hideProc appends the unmounting of the host's procfs and sysfs mounts, where the
// old root stays in the namespace. As long as one is there in the open, the kernel
// sees no harm in a fresh mount of that file system in a user namespace that the
// container makes, and on such a mount nothing is masked.
func (b *builder) hideProc() error {
	mountinfo, err := readFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	mounts := procMounts(string(mountinfo), b.spec.Root.Path)
	for i := len(mounts) - 1; i >= 0; i-- { // what was mounted last first
		hidden, stuck := b.NewLabel(), b.NewLabel()
		target := b.String(mounts[i])
		b.Do(script.Op{
			Nr: unix.SYS_UMOUNT2, Args: []script.Arg{target, script.Int(unix.MNT_DETACH | unix.UMOUNT_NOFOLLOW)}, OK: hidden, Err: stuck,
			Event: explain.Event{Op: "umount2", Target: mounts[i], Value: "MNT_DETACH", Why: "with --no-pivot the host's would stay in reach"}, Attempt: true,
		})
		b.Place(stuck) // in a user namespace it can't be unmounted, only covered
		b.call(explain.Event{Op: "mount", Target: mounts[i], Value: "tmpfs", Why: "with --no-pivot the host's would stay in reach"},
			unix.SYS_MOUNT, b.String("tmpfs"), target, b.String("tmpfs"), script.Int(unix.MS_RDONLY), script.Int(0))
		b.Place(hidden)
	}
	return nil
}

// procMounts returns the mount points of procfs and sysfs outside of rootfs, in the
// order of mountinfo; its format is in proc_pid_mountinfo(5).
func procMounts(mountinfo, rootfs string) []string {
	var paths []string
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mountinfo) {
		mount, fs, _ := strings.Cut(line, " - ")
		if !strings.HasPrefix(fs, "proc ") && !strings.HasPrefix(fs, "sysfs ") {
			continue
		}
		fields := strings.Fields(mount)
		if len(fields) < 5 {
			continue
		}
		if p := unescape.Replace(fields[4]); !strings.HasPrefix(p, strings.TrimSuffix(rootfs, "/")+"/") {
			paths = append(paths, p)
		}
	}
	return paths
}
