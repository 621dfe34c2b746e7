package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
)

// outside is what flags refer to beside their own text: the environment, the
// current folder, files. Tests replace it.
type outside struct {
	lookupEnv func(string) (string, bool)
	readFile  func(string) ([]byte, error)
	cwd       string
}

func thisProcess() outside {
	cwd, err := os.Getwd()
	if err != nil {
		cwd = "/" // removed under us; only relative paths suffer
	}
	return outside{lookupEnv: os.LookupEnv, readFile: os.ReadFile, cwd: cwd}
}

// parseEnv reads -e: NAME=VALUE, or NAME alone for the value that it has here.
// A name without a value here is left out, as docker does.
func parseEnv(s string, o outside) (assignment string, ok bool, err error) {
	name, _, hasValue := strings.Cut(s, "=")
	switch {
	case name == "":
		return "", false, errors.New("the variable has no name")
	case strings.ContainsRune(s, 0):
		return "", false, errors.New("a NUL byte cannot be in the environment")
	case hasValue:
		return s, true, nil
	}
	value, ok := o.lookupEnv(name)
	return name + "=" + value, ok, nil
}

// parseEnvFile reads --env-file: an assignment a line, as for -e; blank lines
// and those that begin with # count for nothing. Quotes are part of a value.
func parseEnvFile(path string, o outside) ([]string, error) {
	data, err := o.readFile(path)
	if err != nil {
		return nil, err
	}
	var env []string
	lines := bufio.NewScanner(strings.NewReader(strings.TrimPrefix(string(data), "\ufeff")))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, _, _ := strings.Cut(line, "=")
		if strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("line %d: the variable's name %q has a blank in it", n, name)
		}
		assignment, ok, err := parseEnv(line, o)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if ok {
			env = append(env, assignment)
		}
	}
	return env, lines.Err()
}

// parseSecurityOpt checks one --security-opt, in docker's two spellings
// (KEY=VALUE and KEY:VALUE). A seccomp profile is read here, since the daemon
// may not be able to see the user's file; it becomes the file's content.
func parseSecurityOpt(s string, o outside) (string, error) {
	key, value, hasValue := strings.Cut(s, "=")
	if !hasValue {
		key, value, hasValue = strings.Cut(s, ":")
	}
	switch key {
	case "no-new-privileges":
		on, err := optionalBool(value, hasValue)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("no-new-privileges=%t", on), nil
	case "seccomp":
		switch value {
		case "":
			return "", errors.New("seccomp needs unconfined, builtin or a profile's file")
		case "unconfined", "builtin":
			return "seccomp=" + value, nil
		}
		profile, err := o.readFile(value)
		if err != nil {
			return "", fmt.Errorf("seccomp profile: %w", err)
		}
		if !json.Valid(profile) {
			return "", fmt.Errorf("seccomp profile %s is not JSON", value)
		}
		return "seccomp=" + string(profile), nil
	case "apparmor":
		if value == "" {
			return "", errors.New("apparmor needs unconfined or a profile's name")
		}
		return "apparmor=" + value, nil
	case "systempaths":
		if value != "unconfined" {
			return "", errors.New("systempaths is only ever unconfined")
		}
		return s, nil
	case "label":
		return "", errors.New("SELinux labels are not in this version")
	}
	return "", fmt.Errorf("there is no option %q (no-new-privileges, seccomp, apparmor, systempaths)", key)
}

// parseUserNS reads --userns.
func parseUserNS(s string) (string, error) {
	if s == "" || s == "host" || s == "auto" {
		return s, nil
	}
	parts := strings.Split(s, ":")
	if len(parts) == 3 {
		bad := false
		for i, p := range parts {
			least := uint64(0)
			if i == 2 {
				least = 1
			}
			if _, err := parseUint(least, 1<<32-1)(p); err != nil {
				bad = true
			}
		}
		if !bad {
			return s, nil
		}
	}
	return "", errors.New("not host, auto, nor UID:GID:SIZE in whole numbers")
}

// parseShared reads --pid and --ipc: a namespace of the container's own (the
// words in own), the host's, or another container's.
func parseShared(own ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		for _, word := range own {
			if s == word {
				return "", nil
			}
		}
		if s == "host" || isContainerMode(s) {
			return s, nil
		}
		return "", errors.New("not host nor container:NAME")
	}
}

// parseName checks --name by docker's rule.
func parseName(s string) (string, error) {
	for i, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return "", errors.New("a name is made of letters, digits, _ . and -, and begins with a letter or digit")
		}
	}
	if len(s) < 2 || len(s) > 64 {
		return "", errors.New("a name has 2 to 64 characters")
	}
	return s, nil
}

// parseHostname checks -h against what sethostname(2) and DNS take.
func parseHostname(s string) (string, error) {
	if s == "" || len(s) > 63 {
		return "", errors.New("a host name has 1 to 63 characters")
	}
	for i, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case (c == '-' || c == '.') && i > 0 && i < len(s)-1:
		default:
			return "", errors.New("a host name is made of letters, digits, dots and hyphens")
		}
	}
	return s, nil
}

// parseCapability checks the form of a capability's name; whether the kernel
// has it, and this host grants it, is for the daemon to say.
func parseCapability(s string) (string, error) {
	name := strings.ToUpper(s)
	if name == "ALL" {
		return name, nil
	}
	if !strings.HasPrefix(name, "CAP_") {
		name = "CAP_" + name
	}
	for _, known := range capabilities {
		if name == known {
			return name, nil
		}
	}
	short := make([]string, len(capabilities))
	for i, c := range capabilities {
		short[i] = strings.TrimPrefix(c, "CAP_")
	}
	if near := nearest(strings.TrimPrefix(name, "CAP_"), short); near != "" {
		return "", fmt.Errorf("there is no such capability (did you mean %s?)", near)
	}
	return "", errors.New("there is no such capability")
}

// capabilities are those of capabilities(7), up to Linux 6.12.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
	"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}
