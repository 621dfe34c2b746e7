package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// runtimes measures `run` of a static `true`, which creates the container,
// starts it, waits for it and deletes it: one bundle, all runtimes.
func runtimes(tmp string, n int) error {
	if n == 0 {
		n = 200
	}
	bundle := filepath.Join(tmp, "bundle")
	if err := writeBundle(bundle); err != nil {
		return err
	}
	ours, err := filepath.Abs("bin/sandbox-runtime")
	if err != nil {
		return err
	}
	crun, crunName := []string{"crun"}, "crun"
	if !hasCapability(unix.CAP_SYS_RESOURCE) {
		// It would fail to raise RLIMIT_MEMLOCK for its device filter.
		crun = append(crun, "--cgroup-manager=disabled")
		crunName += " --cgroup-manager=disabled"
	}
	run := func(command ...string) func(int) []string {
		root := filepath.Join(tmp, filepath.Base(command[0]))
		return func(turn int) []string {
			argv := append(command[:len(command):len(command)], "--root", root, "run", "--bundle", bundle)
			return append(argv, fmt.Sprintf("sbt-bench-%d", turn))
		}
	}
	competitors := []*competitor{
		{name: "sandbox-runtime", argv: run(ours)},
		{name: crunName, argv: run(crun...)},
		{name: "runc", argv: run("runc")},
	}
	if err := race(n, competitors); err != nil {
		return err
	}
	table("Runtime: `run` of a static `true` (create, start, wait, delete)", competitors)
	return nil
}

// writeBundle makes a bundle of the config that `runc spec` proposes, and a
// root file system that is one static program.
func writeBundle(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "rootfs", "bin"), 0o755); err != nil {
		return err
	}
	for _, mountPoint := range []string{"proc", "dev", "sys"} {
		if err := os.Mkdir(filepath.Join(dir, "rootfs", mountPoint), 0o755); err != nil {
			return err
		}
	}
	if err := copyProgram("busybox", filepath.Join(dir, "rootfs", "bin", "true")); err != nil {
		return err
	}
	if out, err := exec.Command("runc", "spec", "--bundle", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("runc spec: %w: %s", err, out)
	}
	path := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(b, &config); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	process := config["process"].(map[string]any)
	process["args"], process["terminal"] = []string{"/bin/true"}, false
	config["ociVersion"] = "1.0.2" // older runtimes refuse newer ones
	if b, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// copyProgram copies a program that is found in PATH.
func copyProgram(name, target string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		return err
	}
	return to.Close()
}

// hasCapability reports whether this process's bounding set holds c.
func hasCapability(c uintptr) bool {
	held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
	return err == nil && held == 1
}
