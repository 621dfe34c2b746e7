// Package bundle turns what a user asked for into an OCI config.json, the way
// `docker run` would: the same defaults, the same rules for what overrides what.
//
// [Build] has no side effects and looks at nothing but its input; the facts
// about the host and the image that it needs are read by [ReadHost],
// [LookupUser], [StatDevice] and [HostDevices].
package bundle

import (
	"fmt"

	"github.com/containerd/errdefs"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Input is everything that a config.json depends on.
type Input struct {
	ID    string // 64 hex digits
	Spec  api.ContainerSpec
	Image imagespec.ImageConfig
	// User is what LookupUser made of Spec.User or, where that is empty, of
	// Image.User.
	User  User
	Host  Host
	Paths Paths
	// Join holds the namespaces of the containers that container:ID modes name.
	Join Join
	// AutoIDs is the range for --userns auto, which nobody else uses.
	AutoIDs IDRange
	// Stat returns the device node at a path of the host; StatDevice, but for
	// tests.
	Stat func(path string) (Device, error)
	// HostDevices are the nodes that a privileged container gets.
	HostDevices []specs.LinuxDevice
}

// Paths are the host's files that the container is made of, all absolute.
// An empty one is left out.
type Paths struct {
	Rootfs     string
	Hosts      string // becomes /etc/hosts
	Hostname   string // becomes /etc/hostname
	ResolvConf string // becomes /etc/resolv.conf
	// Init is the static program that --init makes the container's first
	// process, and InitArgs what stands between it and the user's command.
	Init     string
	InitArgs []string
}

// Join are paths of namespaces, /proc/PID/ns/…, of running containers.
type Join struct{ Network, PID, IPC string }

// IDRange are the host's user and group IDs that a user namespace maps: the
// container's 0 is UID and GID there.
type IDRange struct{ UID, GID, Size uint32 }

// builder is a config.json on its way.
type builder struct {
	in       Input
	spec     *specs.Spec
	warnings []string
}

// Build returns the config.json of a container, and in one sentence each what
// the host cannot give it. All errors are errdefs.ErrInvalidArgument, except
// for those of Input.Stat.
func Build(in Input) (*specs.Spec, []string, error) {
	b := &builder{in: in, spec: &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{},
		Root:    &specs.Root{Path: in.Paths.Rootfs, Readonly: in.Spec.ReadOnly},
		Linux: &specs.Linux{
			CgroupsPath: "/sandbox/" + in.ID,
			Resources:   &specs.LinuxResources{},
		},
	}}
	for _, step := range []func() error{
		b.namespaces,
		b.userNamespace,
		b.hostname,
		b.sysctls,
		b.command,
		b.process,
		b.rlimits,
		b.capabilities,
		b.security, // the default seccomp profile depends on the capabilities
		b.mounts,
		b.devices,
		b.memory,
		b.cpu,
		b.limits,
	} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	return b.spec, b.warnings, nil
}

func (b *builder) warn(format string, args ...any) {
	b.warnings = append(b.warnings, fmt.Sprintf(format, args...))
}

// invalid is an error of the user's.
func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
