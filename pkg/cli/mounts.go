package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/sandboxlabs/sandbox/pkg/api"
)

// parseVolume reads -v SOURCE:TARGET[:OPTIONS]. A source that begins with . is
// relative to cwd, as docker has it since version 23.
func parseVolume(s, cwd string) (api.Mount, error) {
	parts := strings.Split(s, ":")
	switch {
	case s == "" || parts[0] == "":
		return api.Mount{}, errors.New("the source is empty")
	case len(parts) == 1:
		return api.Mount{}, errors.New("not SOURCE:TARGET (anonymous volumes are not in this version)")
	case len(parts) > 3:
		return api.Mount{}, errors.New("not SOURCE:TARGET[:OPTIONS]")
	}
	source, target := parts[0], parts[1]
	if strings.HasPrefix(source, ".") {
		source = filepath.Join(cwd, source)
	}
	if !filepath.IsAbs(source) {
		return api.Mount{}, fmt.Errorf("%q is not a path (named volumes are not in this version)", source)
	}
	m := api.Mount{Type: "bind", Source: filepath.Clean(source), Options: []string{"rbind"}, CreateSource: true}
	var err error
	if m.Target, err = mountTarget(target); err != nil {
		return m, err
	}
	options := ""
	if len(parts) == 3 {
		if options = parts[2]; options == "" {
			return m, errors.New("the options are empty")
		}
	}
	access, propagation := "rw", ""
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "":
		case "ro", "rw", "rro":
			access = option
		case "shared", "rshared", "slave", "rslave", "private", "rprivate":
			propagation = option
		case "z", "Z":
			return m, fmt.Errorf("the option %s relabels for SELinux, which is not in this version", option)
		case "nocopy":
			return m, errors.New("the option nocopy is for named volumes, which are not in this version")
		case "cached", "delegated", "consistent":
			// Accepted and without effect on Linux, in docker as well.
		default:
			return m, fmt.Errorf("unknown option %q", option)
		}
	}
	m.Options = append(m.Options, access)
	if propagation != "" {
		m.Options = append(m.Options, propagation)
	}
	return m, nil
}

// parseTmpfs reads --tmpfs TARGET[:OPTIONS], options as mount(8)'s for tmpfs.
func parseTmpfs(s string) (api.Mount, error) {
	target, options, given := strings.Cut(s, ":")
	m := api.Mount{Type: "tmpfs", Source: "tmpfs"}
	var err error
	if m.Target, err = mountTarget(target); err != nil {
		return m, err
	}
	if !given {
		return m, nil
	}
	for option := range strings.SplitSeq(options, ",") {
		if err := checkTmpfsOption(option); err != nil {
			return m, err
		}
		m.Options = append(m.Options, option)
	}
	return m, nil
}

// checkTmpfsOption knows the options of tmpfs(5) and the flags of mount(8).
func checkTmpfsOption(option string) error {
	name, value, hasValue := strings.Cut(option, "=")
	switch name {
	case "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync", "atime", "noatime",
		"diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime", "noswap":
		if hasValue {
			return fmt.Errorf("the option %s takes no value", name)
		}
	case "size":
		if _, err := parseSize(value); err != nil && !isPercent(value) {
			return fmt.Errorf("the size %q is neither a size nor a percentage", value)
		}
	case "mode":
		if _, err := strconv.ParseUint(value, 8, 12); err != nil {
			return fmt.Errorf("the mode %q is not octal", value)
		}
	case "uid", "gid", "nr_inodes", "nr_blocks":
		if _, err := units.RAMInBytes(value); err != nil {
			return fmt.Errorf("%s is not a number in %q", name, option)
		}
	case "mpol", "huge":
		if value == "" {
			return fmt.Errorf("the option %s needs a value", name)
		}
	default:
		return fmt.Errorf("unknown option %q of tmpfs", option)
	}
	return nil
}

