package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Device is a device node.
type Device struct {
	Type         string // b or c
	Major, Minor int64
	Mode         os.FileMode // permission bits
	UID, GID     uint32
}

// ErrNotDevice says that a path is something other than a device node.
var ErrNotDevice = errors.New("not a device")

// StatDevice reads the device node at a path of the host, following symbolic
// links. The error is an *fs.PathError, of ErrNotDevice or an errno.
func StatDevice(path string) (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	d := Device{
		Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		Mode: os.FileMode(st.Mode & 0o777), UID: st.Uid, GID: st.Gid,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		d.Type = "b"
	case unix.S_IFCHR:
		d.Type = "c"
	default:
		return Device{}, &fs.PathError{Op: "stat", Path: path, Err: ErrNotDevice}
	}
	return d, nil
}

// HostDevices lists the nodes below dir, normally /dev, as a privileged
// container gets them. Terminals, message queues and shared memory are left
// out: the container has its own.
func HostDevices(dir string) ([]specs.LinuxDevice, error) {
	var devices []specs.LinuxDevice
	err := filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // unplugged meanwhile
			}
			return err
		}
		if entry.IsDir() {
			switch entry.Name() {
			case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev":
				return filepath.SkipDir
			}
			return nil
		}
		if entry.Type()&fs.ModeDevice == 0 || entry.Name() == "console" {
			return nil
		}
		d, err := StatDevice(p)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotDevice) {
			return nil
		}
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		devices = append(devices, d.node(path.Join("/dev", relative)))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return devices, nil
}

func (d Device) node(path string) specs.LinuxDevice {
	return specs.LinuxDevice{
		Path: path, Type: d.Type, Major: d.Major, Minor: d.Minor,
		FileMode: &d.Mode, UID: &d.UID, GID: &d.GID,
	}
}

// devices makes nodes for --device and --privileged, and the rules for using
// them. The few devices that every container may use are the runtime's matter.
func (b *builder) devices() error {
	linux := b.spec.Linux
	linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	if b.in.Spec.Privileged {
		linux.Resources.Devices[0].Allow = true
		linux.Devices = append(linux.Devices, b.in.HostDevices...)
	}
	for _, mapping := range b.in.Spec.Devices {
		source, target, access, err := parseDevice(mapping)
		if err != nil {
			return err
		}
		device, err := b.stat("--device", source)
		if err != nil {
			return err
		}
		if b.in.Spec.Privileged {
			if source == target {
				continue // among the host's
			}
		} else {
			linux.Resources.Devices = append(linux.Resources.Devices, specs.LinuxDeviceCgroup{
				Allow: true, Type: device.Type, Major: &device.Major, Minor: &device.Minor, Access: access,
			})
		}
		linux.Devices = append(linux.Devices, device.node(target))
	}
	if slices.ContainsFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev" && m.Type == "bind" }) {
		// The nodes would be made in the folder that is mounted there, which
		// is the host's. The rules remain: what it holds may be used.
		linux.Devices = nil
	}
	return nil
}

// parseDevice parses HOST[:CONTAINER][:ACCESS]; access is one or more of rwm.
func parseDevice(s string) (source, target, access string, err error) {
	fields := strings.Split(s, ":")
	source, access = fields[0], "rwm"
	if n := len(fields); n > 1 && validAccess(fields[n-1]) {
		access, fields = fields[n-1], fields[:n-1]
	}
	switch len(fields) {
	case 1:
		target = source
	case 2:
		target = fields[1]
	default:
		return "", "", "", invalid("invalid --device %q: want HOST[:CONTAINER][:rwm]", s)
	}
	for _, p := range []string{source, target} {
		if !path.IsAbs(p) {
			return "", "", "", invalid("invalid --device %q: %q is not an absolute path", s, p)
		}
	}
	return path.Clean(source), path.Clean(target), access, nil
}

func validAccess(s string) bool {
	for i, r := range s {
		if !strings.ContainsRune("rwm", r) || strings.ContainsRune(s[:i], r) {
			return false
		}
	}
	return s != ""
}

// stat finds a device that a flag names.
func (b *builder) stat(flag, path string) (Device, error) {
	device, err := b.in.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Device{}, invalid("%s: there is no %s", flag, path)
	case errors.Is(err, ErrNotDevice):
		return Device{}, invalid("%s: %s is not a device", flag, path)
	case err != nil:
		return Device{}, fmt.Errorf("%s: %w", flag, err)
	}
	return device, nil
}
