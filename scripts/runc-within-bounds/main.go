// Command runc-within-bounds is an OCI runtime for Docker on a machine that
// lacks capabilities, such as a container or a virtual machine whose maker kept
// CAP_SYS_RESOURCE to himself. Privileged containers ask for all of them, and
// runc refuses to start one that asks for what it cannot give. This program
// takes out of the request what is not in its own bounding set, and then becomes
// runc. It is for tests: nodes of a cluster are privileged.
//
//	dockerd --add-runtime bounded=/path/to/runc-within-bounds --default-runtime bounded
//
// RUNC names the runtime to become, "runc" in PATH by default.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	err := run(os.Args)
	fmt.Fprintln(os.Stderr, "runc-within-bounds:", err)
	os.Exit(1)
}

// run does not return when it succeeds.
func run(args []string) error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	bounds, err := boundingSet(status)
	if err != nil {
		return err
	}
	if err := bind(args[1:], bounds); err != nil {
		return err
	}
	runc, err := exec.LookPath(cmp.Or(os.Getenv("RUNC"), "runc"))
	if err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", runc, syscall.Exec(runc, append([]string{runc}, args[1:]...), os.Environ()))
}

// names are those of capabilities(7), by number, up to Linux 6.18.
var names = strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID
	CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK
	CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT
	CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL
	CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON
	CAP_BPF CAP_CHECKPOINT_RESTORE`)

// boundingSet reads the line CapBnd of /proc/PID/status.
func boundingSet(status []byte) (map[string]bool, error) {
	for line := range bytes.Lines(status) {
		hex, ok := bytes.CutPrefix(line, []byte("CapBnd:"))
		if !ok {
			continue
		}
		bits, err := strconv.ParseUint(string(bytes.TrimSpace(hex)), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		set := map[string]bool{}
		for i, name := range names {
			set[name] = bits&(1<<i) != 0
		}
		return set, nil
	}
	return nil, fmt.Errorf("/proc/self/status has no CapBnd")
}

// bind finds in a runtime's arguments the files that ask for capabilities:
// config.json of a bundle (create, run), and the process of an exec.
func bind(args []string, bounds map[string]bool) error {
	for i, arg := range args {
		flag, value, found := strings.Cut(arg, "=")
		if !found && i+1 < len(args) {
			value = args[i+1]
		}
		var err error
		switch {
		case flag == "--bundle" || flag == "-b":
			err = rewrite(filepath.Join(value, "config.json"), func(spec object) error { return within(spec, "process", bounds) })
		case flag == "--process" || flag == "-p":
			err = rewrite(value, func(process object) error { return capabilities(process, bounds) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// object keeps what is not looked at as it was written.
type object map[string]json.RawMessage

func rewrite(path string, change func(object) error) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var o object
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := change(o); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	changed, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return os.WriteFile(path, changed, 0o600)
}

func within(spec object, key string, bounds map[string]bool) error {
	if spec[key] == nil {
		return nil
	}
	var process object
	if err := json.Unmarshal(spec[key], &process); err != nil {
		return err
	}
	if err := capabilities(process, bounds); err != nil {
		return err
	}
	changed, err := json.Marshal(process)
	spec[key] = changed
	return err
}

// capabilities drops from each of a process's sets what is out of bounds. Names
// that it does not know are newer than it, and stay.
func capabilities(process object, bounds map[string]bool) error {
	if process["capabilities"] == nil {
		return nil
	}
	var sets map[string][]string
	if err := json.Unmarshal(process["capabilities"], &sets); err != nil {
		return err
	}
	for set := range sets {
		sets[set] = slices.DeleteFunc(sets[set], func(name string) bool {
			inside, known := bounds[name]
			return known && !inside
		})
	}
	changed, err := json.Marshal(sets)
	process["capabilities"] = changed
	return err
}
