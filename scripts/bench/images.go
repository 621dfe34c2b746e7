package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// images measures builds of a Dockerfile, without and with a cache, and how an
// archive becomes layers to run; and weighs the recipes' images if store names a
// state folder with some.
func images(tmp string, n int, store string) error {
	if n == 0 {
		n = 5
	}
	undo, err := privateState(tmp)
	if err != nil {
		return err
	}
	defer undo()
	builder, err := buildingDocker()
	if err != nil {
		return err
	}
	_, stop, err := daemon("ctr version", "containerd", "--log-level", "warn")
	if err != nil {
		return err
	}
	defer stop()
	_, stop, err = daemon("docker version", "dockerd", "--containerd", "/run/containerd/containerd.sock")
	if err != nil {
		return err
	}
	defer func() {
		stop()
		removeCgroups("docker")
	}()
	_, stop, err = daemon("bin/sandbox status", "bin/sandbox", "daemon")
	if err != nil {
		return err
	}
	defer func() {
		stop()
		removeCgroups("sandbox")
	}()
	for _, argv := range [][]string{
		{"bin/sandbox", "up", "--only", "internals"},
		{"bin/sandbox", "image", "export", "toolbox", "--to", "docker"},
	} {
		if err := command(argv...); err != nil {
			return err
		}
	}
	if err := builds(tmp, n, builder); err != nil {
		return err
	}
	if err := unpacks(tmp, n); err != nil {
		return err
	}
	if store == "" {
		return nil
	}
	return weigh(store)
}

// builds measures a Dockerfile of several stages, two of which can be built at
// the same time. Nothing is downloaded.
func builds(tmp string, n int, docker string) error {
	dir := filepath.Join(tmp, "context")
	if err := writeContext(dir); err != nil {
		return err
	}
	buildkit := []string{"DOCKER_BUILDKIT=1"}
	cold := []*competitor{
		{name: "sandbox image build --no-cache", argv: fixed("bin/sandbox", "image", "build", "--quiet", "--no-cache", "--tag", "bench", dir), before: settle},
		{name: "docker build --no-cache (BuildKit)", argv: fixed(docker, "build", "--quiet", "--no-cache", "--tag", "bench", dir), before: settle, env: buildkit},
	}
	if err := race(n, cold); err != nil {
		return err
	}
	table("Build: four stages, 18 instructions, nothing cached", cold)
	warm := []*competitor{
		{name: "sandbox image build", argv: fixed("bin/sandbox", "image", "build", "--quiet", "--tag", "bench", dir)},
		{name: "docker build (BuildKit)", argv: fixed(docker, "build", "--quiet", "--tag", "bench", dir), env: buildkit},
	}
	if err := race(4*n, warm); err != nil {
		return err
	}
	table("Build: the same, all cached", warm)
	return nil
}

// unpacks measures the way of an archive to layers on disk. `docker load` and
// `ctr image import` unpack; so that ours has done so too, it runs a container.
func unpacks(tmp string, n int) error {
	archive := filepath.Join(tmp, "image.tar")
	size, files, err := writeImage(archive)
	if err != nil {
		return err
	}
	name := bigName
	load := []*competitor{
		{
			name: "sandbox image import, sandbox run",
			argv: fixed("sh", "-c", `bin/sandbox image import "$1" && bin/sandbox run --rm "$2" true`, "sh", archive, name),
			before: func() error {
				return after(forget(name, "bin/sandbox", "image", "rm"), command("bin/sandbox", "image", "prune"))
			},
		},
		{
			name:   "docker load",
			argv:   fixed("docker", "load", "--quiet", "--input", archive),
			before: func() error { return after(forget(name, "docker", "image", "rm")) },
		},
		{
			name:   "ctr image import",
			argv:   fixed("ctr", "image", "import", archive),
			before: func() error { return after(forget(name, "ctr", "image", "rm", "--sync")) },
		},
	}
	if err := race(n, load); err != nil {
		return err
	}
	table(fmt.Sprintf("Unpack: an image of %d layers, %d files, %d MB", bigLayers, files, size/1e6), load)
	return nil
}

// after lets what removals have dirtied reach the disk before a turn, if they
// have succeeded.
func after(removals ...error) error {
	return errors.Join(errors.Join(removals...), settle())
}

// settle lets the disk be idle at the start of a turn.
func settle() error {
	unix.Sync()
	return nil
}

// forget removes an image, of which there is none before the first turn.
func forget(name string, argv ...string) error {
	cmd := exec.Command(argv[0], append(argv[1:], name)...)
	out, err := cmd.CombinedOutput()
	lower := strings.ToLower(string(out))
	if err != nil && !strings.Contains(lower, "no such image") && !strings.Contains(lower, "not found") {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

func command(argv ...string) error {
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

// buildingDocker finds a command docker that builds with BuildKit: since version
// 23 it needs a plugin for that.
func buildingDocker() (string, error) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "docker")
		cmd := exec.Command(path, "build", "--help")
		cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
		if cmd.Run() == nil {
			return path, nil
		}
	}
	return "", errors.New("no command docker in PATH builds with BuildKit: there is none, or its plugin buildx is missing")
}
