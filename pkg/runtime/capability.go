package runtime

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// capabilityNames are the capabilities by number; see capabilities(7).
var capabilityNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
	"CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
}

// capSet is a set of capabilities, bit N for number N.
type capSet uint64

func (s capSet) has(n int) bool { return s&(1<<n) != 0 }

// capability numbers that the code itself reasons about.
const (
	capSysAdmin    = 21
	capSysResource = 24
)

// hostCapabilities returns the runtime's own bounding set, which bounds what a
// container can have, and the highest capability that the kernel knows.
func hostCapabilities() (bounding capSet, last int) {
	for n := range 64 {
		// PR_CAPBSET_READ is 0 or 1, and an error for what does not exist.
		v, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_READ, uintptr(n), 0)
		if errno != 0 {
			return bounding, n - 1
		}
		bounding |= capSet(v) << n
	}
	return bounding, 63
}

// parseCapabilities turns names into a set. Names that no kernel knows, and
// capabilities that the host does not have to give, are left out and returned
// as warnings (config.md: "any value which cannot be mapped to a relevant
// kernel interface, or cannot be granted otherwise, MUST be logged as a warning").
func parseCapabilities(names []string, host capSet, warn func(string)) capSet {
	var s capSet
	for _, name := range names {
		n := capabilityNumber(name)
		switch {
		case n < 0:
			warn(fmt.Sprintf("capability %s is unknown and is ignored", name))
		case !host.has(n):
			warn(fmt.Sprintf("capability %s is not granted: it is missing from this host's bounding set, so no process here can have it", name))
		default:
			s |= 1 << n
		}
	}
	return s
}

func capabilityNumber(name string) int {
	for n, c := range capabilityNames {
		if c == name {
			return n
		}
	}
	return -1
}
