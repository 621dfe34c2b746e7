package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/system"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// Name of the stage.
const Name = "docker"

// minFree is the least room for Docker's data with which anything is begun: the
// images of the stack alone take 3 GB.
const minFree = 5 << 30 // bytes

var errStillInIt = fmt.Errorf("still in it: %w", errdefs.ErrConflict)

// Stage implements stack.Stage: a Docker engine that can be used, with a
// network and a way to the store's images.
type Stage struct{ engine *Engine }

// NewStage returns the stage of an engine.
func NewStage(e *Engine) *Stage { return &Stage{e} }

func (s *Stage) Name() string    { return Name }
func (s *Stage) Needs() []string { return nil }

func (s *Stage) Up(api.UpOptions) []stack.Step {
	return []stack.Step{
		{Name: "engine", Do: s.look},
		{Name: "network", Do: s.network},
	}
}

func (s *Stage) Down(opts api.DownOptions) []stack.Step {
	return []stack.Step{{Name: "network", Do: func(ctx context.Context, _ stack.Progress) error { return s.remove(ctx, opts.Purge) }}}
}

// look says what engine there is, and refuses one that cannot be used.
func (s *Stage) look(ctx context.Context, p stack.Progress) error {
	info, err := s.info(ctx)
	if err != nil {
		return err
	}
	free, known := freeSpace(info.DockerRootDir)
	if known && free < minFree {
		return stack.WithHint(
			fmt.Errorf("the folder of Docker, %s, has only %.1f GB left, and %.0f are needed: %w", info.DockerRootDir, gb(free), gb(minFree), errdefs.ErrFailedPrecondition),
			"make room; unused images and containers go with: docker system prune",
		)
	}
	p.Note("%s", describe(info, free, known))
	return nil
}

func (s *Stage) info(ctx context.Context) (system.Info, error) {
	c, err := s.engine.Client()
	if err != nil {
		return system.Info{}, err
	}
	info, err := c.Info(ctx)
	if err != nil {
		return info, s.engine.explain(fmt.Errorf("ask Docker about itself: %w", err))
	}
	if info.OSType != "linux" || strings.Contains(info.OperatingSystem, "Docker Desktop") {
		return info, stack.WithHint(
			fmt.Errorf("the Docker engine runs in a machine of its own (%s): its containers are not processes of this one: %w", info.OperatingSystem, errdefs.ErrFailedPrecondition),
			"install Docker Engine in this machine",
		)
	}
	if slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return strings.HasPrefix(o, "name=rootless") }) {
		return info, stack.WithHint(
			fmt.Errorf("the Docker engine is rootless: it cannot run the nodes of a cluster: %w", errdefs.ErrFailedPrecondition),
			"unset DOCKER_HOST, and install Docker's engine as root's: sudo sandbox doctor --fix",
		)
	}
	return info, s.cgroups(info)
}

// cgroups refuses an engine that cannot give containers their cgroups: it starts,
// and fails with each container.
func (s *Stage) cgroups(info system.Info) error {
	const hint = `in /etc/docker/daemon.json: "exec-opts": ["native.cgroupdriver=cgroupfs"]; then restart Docker`
	switch info.CgroupDriver {
	case "systemd":
		// sd_booted(3)
		if _, err := os.Stat("/run/systemd/system"); errors.Is(err, fs.ErrNotExist) {
			return stack.WithHint(
				fmt.Errorf("the Docker engine has the cgroup driver systemd, and systemd does not run here: no container would start: %w", errdefs.ErrFailedPrecondition), hint)
		}
	case "none":
		return stack.WithHint(
			fmt.Errorf("the Docker engine has no cgroup driver: the nodes of a cluster need cgroups: %w", errdefs.ErrFailedPrecondition), hint)
	}
	return nil
}

func describe(info system.Info, free uint64, known bool) string {
	text := fmt.Sprintf("%s, storage %s, cgroup v%s by %s", info.ServerVersion, info.Driver, info.CgroupVersion, info.CgroupDriver)
	if known {
		text += fmt.Sprintf(", %.0f GB free", gb(free))
	}
	return text
}

// freeSpace is what the file system of a folder has left for root; not known
// when the engine's folder is not this process's.
func freeSpace(dir string) (uint64, bool) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Bsize <= 0 {
		return 0, false
	}
	return fs.Bavail * uint64(fs.Bsize), true
}

func gb(bytes uint64) float64 { return float64(bytes) / 1e9 }

// remove takes away what is left in Docker: the containers of stages that no
// longer exist, the network, and on a purge images and volumes.
func (s *Stage) remove(ctx context.Context, purge bool) error {
	c, err := s.engine.Client()
	if err != nil {
		return err
	}
	if _, err := c.Ping(ctx); absent(err) {
		return nil
	}
	errs := []error{s.engine.Remove(ctx, "", purge), s.engine.removeNetwork(ctx, c)}
	if purge {
		errs = append(errs, removeImages(ctx, c, s.engine.Registry()))
	}
	return errors.Join(errs...)
}

// Status implements stack.Stage.
func (s *Stage) Status(ctx context.Context) ([]api.StatusItem, error) {
	item := api.StatusItem{What: "engine", Where: strings.TrimPrefix(s.engine.address(), "unix://"), State: stack.StateDown}
	network := api.StatusItem{What: "network", Where: NetworkName, State: stack.StateDown}
	c, err := s.engine.Client()
	if err != nil {
		return nil, err
	}
	info, err := c.Info(ctx)
	switch {
	case absent(err):
		item.Note = "no engine runs"
		return []api.StatusItem{item, network}, nil
	case err != nil:
		return nil, fmt.Errorf("ask Docker about itself: %w", err)
	}
	free, known := freeSpace(info.DockerRootDir)
	item.State, item.Note = stack.StateUp, describe(info, free, known)
	if have, err := s.engine.inspectNetwork(ctx, c); err == nil {
		containers, err := c.ContainerList(ctx, container.ListOptions{Filters: s.engine.ofStage("")})
		if err != nil {
			return nil, fmt.Errorf("list containers: %w", err)
		}
		network.State = stack.StateUp
		if gateway, err := gatewayOf(have); err == nil {
			network.Note = fmt.Sprintf("gateway %s; %d containers of the stack run", gateway, len(containers))
		}
	}
	return []api.StatusItem{item, network}, nil
}

func join(names []string) string {
	slices.Sort(names)
	if len(names) == 1 {
		return names[0] + " is"
	}
	return strings.Join(names, ", ") + " are"
}
