package cli

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/sandboxlabs/sandbox/pkg/api"
)

// The parsers in this file and its neighbours turn one flag's value into the
// API's terms. They touch nothing, and their errors say what is wrong with the
// value; who calls them adds the flag, the value and an example.

// parseSize reads a number of bytes with docker's binary units: 512k, 64m, 1g.
func parseSize(s string) (int64, error) {
	n, err := units.RAMInBytes(s)
	switch {
	case err != nil:
		return 0, errors.New("not a size (a number, and b, k, m or g)")
	case n < 0:
		return 0, errors.New("a size is not negative")
	}
	return n, nil
}

// minMemory is the least that docker, too, lets a container have: the runtime
// itself must fit until it has executed the command.
const minMemory = 6 << 20

func parseMemory(s string) (int64, error) {
	n, err := parseSize(s)
	if err == nil && n > 0 && n < minMemory {
		err = errors.New("less than 6m, the least that a container can start with")
	}
	return n, err
}

// parseMemorySwap is parseSize, and -1 for no limit.
func parseMemorySwap(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	return parseSize(s)
}

// parseCPUs reads a decimal number of CPUs into billionths, without the
// rounding that a float would bring.
func parseCPUs(s string) (int64, error) {
	r, ok := new(big.Rat).SetString(s)
	if !ok || strings.ContainsAny(s, "/eEpPxX_") {
		return 0, errors.New("not a number of CPUs")
	}
	r.Mul(r, big.NewRat(1e9, 1))
	switch {
	case r.Sign() < 0:
		return 0, errors.New("less than no CPU")
	case !r.IsInt():
		return 0, errors.New("finer than a billionth of a CPU")
	case !r.Num().IsInt64():
		return 0, errors.New("more CPUs than there can be")
	}
	n := r.Num().Int64()
	// cpu.max counts in µs of a period of 100 ms; the kernel wants at least 1 ms.
	if n > 0 && n < 1e7 {
		return 0, errors.New("less than 0.01 CPU, the least that cpu.max can express")
	}
	return n, nil
}

// parseUint reads a whole number between least and most.
func parseUint(least, most uint64) func(string) (uint64, error) {
	return func(s string) (uint64, error) {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || n < least || n > most {
			if most == math.MaxUint64 {
				return 0, fmt.Errorf("not a whole number of at least %d", least)
			}
			return 0, fmt.Errorf("not a whole number from %d to %d", least, most)
		}
		return n, nil
	}
}

func parseInt(least, most int64) func(string) (int64, error) {
	return func(s string) (int64, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < least || n > most {
			if most == math.MaxInt64 {
				return 0, fmt.Errorf("not a whole number of at least %d", least)
			}
			return 0, fmt.Errorf("not a whole number from %d to %d", least, most)
		}
		return n, nil
	}
}

// parsePidsLimit reads a limit of processes; 0 and less mean none, as docker's.
func parsePidsLimit(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, errors.New("not a number of processes, nor -1 for no limit")
	}
	return max(n, -1), nil
}

// parseCPUSet checks a list as cpuset.cpus takes it, 0-3,5, and returns it.
func parseCPUSet(s string) (string, error) {
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return "", errors.New("not a list of numbers and ranges")
		}
		if !isRange {
			continue
		}
		if b, err := strconv.ParseUint(last, 10, 16); err != nil || b < a {
			return "", fmt.Errorf("%q is not a range", part)
		}
	}
	return s, nil
}

// parseUlimit reads NAME=SOFT[:HARD]; -1 is no limit.
func parseUlimit(s string) (api.Ulimit, error) {
	u, err := units.ParseUlimit(s)
	switch name, value, ok := strings.Cut(s, "="); {
	case !ok:
		return api.Ulimit{}, errors.New("not NAME=SOFT[:HARD]")
	case err != nil && strings.Contains(err.Error(), "ulimit type"):
		return api.Ulimit{}, fmt.Errorf("there is no limit named %q", name)
	case err != nil && strings.Contains(err.Error(), "less than or equal"):
		return api.Ulimit{}, errors.New("the soft limit is above the hard one")
	case err != nil:
		return api.Ulimit{}, fmt.Errorf("%q is not SOFT[:HARD] in whole numbers", value)
	case u.Soft < -1 || u.Hard < -1:
		return api.Ulimit{}, errors.New("a limit is at least 0, or -1 for none")
	}
	// -1 becomes RLIM_INFINITY, all bits set.
	return api.Ulimit{Name: u.Name, Soft: uint64(u.Soft), Hard: uint64(u.Hard)}, nil //nolint:gosec // meant
}