func isPercent(s string) bool {
	number, ok := strings.CutSuffix(s, "%")
	n, err := strconv.ParseUint(number, 10, 8)
	return ok && err == nil && n <= 100
}

// parseMount reads --mount's comma-separated KEY=VALUE list; a value that holds
// a comma is quoted as in CSV, like docker's.
func parseMount(s, cwd string) (api.Mount, error) {
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return api.Mount{}, errors.New("not a list of KEY=VALUE")
	}
	var m api.Mount
	var options []string
	bindOnly, tmpfsOnly := "", ""
	recursive, access := "rbind", "rw"
	for _, field := range fields {
		key, value, hasValue := strings.Cut(field, "=")
		key = strings.ToLower(key)
		if !hasValue && key != "readonly" && key != "ro" && key != "bind-nonrecursive" {
			return m, fmt.Errorf("%q is not KEY=VALUE", field)
		}
		switch key {
		case "type":
			m.Type = strings.ToLower(value)
		case "source", "src":
			m.Source = value
		case "target", "dst", "destination":
			m.Target = value
		case "readonly", "ro":
			on, err := optionalBool(value, hasValue)
			if err != nil {
				return m, fmt.Errorf("%s: %w", key, err)
			}
			if access = "rw"; on {
				access = "ro"
			}
		case "bind-propagation":
			switch value {
			case "shared", "rshared", "slave", "rslave", "private", "rprivate":
				options, bindOnly = append(options, value), key
			default:
				return m, fmt.Errorf("unknown propagation %q", value)
			}
		case "bind-nonrecursive":
			on, err := optionalBool(value, hasValue)
			if err != nil {
				return m, fmt.Errorf("%s: %w", key, err)
			}
			if bindOnly = key; on {
				recursive = "bind"
			}
		case "tmpfs-size", "tmpfs-mode":
			option := strings.TrimPrefix(key, "tmpfs-") + "=" + value
			if err := checkTmpfsOption(option); err != nil {
				return m, err
			}
			options, tmpfsOnly = append(options, option), key
		case "volume-driver", "volume-label", "volume-nocopy", "volume-opt", "volume-subpath":
			return m, fmt.Errorf("%s is for named volumes, which are not in this version", key)
		default:
			return m, fmt.Errorf("unknown key %q", key)
		}
	}
	if m.Target, err = mountTarget(m.Target); err != nil {
		return m, err
	}
	switch m.Type {
	case "bind":
		if tmpfsOnly != "" {
			return m, fmt.Errorf("%s is for type=tmpfs", tmpfsOnly)
		}
		if m.Source == "" {
			return m, errors.New("a bind mount needs source=PATH")
		}
		if !filepath.IsAbs(m.Source) {
			m.Source = filepath.Join(cwd, m.Source)
		}
		m.Options = append([]string{recursive, access}, options...)
	case "tmpfs":
		switch {
		case bindOnly != "":
			return m, fmt.Errorf("%s is for type=bind", bindOnly)
		case m.Source != "":
			return m, errors.New("a tmpfs has no source")
		}
		m.Source, m.Options = "tmpfs", options
		if access == "ro" {
			m.Options = append(m.Options, "ro")
		}
	case "", "volume":
		return m, errors.New("type=bind or type=tmpfs is needed (named volumes are not in this version)")
	default:
		return m, fmt.Errorf("unknown type %q (bind, tmpfs)", m.Type)
	}
	return m, nil
}

func optionalBool(value string, given bool) (bool, error) {
	if !given {
		return true, nil
	}
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%q is not true or false", value)
	}
	return on, nil
}

// mountTarget checks a path in the container.
func mountTarget(path string) (string, error) {
	switch {
	case path == "":
		return "", errors.New("the target in the container is missing")
	case !filepath.IsAbs(path):
		return "", fmt.Errorf("the target %q is not an absolute path", path)
	case filepath.Clean(path) == "/":
		return "", errors.New("the target cannot be /")
	}
	return filepath.Clean(path), nil
}
