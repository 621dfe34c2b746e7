package raw

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/bundle"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/network"
)

// bridged reports whether a container has a connection of its own.
func bridged(mode string) bool { return mode == "" || mode == "bridge" || mode == "default" }

// joined returns the container whose network another one uses, or "".
func joined(mode string) string {
	id, _ := strings.CutPrefix(mode, "container:")
	if id == mode {
		return ""
	}
	return id
}

// reserveNetwork gets the container its address, which the files in its /etc
// and the proxy of its ports need before there is a link to give it to.
func (cr *creation) reserveNetwork(ctx context.Context) (err error) {
	if !bridged(cr.c.rec.Spec.Network.Mode) {
		return nil
	}
	if cr.Network == nil {
		return fmt.Errorf("create container %s: this engine has no network; use --network none or host: %w", cr.c.name(), errdefs.ErrFailedPrecondition)
	}
	if cr.endpoint, err = cr.Network.Reserve(ctx, cr.endpointConfig(), cr.trace); err != nil {
		return err
	}
	cr.c.mu.Lock()
	defer cr.c.mu.Unlock()
	r := &cr.c.rec
	r.IP, r.Gateway, r.MAC = cr.endpoint.Address.Addr().String(), cr.endpoint.Gateway.String(), cr.endpoint.MAC.String()
	return nil
}

func (cr *creation) endpointConfig() network.EndpointConfig {
	rec := &cr.c.rec
	cfg := network.EndpointConfig{ID: rec.ID, Name: rec.Name, Publish: rec.Ports}
	if h := rec.Spec.Hostname; h != "" {
		cfg.Aliases = []string{h}
	}
	return cfg
}

// publish are the ports to take on the host: without a connection of its own
// a container has none (bundle.Build has warned of it).
func (cr *creation) publish() []api.PortMapping {
	if !bridged(cr.c.rec.Spec.Network.Mode) {
		return nil
	}
	return cr.c.rec.Spec.Network.Publish
}

// connect plugs the first process's network namespace into the bridge.
func (cr *creation) connect(ctx context.Context, pid int) error {
	if !bridged(cr.c.rec.Spec.Network.Mode) {
		return nil
	}
	cfg := cr.endpointConfig()
	cfg.NetNS = fmt.Sprintf("/proc/%d/ns/net", pid)
	_, err := cr.Network.Attach(ctx, cfg, cr.trace)
	return err
}

// disconnect takes back what reserveNetwork and connect have done.
func (e *Engine) disconnect(ctx context.Context, id string) error {
	if e.Network == nil {
		return nil
	}
	return e.Network.Detach(ctx, id)
}

// sweepNetwork removes leases, links and rules of containers not in live.
func (e *Engine) sweepNetwork(ctx context.Context, live map[string]bool) error {
	if e.Network == nil {
		return nil
	}
	leases, err := e.Network.Leases()
	if len(leases) > 0 {
		// Containers that run on need their name server back; and which rules
		// there are to remove is known only to a network that is up.
		err = errors.Join(err, e.Network.Up(ctx, nil))
	}
	return errors.Join(err, e.Network.Sweep(ctx, live))
}

// etcPaths are the files that become the container's /etc/hosts, hostname and
// resolv.conf: its own or, as in docker, those of the container whose network
// it uses.
func (cr *creation) etcPaths(p *bundle.Paths) {
	files := cr.c.files
	if id := joined(cr.c.rec.Spec.Network.Mode); id != "" {
		files = cr.Dirs.Container(id)
	}
	p.Hosts, p.Hostname, p.ResolvConf = files.Hosts(), files.Hostname(), files.ResolvConf()
}

// writeEtc writes them.
func (cr *creation) writeEtc(hostname string) error {
	files, spec := cr.c.files, &cr.c.rec.Spec
	var hosts, resolv string
	var err error
	switch {
	case joined(spec.Network.Mode) != "":
		return nil
	case spec.Network.Mode == "host":
		hosts, resolv, err = hostEtc(spec.Network)
	case bridged(spec.Network.Mode):
		if resolv, err = cr.Network.ResolvConf(spec.Network.DNS); err == nil {
			hosts, err = network.Hosts(cr.endpoint, hostname, []string{spec.Name}, spec.Network.ExtraHosts)
		}
	default:
		// Nobody can be asked: none of the host's servers is in reach.
		hosts, err = network.Hosts(network.Endpoint{}, hostname, nil, spec.Network.ExtraHosts)
		for _, server := range spec.Network.DNS {
			resolv += "nameserver " + server + "\n"
		}
	}
	if err != nil {
		return err
	}
	for _, f := range []struct{ path, content string }{
		{files.Hosts(), hosts}, {files.Hostname(), hostname + "\n"}, {files.ResolvConf(), resolv},
	} {
		if err := os.WriteFile(f.path, []byte(f.content), 0o644); err != nil { //nolint:gosec // any user of the container reads it
			return err
		}
	}
	return nil
}

// hostEtc is for a container in the host's network: what the host has.
func hostEtc(n api.Network) (hosts, resolv string, err error) {
	b, err := os.ReadFile("/etc/hosts")
	if err != nil && !os.IsNotExist(err) {
		return "", "", err
	}
	hosts = strings.TrimSuffix(string(b), "\n") + "\n"
	for _, entry := range n.ExtraHosts {
		name, ip, ok := strings.Cut(entry, ":")
		if !ok {
			return "", "", fmt.Errorf("add host: %q is not NAME:IP: %w", entry, errdefs.ErrInvalidArgument)
		}
		hosts += ip + "\t" + name + "\n"
	}
	for _, server := range n.DNS {
		resolv += "nameserver " + server + "\n"
	}
	if len(n.DNS) > 0 {
		return hosts, resolv, nil
	}
	if b, err = os.ReadFile("/etc/resolv.conf"); err != nil && !os.IsNotExist(err) {
		return "", "", err
	}
	return hosts, string(b), nil
}
