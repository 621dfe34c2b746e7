package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sysctlFile keeps over a reboot what --fix has set.
const sysctlFile = "/etc/sysctl.d/60-sandbox.conf"

const sysctlHead = "# Set by `sandbox doctor --fix`; removed by `sandbox down --purge`."

// sysctl sets a kernel parameter now, and in sysctlFile for the next boot.
func sysctl(name string, value int) func(context.Context, *Host) (string, error) {
	return func(_ context.Context, h *Host) (string, error) {
		path := filepath.Join(h.Proc, "sys", strings.ReplaceAll(name, ".", "/"))
		if err := os.WriteFile(path, []byte(strconv.Itoa(value)), 0); err != nil {
			return "", err
		}
		file := filepath.Join(h.Etc, "sysctl.d", filepath.Base(sysctlFile))
		if err := setLine(file, name, fmt.Sprintf("%s = %d", name, value)); err != nil {
			return "", fmt.Errorf("set for now, but not kept: %w", err)
		}
		return fmt.Sprintf("%s = %d, now and in %s", name, value, file), nil
	}
}

// setLine replaces, or adds, the line of a key in a sysctl.d(5) file.
func setLine(file, key, line string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	lines := []string{sysctlHead}
	if len(old) > 0 {
		lines = strings.Split(strings.TrimRight(string(old), "\n"), "\n")
	}
	lines = slices.DeleteFunc(lines, func(l string) bool {
		name, _, _ := strings.Cut(l, "=")
		return strings.TrimSpace(name) == key
	})
	lines = append(lines, line)
	tmp := file + ".new"
	if err := os.WriteFile(tmp, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

// modprobe loads modules. Those that are built in are no error.
func modprobe(modules ...string) func(context.Context, *Host) (string, error) {
	return func(ctx context.Context, _ *Host) (string, error) {
		tool, err := findTool("modprobe")
		if err != nil {
			return "", err
		}
		out, err := exec.CommandContext(ctx, tool, append([]string{"--all"}, modules...)...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("modprobe %s: %w: %s", strings.Join(modules, " "), err, strings.TrimSpace(string(out)))
		}
		return "loaded " + strings.Join(modules, ", "), nil
	}
}

func addGroup(ctx context.Context, _ *Host) (string, error) {
	tool, err := findTool("groupadd")
	if err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, tool, "--system", Group).CombinedOutput(); err != nil {
		return "", fmt.Errorf("groupadd %s: %w: %s", Group, err, strings.TrimSpace(string(out)))
	}
	return "made the group " + Group + "; restart the daemon for it, and add users with usermod -aG " + Group + " USER", nil
}

// findTool looks in the folders of system tools too, which the PATH of a login
// by sudo or su may lack.
func findTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", name)
}
