package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

const (
	// readyTimeout bounds how long a service may take until it is of use.
	readyTimeout = 3 * time.Minute
	readyPoll    = 100 * time.Millisecond
	// underWayLooks bounds how long Docker may take to make a network or a
	// container, in readyPolls; tenths of a second as a rule.
	underWayLooks = 100
	// stopSeconds is how long Docker waits for a service to end by itself.
	stopSeconds = 10
	// lastLines is how much of its log an error about a service shows.
	lastLines = "15"
)

// Run has the service run as it is described, and waits until it is ready. A
// container that is there already stays, unless it was made of something else.
func (e *Engine) Run(ctx context.Context, s Service, p stack.Progress) error {
	c, err := e.Client()
	if err != nil {
		return err
	}
	img, err := e.Images.Ensure(ctx, s.Image, p)
	if err != nil {
		return err
	}
	want, err := s.create(img.Ref, img.Digest, e.Labels(s.Stage))
	if err != nil {
		return err
	}
	note, err := e.converge(ctx, c, s, img, want, p)
	if err != nil {
		return e.explain(err)
	}
	p.Note("%s; waiting until it is ready", note)
	if err := e.await(ctx, c, s); err != nil {
		return e.explain(err)
	}
	p.Note("%s", note)
	return nil
}

// converge returns what it did.
func (e *Engine) converge(ctx context.Context, c *client.Client, s Service, img stack.Image, want creation, p stack.Progress) (string, error) {
	name := s.containerName()
	have, err := c.ContainerInspect(ctx, name)
	done := "started; image from " + img.From
	switch {
	case errdefs.IsNotFound(err):
	case err != nil:
		return "", fmt.Errorf("inspect container %s: %w", name, err)
	case have.Config.Labels[LabelState] != e.State:
		return "", e.inTheWay("container "+name, have.Config.Labels, "rename it (docker rename "+name+" OTHER), or remove it (docker rm -f "+name+")")
	case have.Config.Labels[labelSpec] == want.Config.Labels[labelSpec] && usable(have.State):
		if have.State.Running && !have.State.Paused {
			return "already there", nil
		}
		return e.start(ctx, c, s, "started again")
	default:
		done = "made anew: " + cause(have, want)
		if err := stop(ctx, c, have.ID); err != nil {
			return "", err
		}
		if err := remove(ctx, c, have.ID); err != nil {
			return "", err
		}
	}
	if err := e.freePorts(s); err != nil {
		return "", err
	}
	if err := pull(ctx, c, img, p); err != nil {
		return "", err
	}
	if _, err := c.ContainerCreate(ctx, want.Config, want.Host, want.Network, nil, name); err != nil {
		err = fmt.Errorf("create container %s: %w", name, err)
		if _, err := underWay(ctx, err, func() (container.InspectResponse, error) { return c.ContainerInspect(ctx, name) }); err != nil {
			return "", err
		}
		return e.converge(ctx, c, s, img, want, p)
	}
	return e.start(ctx, c, s, done)
}

// underWay looks for what Docker refuses to create because its name is taken,
// though there was nothing: Docker goes on with what a process asked for that
// was killed meanwhile, and shows it when it is complete. refused is the error
// if nothing shows, or if it is another.
func underWay[T any](ctx context.Context, refused error, look func() (T, error)) (T, error) {
	var none T
	if !errdefs.IsConflict(refused) && !errdefs.IsPermissionDenied(refused) {
		return none, refused
	}
	for range underWayLooks {
		if have, err := look(); !errdefs.IsNotFound(err) {
			return have, err
		}
		select {
		case <-time.After(readyPoll):
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
	return none, refused
}

// usable reports whether a container in this state can be started, or is.
func usable(s *container.State) bool { return !s.Dead && s.Status != container.StateRemoving }

func cause(have container.InspectResponse, want creation) string {
	if have.Config.Image != want.Config.Image {
		return "another image"
	}
	return "its settings changed"
}

func (e *Engine) start(ctx context.Context, c *client.Client, s Service, done string) (string, error) {
	name := s.containerName()
	if have, err := c.ContainerInspect(ctx, name); err == nil && have.State.Paused {
		if err := c.ContainerUnpause(ctx, name); err != nil {
			return "", fmt.Errorf("unpause container %s: %w", name, err)
		}
		return "resumed", nil
	}
	err := c.ContainerStart(ctx, name, container.StartOptions{})
	if err == nil {
		return done, nil
	}
	// The ports were free when it was looked, or not looked at: it was there.
	if taken := e.freePorts(s); taken != nil {
		return "", taken
	}
	return "", fmt.Errorf("start container %s: %w", name, err)
}

// CheckPorts says who has a port that one of these services is to have and does
// not have yet: before any of them is begun.
func (e *Engine) CheckPorts(ctx context.Context, services ...Service) error {
	c, err := e.Client()
	if err != nil {
		return err
	}
	for _, s := range services {
		have, err := c.ContainerInspect(ctx, s.containerName())
		if err == nil && have.State.Running && have.Config.Labels[LabelState] == e.State {
			continue // with these ports, or to be made anew with others
		}
		if err := e.freePorts(s); err != nil {
			return err
		}
	}
	return nil
}

// freePorts says who has a port that the service is to have.
func (e *Engine) freePorts(s Service) error {
	for _, p := range s.Ports {
		if err := e.FreePort(p.host(), s.Name, s.Name); err != nil {
			return err
		}
	}
	return nil
}

// FreePort says who has a port that is for a service, by its name in
// api.Settings, and by what the user is told of it.
func (e *Engine) FreePort(at netip.AddrPort, service, told string) error {
	l, err := net.Listen("tcp", at.String())
	if err == nil {
		return l.Close()
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d of service %s: %w", at.Port(), service, err)
	}
	owner := ""
	if e.PortOwner != nil {
		owner = e.PortOwner(at)
	}
	if owner == "" {
		owner = "another program"
	}
	return stack.WithHint(
		fmt.Errorf("port %s, which %s is to have, is taken by %s: %w", at, told, owner, errdefs.ErrFailedPrecondition),
		fmt.Sprintf("stop that, or use another port: sudo sandbox up --port %s=%d", service, at.Port()%60000+1000),
	)
}

// await waits until the service says that it is ready.
func (e *Engine) await(ctx context.Context, c *client.Client, s Service) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("not ready after %v: %w", readyTimeout, errdefs.ErrUnavailable))
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		have, err := c.ContainerInspect(ctx, s.containerName())
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("inspect container %s: %w", s.containerName(), err)
		}
		if err == nil && (!have.State.Running || have.State.Restarting) {
			return fmt.Errorf("service %s ended with exit code %d%s: %w", s.Name, have.State.ExitCode, e.lastWords(ctx, c, s), errdefs.ErrUnavailable)
		}
		var missing error
		if s.Ready != nil {
			missing = s.Ready(ctx)
		}
		if err == nil && missing == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			err := context.Cause(ctx)
			if errdefs.IsUnavailable(err) {
				return fmt.Errorf("service %s: %w: %w%s", s.Name, err, missing, e.lastWords(context.WithoutCancel(ctx), c, s))
			}
			return err
		}
	}
}

