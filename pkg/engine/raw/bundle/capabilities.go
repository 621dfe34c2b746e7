package bundle

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCapabilities are docker's.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// capabilityTable is every capability, in the order of its number, and what
// a process without it cannot do (capabilities(7)).
var capabilityTable = []struct{ name, without string }{
	{"CAP_CHOWN", "change the owner of files"},
	{"CAP_DAC_OVERRIDE", "pass by file permissions"},
	{"CAP_DAC_READ_SEARCH", "pass by permissions to read files, or open them by handle"},
	{"CAP_FOWNER", "change the mode of files that it does not own"},
	{"CAP_FSETID", "keep set-user-ID bits when it changes a file"},
	{"CAP_KILL", "signal processes of other users"},
	{"CAP_SETGID", "change its group IDs"},
	{"CAP_SETUID", "change its user IDs"},
	{"CAP_SETPCAP", "change its bounding set"},
	{"CAP_LINUX_IMMUTABLE", "change immutable and append-only flags"},
	{"CAP_NET_BIND_SERVICE", "bind to ports below 1024"},
	{"CAP_NET_BROADCAST", "broadcast or listen to multicasts"},
	{"CAP_NET_ADMIN", "configure its network"},
	{"CAP_NET_RAW", "use raw and packet sockets"},
	{"CAP_IPC_LOCK", "lock memory beyond its limit"},
	{"CAP_IPC_OWNER", "pass by permissions of System V IPC objects"},
	{"CAP_SYS_MODULE", "load kernel modules"},
	{"CAP_SYS_RAWIO", "do I/O port operations or open /dev/mem"},
	{"CAP_SYS_CHROOT", "use chroot, or join a mount namespace"},
	{"CAP_SYS_PTRACE", "trace processes of other users"},
	{"CAP_SYS_PACCT", "turn process accounting on or off"},
	{"CAP_SYS_ADMIN", "mount, or make namespaces"},
	{"CAP_SYS_BOOT", "reboot"},
	{"CAP_SYS_NICE", "raise its priority or set CPU affinity of others"},
	{"CAP_SYS_RESOURCE", "raise its resource limits or lower its OOM score"},
	{"CAP_SYS_TIME", "set the clock"},
	{"CAP_SYS_TTY_CONFIG", "configure terminals"},
	{"CAP_MKNOD", "make device nodes"},
	{"CAP_LEASE", "take leases on files"},
	{"CAP_AUDIT_WRITE", "write to the audit log"},
	{"CAP_AUDIT_CONTROL", "configure the audit log"},
	{"CAP_SETFCAP", "set capabilities of files"},
	{"CAP_MAC_OVERRIDE", "override mandatory access control"},
	{"CAP_MAC_ADMIN", "configure mandatory access control"},
	{"CAP_SYSLOG", "read the kernel's log"},
	{"CAP_WAKE_ALARM", "set timers that wake the machine"},
	{"CAP_BLOCK_SUSPEND", "keep the machine awake"},
	{"CAP_AUDIT_READ", "read the audit log"},
	{"CAP_PERFMON", "use performance counters"},
	{"CAP_BPF", "load BPF programs"},
	{"CAP_CHECKPOINT_RESTORE", "checkpoint and restore processes"},
}

const allCapabilities = "ALL"

// capabilities are docker's default set, changed by --cap-add and --cap-drop,
// and all with --privileged. What the host's bounding set lacks nobody can
// have, and the kernel would refuse the whole set for one of them.
func (b *builder) capabilities() error {
	add, err := normalizeCapabilities("--cap-add", b.in.Spec.CapAdd)
	if err != nil {
		return err
	}
	drop, err := normalizeCapabilities("--cap-drop", b.in.Spec.CapDrop)
	if err != nil {
		return err
	}
	var granted []string
	for _, c := range capabilityTable {
		wanted := slices.Contains(defaultCapabilities, c.name)
		switch {
		case b.in.Spec.Privileged:
			wanted = true
		case slices.Contains(add, allCapabilities):
			wanted = !slices.Contains(drop, c.name)
		case slices.Contains(drop, allCapabilities):
			wanted = slices.Contains(add, c.name)
		default:
			// As docker: what is both dropped and added is added.
			wanted = slices.Contains(add, c.name) || wanted && !slices.Contains(drop, c.name)
		}
		switch {
		case !wanted:
		case slices.Contains(b.in.Host.Capabilities, c.name):
			granted = append(granted, c.name)
		default:
			b.warn("%s is missing from this host's bounding set: the container cannot %s", c.name, c.without)
		}
	}
	// Neither inheritable nor ambient ones: docker has given none since
	// CVE-2022-24769, in which they outlived a change of user.
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: granted, Effective: granted, Permitted: granted}
	return nil
}

// normalizeCapabilities upper-cases names and gives them their prefix.
func normalizeCapabilities(flag string, names []string) ([]string, error) {
	var normal []string
	for _, given := range names {
		name := strings.ToUpper(given)
		if name != allCapabilities {
			if !strings.HasPrefix(name, "CAP_") {
				name = "CAP_" + name
			}
			if !knownCapability(name) {
				return nil, invalid("%s: unknown capability %q", flag, given)
			}
		}
		normal = append(normal, name)
	}
	return normal, nil
}

func knownCapability(name string) bool {
	for _, c := range capabilityTable {
		if c.name == name {
			return true
		}
	}
	return false
}
