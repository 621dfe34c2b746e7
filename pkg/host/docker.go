package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func lookDocker(ctx context.Context, h *Host) finding {
	var version struct{ Version string }
	err := h.askDocker(ctx, "/version", &version)
	var info struct{ Driver, CgroupDriver, CgroupVersion string }
	if err == nil {
		err = h.askDocker(ctx, "/info", &info)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := findTool("dockerd"); err == nil && h.Real {
			return warnf("installed, but it does not run")
		}
		f := warnf("not installed")
		f.fix = "sudo sandbox doctor --fix installs the distribution's; or see docs.docker.com/engine/install"
		return f
	case errors.Is(err, fs.ErrPermission):
		return okf("there is a socket that this user may not use")
	case err != nil:
		return warnf("it does not answer: %v", err)
	}
	return okf("%s (storage driver %s, cgroup driver %s, cgroup version %s)", version.Version, info.Driver, info.CgroupDriver, info.CgroupVersion)
}

// askDocker asks the Docker Engine API, unversioned, over its unix socket.
func (h *Host) askDocker(ctx context.Context, path string, answer any) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(h.Run, "docker.sock"))
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(answer)
}

// dockerPackages are what installs a Docker engine, by the package managers
// that have one: the distribution's own.
var dockerPackages = []struct {
	manager string
	argv    []string
}{
	{"apt-get", []string{"-qq", "-y", "--no-install-recommends", "install", "docker.io", "iptables"}},
	{"dnf", []string{"-y", "-q", "install", "moby-engine"}},
	{"zypper", []string{"--non-interactive", "--quiet", "install", "docker"}},
	{"pacman", []string{"--sync", "--noconfirm", "--needed", "docker"}},
	{"apk", []string{"add", "--quiet", "docker"}},
}

const (
	// installTimeout bounds a package manager, which downloads 100 MB and may
	// wait for another's lock.
	installTimeout = 10 * time.Minute
	dockerTimeout  = time.Minute // until an engine that was started answers
)

// repairDocker installs the distribution's engine unless there is one, and
// starts it.
func repairDocker(ctx context.Context, h *Host) (string, error) {
	did := "started Docker"
	if _, err := findTool("dockerd"); err != nil {
		with, err := installDocker(ctx)
		if err != nil {
			return "", err
		}
		did = "installed Docker with " + with + ", and started it"
	}
	if !exists(h.Run, "systemd/system") {
		if err := h.dockerAnswers(ctx, 0); err == nil {
			return did, nil // the package has started it
		}
		return "", errors.New("it is installed, but without systemd it is not ours to start: run dockerd")
	}
	systemctl, err := findTool("systemctl")
	if err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, systemctl, "enable", "--now", "docker").CombinedOutput(); err != nil {
		return "", fmt.Errorf("systemctl enable --now docker: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return did, h.dockerAnswers(ctx, dockerTimeout)
}

func installDocker(ctx context.Context) (with string, err error) {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	for _, p := range dockerPackages {
		tool, err := findTool(p.manager)
		if err != nil {
			continue
		}
		err = install(ctx, tool, p.argv)
		if err != nil && p.manager == "apt-get" {
			// The lists may be absent, or older than the mirror.
			if err = install(ctx, tool, []string{"-qq", "update"}); err == nil {
				err = install(ctx, tool, p.argv)
			}
		}
		if err != nil {
			return "", err
		}
		// Debian has the client in a package of its own from 13 on, and none of
		// that name before.
		if _, err := findTool("docker"); err != nil && p.manager == "apt-get" {
			return p.manager, install(ctx, tool, []string{"-qq", "-y", "--no-install-recommends", "install", "docker-cli"})
		}
		return p.manager, nil
	}
	return "", errors.New("no package manager that is known here: see docs.docker.com/engine/install")
}

func install(ctx context.Context, manager string, argv []string) error {
	cmd := exec.CommandContext(ctx, manager, argv...)
	cmd.Env = append(cmd.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(manager), strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// dockerAnswers waits until the engine does.
func (h *Host) dockerAnswers(ctx context.Context, patience time.Duration) error {
	for end := time.Now().Add(patience); ; {
		var version struct{ Version string }
		err := h.askDocker(ctx, "/version", &version)
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