// parseThrottle reads DEVICE:RATE; rate reads the second half.
func parseThrottle(s string, rate func(string) (uint64, error)) (api.ThrottleDevice, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return api.ThrottleDevice{}, errors.New("not DEVICE:RATE")
	}
	path := s[:i]
	if !strings.HasPrefix(path, "/dev/") {
		return api.ThrottleDevice{}, fmt.Errorf("%q is not a device's path, which begins with /dev/", path)
	}
	n, err := rate(s[i+1:])
	if err != nil {
		return api.ThrottleDevice{}, fmt.Errorf("the rate %q is %w", s[i+1:], err)
	}
	return api.ThrottleDevice{Path: path, Rate: n}, nil
}

func bytesPerSecond(s string) (uint64, error) {
	n, err := parseSize(s)
	if err != nil || n == 0 {
		return 0, errors.New("not a number of bytes per second")
	}
	return uint64(n), nil
}

func operationsPerSecond(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 {
		return 0, errors.New("not a number of operations per second")
	}
	return n, nil
}

// parseDevice checks HOST[:CONTAINER[:PERMISSIONS]] and fills it up.
func parseDevice(s string) (string, error) {
	parts := strings.Split(s, ":")
	switch {
	case len(parts) > 3:
		return "", errors.New("not HOST[:CONTAINER[:rwm]]")
	case !strings.HasPrefix(parts[0], "/"):
		return "", fmt.Errorf("%q is not an absolute path", parts[0])
	}
	target, access := parts[0], "rwm"
	if len(parts) == 2 && isDeviceAccess(parts[1]) {
		access = parts[1]
	} else if len(parts) > 1 {
		target = parts[1]
	}
	if len(parts) == 3 {
		access = parts[2]
	}
	switch {
	case !strings.HasPrefix(target, "/"):
		return "", fmt.Errorf("%q is not an absolute path", target)
	case !isDeviceAccess(access):
		return "", fmt.Errorf("%q is not made of r (read), w (write), m (mknod)", access)
	}
	return parts[0] + ":" + target + ":" + access, nil
}

func isDeviceAccess(s string) bool {
	for i, c := range s {
		if !strings.ContainsRune("rwm", c) || strings.ContainsRune(s[:i], c) {
			return false
		}
	}
	return s != ""
}

// parseExtraHost reads NAME:IP or NAME=IP; the address may be IPv6, with or
// without brackets, or docker's word host-gateway.
func parseExtraHost(s string) (string, error) {
	name, addr, ok := strings.Cut(s, "=")
	if !ok {
		name, addr, ok = strings.Cut(s, ":")
	}
	if !ok || name == "" || strings.ContainsAny(name, " \t/:") {
		return "", errors.New("not NAME:IP")
	}
	if addr == "host-gateway" {
		return name + ":" + addr, nil
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]"))
	if err != nil || ip.Zone() != "" {
		return "", fmt.Errorf("%q is not an IP address", addr)
	}
	return name + ":" + ip.String(), nil
}

func parseIP(s string) (string, error) {
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return "", errors.New("not an IP address")
	}
	return ip.String(), nil
}

// parseKeyValue reads NAME=VALUE.
func parseKeyValue(s string) (key, value string, err error) {
	key, value, ok := strings.Cut(s, "=")
	if !ok || key == "" {
		return "", "", errors.New("not NAME=VALUE")
	}
	return key, value, nil
}

// parseSignal checks a signal's name, with or without SIG, or number, and
// returns its name in the form that kill(1) prints.
func parseSignal(s string) (string, error) {
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return "", errors.New("signals are numbered from 1 to 64")
		}
		return s, nil
	}
	if !isSignal(name) && !strings.HasPrefix(name, "RTMIN") && !strings.HasPrefix(name, "RTMAX") {
		return "", errors.New("there is no such signal")
	}
	return "SIG" + name, nil
}

// isSignal says whether name is one of signal(7)'s, without SIG.
func isSignal(name string) bool {
	switch name {
	case "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "IOT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
		"STKFLT", "CHLD", "CLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "POLL", "PWR", "SYS":
		return true
	}
	return false
}

// parsePull reads --pull.
func parsePull(s string) (string, error) {
	switch s {
	case "missing", "always", "never":
		return s, nil
	}
	return "", errors.New("not missing, always or never")
}
