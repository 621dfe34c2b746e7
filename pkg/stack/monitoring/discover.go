package monitoring

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
)

// scrapeLabel is how a container asks to be scraped.
const scrapeLabel = "prometheus.io/scrape=true"

// Scraped lists Docker's containers that ask to be scraped and run, as far as it
// matters for that: name, labels, address. An engine that is not there has none.
func Scraped(e *docker.Engine) func(context.Context) ([]api.Container, error) {
	return func(ctx context.Context) ([]api.Container, error) {
		c, err := e.Client()
		if err != nil {
			return nil, err
		}
		list, err := c.ContainerList(ctx, container.ListOptions{Filters: filters.NewArgs(
			filters.Arg("label", scrapeLabel), filters.Arg("status", "running"))})
		if client.IsErrConnectionFailed(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		out := make([]api.Container, 0, len(list))
		for _, have := range list {
			ct := api.Container{ID: have.ID, Engine: "docker", Image: have.Image, Status: api.StatusRunning, Spec: api.ContainerSpec{Labels: have.Labels}}
			if len(have.Names) > 0 {
				ct.Name = strings.TrimPrefix(have.Names[0], "/")
			}
			if have.HostConfig.NetworkMode == "host" {
				ct.Spec.Network.Mode = "host"
			} else if have.NetworkSettings != nil {
				ct.IP = address(have.NetworkSettings)
			}
			out = append(out, ct)
		}
		return out, nil
	}
}

// address is one at which this host reaches the container: of several, always
// the same.
func address(n *container.NetworkSettingsSummary) string {
	var found []string
	for _, e := range n.Networks {
		if e == nil {
			continue
		}
		if _, err := netip.ParseAddr(e.IPAddress); err == nil {
			found = append(found, e.IPAddress)
		}
	}
	if len(found) == 0 {
		return ""
	}
	return slices.Min(found)
}

// Published is where a container of the stack publishes a port on this host, as
// ADDRESS:PORT; false while Docker has no such container. One that has ended
// counts: it should run.
func Published(ctx context.Context, e *docker.Engine, name string, port uint16) (netip.AddrPort, bool, error) {
	c, err := e.Client()
	if err != nil {
		return netip.AddrPort{}, false, err
	}
	have, err := c.ContainerInspect(ctx, name)
	if errdefs.IsNotFound(err) || client.IsErrConnectionFailed(err) {
		return netip.AddrPort{}, false, nil
	}
	if err != nil {
		return netip.AddrPort{}, false, err
	}
	if labels := have.Config.Labels; labels[docker.LabelStage] == "" || labels[docker.LabelState] != e.State {
		return netip.AddrPort{}, false, nil // somebody else's
	}
	for published, bindings := range have.HostConfig.PortBindings {
		if published.Proto() != "tcp" || published.Int() != int(port) {
			continue
		}
		for _, b := range bindings {
			ip := b.HostIP
			if ip == "" || ip == "0.0.0.0" {
				ip = "127.0.0.1"
			}
			if at, err := netip.ParseAddrPort(ip + ":" + b.HostPort); err == nil {
				return at, true, nil
			}
		}
	}
	return netip.AddrPort{}, false, nil
}
