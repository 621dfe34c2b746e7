package device

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// ErrUnsupported says that this kernel, or this process for lack of a capability,
// cannot restrict devices by eBPF. Its text, with what it wraps, is a warning fit
// to be shown.
var ErrUnsupported = errors.New("device access is not restricted")

// programName is how our programs are told from those of others, such as systemd,
// on the same cgroup. bpftool(8) shows it.
const programName = "sandbox_device"

// Attach restricts the devices of the cgroup whose directory is cgroupFD to what
// the rules allow; see Compile. Rules that an earlier call attached are replaced,
// in one step, so that at no time more or less is allowed than before or after.
// Programs that others have attached stay: a device must be allowed by all.
//
// The error is ErrUnsupported where the kernel has no such programs or this
// process may not load them (CAP_BPF, or CAP_SYS_ADMIN before Linux 5.8, and
// CAP_NET_ADMIN).
func Attach(cgroupFD int, rules []specs.LinuxDeviceCgroup, trace *explain.Tracer) error {
	checked, err := parseRules(rules)
	if err != nil {
		return err
	}
	old, err := attached(cgroupFD)
	if err != nil {
		return unsupported("BPF_PROG_QUERY", err)
	}
	defer closeAll(old)
	if !allowsAll(checked) {
		program, err := loadProgram(checked, trace)
		if err != nil {
			return err
		}
		defer unix.Close(program) // attached, it lives as long as the cgroup
		replaced, err := attach(cgroupFD, program, old, trace)
		if err != nil {
			return err
		}
		old = old[replaced:]
	}
	for _, program := range old {
		if err := detach(cgroupFD, program, trace); err != nil {
			return err
		}
	}
	return nil
}

func loadProgram(rules []rule, trace *explain.Tracer) (fd int, err error) {
	program, err := compile(rules)
	if err != nil {
		return -1, err
	}
	var value string
	if trace.Enabled() {
		value = strconv.Itoa(len(program)) + " instructions: " + formatRules(rules)
	}
	err = trace.Do(explain.Event{
		Op: "bpf", Target: "BPF_PROG_LOAD BPF_PROG_TYPE_CGROUP_DEVICE", Value: value,
		Source: "linux.resources.devices",
		Why:    "cgroup v2 has no devices controller: a program in the kernel decides which devices may be opened and made",
	}, func() error {
		fd, err = progLoad(program, programName)
		return err
	})
	if err != nil {
		return -1, unsupported("BPF_PROG_LOAD", err)
	}
	return fd, nil
}

// attach attaches the program, in place of the first of old if there is one. It
// returns how many of old are gone.
func attach(cgroupFD, program int, old []int, trace *explain.Tracer) (replaced int, err error) {
	attr := progAttach{
		target: uint32(cgroupFD), program: uint32(program), kind: unix.BPF_CGROUP_DEVICE,
		// With this flag cgroups below may add programs, and only narrow the choice.
		flags: unix.BPF_F_ALLOW_MULTI,
	}
	value := "BPF_CGROUP_DEVICE BPF_F_ALLOW_MULTI"
	if len(old) > 0 {
		attr.flags |= unix.BPF_F_REPLACE
		attr.replace = uint32(old[0])
		value += "|BPF_F_REPLACE"
		replaced = 1
	}
	event := explain.Event{
		Op: "bpf", Target: "BPF_PROG_ATTACH", Value: value, Source: "linux.resources.devices",
		Why: "from now on the kernel asks the program about every device that a process of the cgroup opens or makes",
	}
	call := func() error {
		_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		return err
	}
	err = trace.Do(event, call)
	if err == unix.EINVAL && replaced > 0 {
		// Before Linux 5.6 there is no replacing. For a moment both programs
		// decide, and what either refuses is refused; then old is detached.
		attr.flags, attr.replace, replaced = unix.BPF_F_ALLOW_MULTI, 0, 0
		event.Value = "BPF_CGROUP_DEVICE BPF_F_ALLOW_MULTI"
		err = trace.Do(event, call)
	}
	if err != nil {
		return 0, unsupported("BPF_PROG_ATTACH", err)
	}
	return replaced, nil
}

func detach(cgroupFD, program int, trace *explain.Tracer) error {
	attr := progAttach{target: uint32(cgroupFD), program: uint32(program), kind: unix.BPF_CGROUP_DEVICE}
	err := trace.Do(explain.Event{
		Op: "bpf", Target: "BPF_PROG_DETACH", Value: "BPF_CGROUP_DEVICE", Source: "linux.resources.devices",
		Why: "the earlier rules no longer apply",
	}, func() error {
		_, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		return err
	})
	if err != nil {
		return fmt.Errorf("detach the device program: %w", err)
	}
	return nil
}

// unsupported makes ErrUnsupported of the errors that mean it.
func unsupported(command string, err error) error {
	const consequence = "the container can use every device that it has a node of, or can make one of"
	switch err {
	case unix.EPERM:
		return fmt.Errorf("%w: bpf(2) %s: %w (it takes CAP_BPF and CAP_NET_ADMIN, and no other program on a cgroup above that forbids more); %s",
			ErrUnsupported, command, err, consequence)
	case unix.ENOSYS, unix.EINVAL:
		return fmt.Errorf("%w: bpf(2) %s: %w (this kernel was built without CONFIG_CGROUP_BPF); %s",
			ErrUnsupported, command, err, consequence)
	}
	return fmt.Errorf("restrict devices: bpf(2) %s: %w", command, err)
}

// attached returns descriptors of the programs of ours that are attached to the
// cgroup itself.
func attached(cgroupFD int) (fds []int, err error) {
	var ids [64]uint32 // the kernel attaches no more: BPF_CGROUP_MAX_PROGS
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids)
	query := progQuery{
		target: uint32(cgroupFD), kind: unix.BPF_CGROUP_DEVICE,
		ids: uint64(uintptr(unsafe.Pointer(&ids))), count: uint32(len(ids)),
	}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query)); err != nil {
		return nil, err
	}
	for _, id := range ids[:query.count] {
		get := progGet{id: id}
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
		if err != nil {
			continue // gone meanwhile, or hidden from us: then it is not ours
		}
		if name, err := progName(fd); err == nil && name == programName {
			fds = append(fds, fd)
		} else {
			_ = unix.Close(fd)
		}
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
