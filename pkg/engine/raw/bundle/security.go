package bundle

import (
	"slices"
	"strconv"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Paths that tell about the host, or change it: the kernel's log and keys,
// timers, power counters that leak what other processes compute.
var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
	"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
	"/sys/devices/virtual/powercap", "/sys/firmware",
}

// Paths that may be read.
var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

const unconfined = "unconfined"

// security applies --security-opt and the defaults that it changes.
func (b *builder) security() error {
	privileged := b.in.Spec.Privileged
	profile := "" // docker's default
	if privileged {
		profile = unconfined
	} else {
		b.spec.Linux.MaskedPaths = slices.Concat(maskedPaths, b.in.Host.MaskedPaths)
		b.spec.Linux.ReadonlyPaths = readonlyPaths
	}
	for _, opt := range b.in.Spec.SecurityOpt {
		// docker still accepts ":" for "=", but a JSON profile is full of both.
		key, value, given := opt, "", false
		if i := strings.IndexAny(opt, "=:"); i >= 0 {
			key, value, given = opt[:i], opt[i+1:], true
		}
		switch {
		case key == "no-new-privileges":
			on := true
			if given {
				var err error
				if on, err = strconv.ParseBool(value); err != nil {
					return invalid("invalid --security-opt %q: want true or false", opt)
				}
			}
			b.spec.Process.NoNewPrivileges = on
		case key == "seccomp" && value != "":
			profile = value
		case key == "apparmor" && value != "":
			switch {
			case b.in.Host.AppArmor:
				b.spec.Process.ApparmorProfile = value
			case value != unconfined:
				b.warn("AppArmor is not enabled on this host: profile %s is not applied", value)
			}
		case key == "label" && value != "":
			if value != "disable" {
				b.warn("SELinux labels are not supported: --security-opt %s is ignored", opt)
			}
		default:
			return invalid("invalid --security-opt %q: want no-new-privileges, seccomp=…, apparmor=… or label=…", opt)
		}
	}
	if privileged && b.in.Host.AppArmor && b.spec.Process.ApparmorProfile == "" {
		b.spec.Process.ApparmorProfile = unconfined
	}
	return b.seccomp(profile)
}

// seccomp sets the profile: "" or builtin, unconfined, or JSON in docker's format.
func (b *builder) seccomp(profile string) error {
	if profile == unconfined {
		return nil
	}
	if !b.in.Host.Seccomp {
		b.warn("the kernel lacks seccomp filters: the container may make every system call")
		return nil
	}
	var compiled *specs.LinuxSeccomp
	var err error
	switch {
	case profile == "" || profile == "builtin":
		compiled, err = seccomp.GetDefaultProfile(b.spec)
	case strings.HasPrefix(strings.TrimSpace(profile), "{"):
		compiled, err = seccomp.LoadProfile(profile, b.spec)
	default:
		return invalid("invalid --security-opt seccomp=%s: want unconfined, builtin or a profile in JSON", profile)
	}
	if err != nil {
		return invalid("invalid --security-opt seccomp: %v", err)
	}
	b.spec.Linux.Seccomp = compiled
	return nil
}
