package bundle

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Modes of --network, --pid and --ipc; "" is private, and so are docker's
// other words for that.
const (
	modeHost      = "host"
	modeContainer = "container:" // and an ID
)

// namespaces gives the container namespaces of its own, but where a mode says
// to keep the host's or to join another container's.
func (b *builder) namespaces() error {
	s := &b.in.Spec
	add := func(kind specs.LinuxNamespaceType, path string) {
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
	add(specs.MountNamespace, "")
	add(specs.UTSNamespace, "")
	// Always private, as docker does where cgroups are v2.
	add(specs.CgroupNamespace, "")
	for _, m := range []struct {
		flag, mode string
		kind       specs.LinuxNamespaceType
		join       string
		private    []string
	}{
		{"--pid", s.PIDMode, specs.PIDNamespace, b.in.Join.PID, []string{"", "private"}},
		{"--ipc", s.IPCMode, specs.IPCNamespace, b.in.Join.IPC, []string{"", "private", "shareable", "none"}},
		{"--network", s.Network.Mode, specs.NetworkNamespace, b.in.Join.Network, []string{"", "default", "bridge", "none"}},
	} {
		switch {
		case m.mode == modeHost:
		case strings.HasPrefix(m.mode, modeContainer):
			if m.join == "" {
				return invalid("%s %s: that container is not running", m.flag, m.mode)
			}
			add(m.kind, m.join)
		case slices.Contains(m.private, m.mode):
			add(m.kind, "")
		default:
			return invalid("invalid %s mode %q", m.flag, m.mode)
		}
	}
	if strings.HasPrefix(s.IPCMode, modeContainer) {
		b.warn("--ipc %s shares System V IPC and message queues, not the other container's /dev/shm", s.IPCMode)
	}
	return b.network()
}

// network refuses what belongs to a network namespace of the container's own.
func (b *builder) network() error {
	n := &b.in.Spec.Network
	if n.Mode == modeHost && len(n.Publish) > 0 {
		b.warn("-p has no effect with --network host: the container listens on the host's own ports")
	}
	if !strings.HasPrefix(n.Mode, modeContainer) {
		return nil
	}
	switch {
	case len(n.Publish) > 0:
		return invalid("-p cannot be used with --network %s: publish the ports of that container", n.Mode)
	case b.in.Spec.Hostname != "":
		return invalid("--hostname cannot be used with --network %s: the name is that container's", n.Mode)
	case len(n.DNS) > 0:
		return invalid("--dns cannot be used with --network %s: resolv.conf is that container's", n.Mode)
	case len(n.ExtraHosts) > 0:
		return invalid("--add-host cannot be used with --network %s: the hosts file is that container's", n.Mode)
	}
	return nil
}

// has reports whether the container gets a namespace of its own, as opposed to
// the host's or another container's.
func (b *builder) has(kind specs.LinuxNamespaceType) bool {
	return slices.Contains(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
}

// userNamespace adds the user namespace and its mappings.
func (b *builder) userNamespace() error {
	s := &b.in.Spec
	ids := b.in.AutoIDs
	switch s.UserNS {
	case "", modeHost:
		return nil
	case "auto":
		if ids.Size == 0 {
			return invalid("--userns auto: no range of IDs is free")
		}
	default:
		var err error
		if ids, err = parseIDRange(s.UserNS); err != nil {
			return err
		}
	}
	if s.Privileged {
		return invalid("--privileged cannot be used with --userns %s: it gives the host's root", s.UserNS)
	}
	// A namespace belongs to the user namespace that it was made in, and only
	// who has the capabilities there may mount its proc, sysfs or mqueue.
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.NetworkNamespace} {
		if !b.has(kind) {
			return invalid("--userns %s needs a %s namespace of the container's own", s.UserNS, kind)
		}
	}
	user := b.in.User
	for _, id := range append([]uint32{user.UID, user.GID}, user.AdditionalGids...) {
		if id >= ids.Size {
			return invalid("user or group %d is outside of the %d IDs of --userns %s", id, ids.Size, s.UserNS)
		}
	}
	b.spec.Linux.Namespaces = slices.Insert(b.spec.Linux.Namespaces, 0, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: ids.UID, Size: ids.Size}}
	b.spec.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: ids.GID, Size: ids.Size}}
	return nil
}

