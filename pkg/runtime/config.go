package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// SpecVersion is the runtime-spec version that this runtime implements.
const SpecVersion = "1.3.0"

// loadSpec reads and validates bundle's config.json. It returns the raw bytes
// too: they are kept, since changes to the file after create must have no effect.
func loadSpec(bundle string) (*specs.Spec, []byte, error) {
	path := filepath.Join(bundle, "config.json")
	raw, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("bundle %s has no config.json: %w", bundle, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, nil, err
	}
	spec := new(specs.Spec)
	if err := decodeSpec(raw, spec); err != nil {
		return nil, nil, fmt.Errorf("%s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	if err := validate(spec); err != nil {
		return nil, nil, fmt.Errorf("%s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(spec.Root.Path) {
		spec.Root.Path = filepath.Join(bundle, spec.Root.Path)
	}
	return spec, raw, nil
}

// validate checks what the rest of the package relies on, and the MUSTs of
// config.md that the kernel would not notice.
func validate(spec *specs.Spec) error {
	switch {
	case !strings.HasPrefix(spec.Version, "1."):
		return fmt.Errorf("ociVersion %q: this runtime implements 1.x (%s)", spec.Version, SpecVersion)
	case spec.Root == nil || spec.Root.Path == "":
		return errors.New("root.path is missing")
	case spec.Linux == nil:
		return errors.New("linux is missing: this runtime runs Linux containers only")
	}
	for i := range spec.Mounts {
		if spec.Mounts[i].Destination == "" {
			return fmt.Errorf("mounts[%d].destination is empty", i)
		}
	}
	seen := make(map[specs.LinuxNamespaceType]bool, 8)
	for _, ns := range spec.Linux.Namespaces {
		if _, err := namespaceFlag(ns.Type); err != nil {
			return err
		}
		if seen[ns.Type] {
			return fmt.Errorf("linux.namespaces lists %s twice", ns.Type)
		}
		seen[ns.Type] = true
		if ns.Path != "" && !filepath.IsAbs(ns.Path) {
			return fmt.Errorf("linux.namespaces: path %q of %s is not absolute", ns.Path, ns.Type)
		}
	}
	needs := func(field string, set bool, ns specs.LinuxNamespaceType) error {
		if set && !seen[ns] {
			return fmt.Errorf("%s is set, but the container has no %s namespace of its own", field, ns)
		}
		return nil
	}
	unsupported := func(field string, set bool) error {
		if set {
			return fmt.Errorf("%s is not supported by this runtime", field)
		}
		return nil
	}
	user := findNamespace(spec, specs.UserNamespace)
	return errors.Join(
		needs("hostname", spec.Hostname != "", specs.UTSNamespace),
		needs("domainname", spec.Domainname != "", specs.UTSNamespace),
		needs("linux.uidMappings", len(spec.Linux.UIDMappings) > 0, specs.UserNamespace),
		needs("linux.timeOffsets", len(spec.Linux.TimeOffsets) > 0, specs.TimeNamespace),
		unsupported("linux.netDevices", len(spec.Linux.NetDevices) > 0),
		unsupported("linux.intelRdt", spec.Linux.IntelRdt != nil),
		validateMappings(spec, user),
		validateProcess(spec.Process),
		validateSysctls(spec, seen),
		validateNotify(spec.Linux.Seccomp),
	)
}

func validateMappings(spec *specs.Spec, user *specs.LinuxNamespace) error {
	if user != nil && user.Path == "" && (len(spec.Linux.UIDMappings) == 0 || len(spec.Linux.GIDMappings) == 0) {
		return errors.New("a new user namespace needs linux.uidMappings and linux.gidMappings")
	}
	return nil
}

func validateProcess(p *specs.Process) error {
	if p == nil {
		return nil
	}
	if !filepath.IsAbs(p.Cwd) {
		return fmt.Errorf("process.cwd %q is not an absolute path", p.Cwd)
	}
	if len(p.Args) == 0 {
		return errors.New("process.args is empty")
	}
	for i, e := range p.Env {
		if strings.IndexByte(e, 0) >= 0 {
			return fmt.Errorf("process.env[%d] holds a NUL byte", i)
		}
	}
	for i, a := range p.Args {
		if strings.IndexByte(a, 0) >= 0 {
			return fmt.Errorf("process.args[%d] holds a NUL byte", i)
		}
	}
	if err := validateAffinity(p.ExecCPUAffinity); err != nil {
		return err
	}
	var types []string
	for _, r := range p.Rlimits {
		if slices.Contains(types, r.Type) {
			return fmt.Errorf("process.rlimits lists %s twice", r.Type)
		}
		types = append(types, r.Type)
		if _, err := rlimitResource(r.Type); err != nil {
			return err
		}
		if r.Soft > r.Hard {
			return fmt.Errorf("process.rlimits: %s: soft limit %d is above hard limit %d", r.Type, r.Soft, r.Hard)
		}
	}
	return nil
}

// validateNotify refuses to ask the seccomp agent about calls by which the first
// process hands it the descriptor to answer with: both would wait for ever.
func validateNotify(s *specs.LinuxSeccomp) error {
	if s == nil {
		return nil
	}
	if s.DefaultAction == specs.ActNotify {
		return errors.New("linux.seccomp.defaultAction cannot be SCMP_ACT_NOTIFY")
	}
	for _, rule := range s.Syscalls {
		if rule.Action != specs.ActNotify {
			continue
		}
		if s.ListenerPath == "" {
			return errors.New("linux.seccomp.listenerPath is missing: there are calls with SCMP_ACT_NOTIFY")
		}
		for _, name := range rule.Names {
			if name == "write" || name == "sendmsg" {
				return fmt.Errorf("linux.seccomp.syscalls: SCMP_ACT_NOTIFY cannot be used for %s", name)
			}
		}
	}
	return nil
}

// validateSysctls refuses a kernel parameter that would change the host: only
// those that belong to one of the container's own namespaces are settable.
func validateSysctls(spec *specs.Spec, own map[specs.LinuxNamespaceType]bool) error {
	for key := range spec.Linux.Sysctl {
		name := strings.ReplaceAll(key, "/", ".")
		var ns specs.LinuxNamespaceType
		switch {
		case strings.Contains(key, "..") || strings.HasPrefix(key, "/"):
			return fmt.Errorf("linux.sysctl %q is not a parameter's name", key)
		case strings.HasPrefix(name, "net."):
			ns = specs.NetworkNamespace
		case strings.HasPrefix(name, "fs.mqueue."), slices.Contains(ipcSysctls, name):
			ns = specs.IPCNamespace
		case name == "kernel.domainname", name == "kernel.hostname":
			ns = specs.UTSNamespace
		case strings.HasPrefix(name, "user."):
			ns = specs.UserNamespace
		default:
			return fmt.Errorf("linux.sysctl %q is not namespaced: it would change the host", key)
		}
		if !own[ns] {
			return fmt.Errorf("linux.sysctl %q needs a %s namespace of the container's own", key, ns)
		}
	}
	return nil
}

var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
	"kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

// sharedPID reports whether processes of the container survive its first one: those in
// a new PID namespace do not.
func sharedPID(spec *specs.Spec) bool {
	ns := findNamespace(spec, specs.PIDNamespace)
	return ns == nil || ns.Path != ""
}

// findNamespace returns the entry of the given type, or nil.
func findNamespace(spec *specs.Spec, typ specs.LinuxNamespaceType) *specs.LinuxNamespace {
	for i := range spec.Linux.Namespaces {
		if spec.Linux.Namespaces[i].Type == typ {
			return &spec.Linux.Namespaces[i]
		}
	}
	return nil
}
