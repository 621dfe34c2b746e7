package monitoring

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

const (
	reloadTimeout = 15 * time.Second
	reloadPoll    = 100 * time.Millisecond
)

// metricsOf are the prefixes of what services tell of their configuration.
var metricsOf = map[string]string{"prometheus": "prometheus", "alertmanager": "alertmanager"}

// reload has a service read its configuration again, unless it is known to have
// read what is there, and waits until it has. The service must be ready: before,
// it would die of the signal. (The page /-/reload would do the same, but with
// it come others that any page in a browser could call.)
func (s *Stage) reload(ctx context.Context, service docker.Service) error {
	prefix := metricsOf[service.Name]
	if prefix == "" {
		return nil
	}
	set, err := s.settings()
	if err != nil {
		return err
	}
	want := set.Digests[service.Name]
	c, err := s.Docker.Client()
	if err != nil {
		return err
	}
	// A container that is new has read it at its start.
	have, err := c.ContainerInspect(ctx, "sandbox-"+service.Name)
	if err != nil {
		return fmt.Errorf("inspect service %s: %w", service.Name, err)
	}
	want += " " + have.ID
	if set.Loaded[service.Name] == want {
		return nil
	}
	url := local(set.port(service.Name), "/metrics")
	before, well, err := loaded(ctx, url, prefix)
	if err != nil {
		return err
	}
	if err := c.ContainerKill(ctx, have.ID, "HUP"); err != nil {
		return fmt.Errorf("reload service %s: %w", service.Name, err)
	}
	if err := await(ctx, url, prefix, before, well); err != nil {
		return fmt.Errorf("reload service %s: %w", service.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if set, err = s.settings(); err != nil {
		return err
	}
	if set.Loaded == nil {
		set.Loaded = map[string]string{}
	}
	set.Loaded[service.Name] = want
	return state.WriteJSON(s.Dirs.Stage(Name), set)
}

// await waits until a service has read its configuration later than before. If
// the last attempt did not go well already, only time tells that the next did
// not either.
func await(ctx context.Context, url, prefix string, before float64, well bool) error {
	faulty := stack.WithHint(
		fmt.Errorf("its new configuration is faulty, it goes on with the old one: %w", errdefs.ErrInvalidArgument),
		"the reason is in its log: docker logs sandbox-"+prefix,
	)
	timeout := fmt.Errorf("it has not read its configuration in %v: %w", reloadTimeout, errdefs.ErrUnavailable)
	if !well {
		timeout = faulty
	}
	ctx, cancel := context.WithTimeoutCause(ctx, reloadTimeout, timeout)
	defer cancel()
	tick := time.NewTicker(reloadPoll)
	defer tick.Stop()
	for {
		at, now, err := loaded(ctx, url, prefix)
		switch {
		case err == nil && well && !now:
			return faulty
		case err == nil && now && at > before:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// loaded asks a service's metrics when, in seconds since 1970, it has last read
// its configuration well, and whether the last attempt was that.
func loaded(ctx context.Context, url, prefix string) (at float64, well bool, err error) {
	body, err := get(ctx, url)
	if err != nil {
		return 0, false, err
	}
	for line := range bytes.Lines(body) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		switch name {
		case prefix + "_config_last_reload_success_timestamp_seconds":
			if at, err = strconv.ParseFloat(value, 64); err != nil {
				return 0, false, fmt.Errorf("%s: %w", url, err)
			}
		case prefix + "_config_last_reload_successful":
			well = value == "1"
		}
	}
	if at == 0 {
		return 0, false, fmt.Errorf("%s does not tell when the configuration was read: %w", url, errdefs.ErrUnavailable)
	}
	return at, well, nil
}