// parseIDRange parses UID:GID:SIZE.
func parseIDRange(s string) (IDRange, error) {
	fields := strings.Split(s, ":")
	var n [3]uint32
	if len(fields) != len(n) {
		return IDRange{}, invalid("invalid --userns %q: want host, auto or UID:GID:SIZE", s)
	}
	for i, field := range fields {
		v, err := strconv.ParseUint(field, 10, 32)
		if err != nil {
			return IDRange{}, invalid("invalid --userns %q: %q is not an ID", s, field)
		}
		n[i] = uint32(v)
	}
	ids := IDRange{UID: n[0], GID: n[1], Size: n[2]}
	switch {
	case ids.Size == 0:
		return IDRange{}, invalid("invalid --userns %q: the size is 0", s)
	case uint64(max(ids.UID, ids.GID))+uint64(ids.Size) > math.MaxUint32:
		return IDRange{}, invalid("invalid --userns %q: it ends beyond the largest ID", s)
	case ids.UID == 0 || ids.GID == 0:
		return IDRange{}, invalid("invalid --userns %q: the container's root would be the host's", s)
	}
	return ids, nil
}

// hostname is the one asked for, or the first 12 digits of the ID.
func (b *builder) hostname() error {
	name := b.in.Spec.Hostname
	switch {
	case name != "":
	case b.in.Spec.Network.Mode == modeHost && b.in.Host.Hostname != "":
		name = b.in.Host.Hostname
	default:
		name = b.in.ID[:min(12, len(b.in.ID))]
	}
	// sethostname(2); and the name is written to /etc/hosts.
	if len(name) > 64 {
		return invalid("invalid hostname %q: longer than 64 bytes", name)
	}
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
		default:
			return invalid("invalid hostname %q: only letters, digits, '-', '.' and '_' are allowed", name)
		}
	}
	b.spec.Hostname = name
	return nil
}

// ipcSysctls are those of an IPC namespace; fs.mqueue.* are, too.
var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
	"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

// sysctls allows those that a namespace of the container's own has a value of;
// any other would be set for the whole host.
func (b *builder) sysctls() error {
	set := map[string]string{}
	if b.has(specs.NetworkNamespace) {
		// docker's defaults: ping and ports below 1024 without capabilities.
		set["net.ipv4.ip_unprivileged_port_start"] = "0"
		if !b.has(specs.UserNamespace) {
			set["net.ipv4.ping_group_range"] = "0 2147483647"
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.in.Spec.Sysctls)) {
		value := b.in.Spec.Sysctls[name]
		switch {
		case strings.ContainsAny(name, "/\x00\n") || strings.Contains(name, ".."):
			return invalid("invalid sysctl %q", name)
		case strings.HasPrefix(name, "net."):
			if b.in.Spec.Network.Mode == modeHost {
				return invalid("sysctl %s is not allowed with --network host: it would be set for the host", name)
			}
		case strings.HasPrefix(name, "fs.mqueue."), slices.Contains(ipcSysctls, name):
			if b.in.Spec.IPCMode == modeHost {
				return invalid("sysctl %s is not allowed with --ipc host: it would be set for the host", name)
			}
		default:
			return invalid("sysctl %s is not allowed: it belongs to no namespace and would be set for the host", name)
		}
		set[name] = value
	}
	if len(set) > 0 {
		b.spec.Linux.Sysctl = set
	}
	return nil
}

// StopSignal is what `stop` sends: the user's choice, the image's, or SIGTERM.
func StopSignal(spec api.ContainerSpec, imageSignal string) string {
	switch {
	case spec.StopSignal != "":
		return spec.StopSignal
	case imageSignal != "":
		return imageSignal
	}
	return "SIGTERM"
}