// lastWords is the end of a service's log, to be put behind an error.
func (e *Engine) lastWords(ctx context.Context, c *client.Client, s Service) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	log, err := c.ContainerLogs(ctx, s.containerName(), container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: lastLines})
	if err != nil {
		return ""
	}
	defer log.Close()
	var b bytes.Buffer
	if _, err := stdcopy.StdCopy(&b, &b, log); err != nil || b.Len() == 0 {
		return ""
	}
	return "; the end of its log:\n" + strings.TrimRight(b.String(), "\n")
}

// Remove removes a stage's containers, and with volumes what they have kept.
func (e *Engine) Remove(ctx context.Context, stage string, volumes bool) error {
	c, err := e.Client()
	if err != nil {
		return err
	}
	containers, err := c.ContainerList(ctx, container.ListOptions{All: true, Filters: e.ofStage(stage)})
	if absent(err) {
		return nil // and no containers either
	}
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	errs := make([]error, len(containers))
	var wg sync.WaitGroup
	for i, have := range containers {
		wg.Go(func() {
			if !volumes { // or what it would save at its end goes as well
				errs[i] = stop(ctx, c, have.ID)
			}
			errs[i] = errors.Join(errs[i], remove(ctx, c, have.ID))
		})
	}
	wg.Wait()
	if volumes {
		errs = append(errs, e.removeVolumes(ctx, c, stage))
	}
	return errors.Join(errs...)
}

func stop(ctx context.Context, c *client.Client, id string) error {
	seconds := stopSeconds
	if err := c.ContainerStop(ctx, id, container.StopOptions{Timeout: &seconds}); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("stop container %.12s: %w", id, err)
	}
	return nil
}

// remove removes a container with its nameless volumes. One that is being
// removed already is waited for.
func remove(ctx context.Context, c *client.Client, id string) error {
	err := c.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	if !errdefs.IsConflict(err) {
		return fmt.Errorf("remove container %.12s: %w", id, err)
	}
	gone, errs := c.ContainerWait(ctx, id, container.WaitConditionRemoved)
	select {
	case <-gone:
		return nil
	case err := <-errs:
		if errdefs.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("remove container %.12s: %w", id, err)
	}
}

// Digests are those of the image that the service was made of, as registries
// have it: none for one that came from nowhere.
func (e *Engine) Digests(ctx context.Context, s Service) ([]string, error) {
	c, err := e.Client()
	if err != nil {
		return nil, err
	}
	have, err := c.ContainerInspect(ctx, s.containerName())
	if err != nil {
		return nil, e.explain(fmt.Errorf("inspect container %s: %w", s.containerName(), err))
	}
	img, err := c.ImageInspect(ctx, have.Image)
	if err != nil {
		return nil, fmt.Errorf("inspect image %s: %w", have.Image, err)
	}
	var digests []string
	for _, name := range img.RepoDigests {
		if _, digest, ok := strings.Cut(name, "@"); ok {
			digests = append(digests, digest)
		}
	}
	return digests, nil
}

// Status says whether the service runs, and where.
func (e *Engine) Status(ctx context.Context, s Service) (api.StatusItem, error) {
	item := api.StatusItem{What: s.Name, State: stack.StateDown}
	if len(s.Ports) > 0 {
		item.Where = s.Ports[0].host().String()
	}
	c, err := e.Client()
	if err != nil {
		return item, err
	}
	have, err := c.ContainerInspect(ctx, s.containerName())
	switch {
	case errdefs.IsNotFound(err), absent(err):
		return item, nil
	case err != nil:
		return item, fmt.Errorf("inspect container %s: %w", s.containerName(), err)
	case !have.State.Running:
		item.Note = fmt.Sprintf("%s, exit code %d", have.State.Status, have.State.ExitCode)
		return item, nil
	case have.State.Paused || have.State.Restarting:
		item.State, item.Note = stack.StateDegraded, have.State.Status
		return item, nil
	}
	item.State = stack.StateUp
	if s.Ready != nil {
		if err := s.Ready(ctx); err != nil {
			item.State, item.Note = stack.StateDegraded, err.Error()
		}
	}
	return item, nil
}
