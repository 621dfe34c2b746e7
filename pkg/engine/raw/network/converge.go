package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/network"
)

// Status is what Up has made.
type Status struct {
	Bridge  string
	Gateway netip.Prefix // the bridge's address
	// Firewall is the backend: network.NFTables, ….
	Firewall string
	// Warnings say what works less well than it should, and why.
	Warnings []string
}

// Up makes the bridge, its rules and the name server, or repairs them, and
// connects again what containers have lost by it. When all is well it changes
// nothing.
func (n *Network) Up(ctx context.Context, trace *explain.Tracer) error {
	n.up.Lock()
	defer n.up.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	var warnings []string
	subnet, err := n.chooseSubnet(&warnings)
	if err != nil {
		return err
	}
	mtu, err := n.links.DefaultMTU()
	if err != nil {
		return err
	}
	address := netip.PrefixFrom(gateway(subnet), subnet.Bits())
	if err := n.links.EnsureBridge(network.Bridge{Name: n.cfg.Bridge, Address: address, MTU: mtu}, trace); err != nil {
		return err
	}
	if err := network.EnableForwarding(trace); err != nil {
		return fmt.Errorf("enable forwarding: %w", err)
	}
	// Which way of keeping rules fits the host may have changed, for instance
	// because Docker has been started.
	firewall, err := network.OpenFirewall(n.cfg.Bridge, subnet)
	if err != nil {
		return err
	}
	if err := firewall.Ensure(trace); err != nil {
		return err
	}
	n.mu.Lock()
	n.subnet, n.mtu, n.firewall = subnet, mtu, firewall
	n.mu.Unlock()
	if err := n.reconnect(ctx, trace); err != nil {
		return err
	}
	warnings = append(warnings, firewall.Warnings...)
	if err := n.serveNames(address.Addr()); err != nil {
		warnings = append(warnings, fmt.Sprintf("containers cannot find each other by name: %v", err))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range warnings {
		if !slices.Contains(n.warnings, w) {
			n.cfg.Log.Warn(w)
		}
	}
	n.warnings = warnings
	return nil
}

// Status describes the network; it is zero before the first Up.
func (n *Network) Status() Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.firewall == nil {
		return Status{}
	}
	return Status{
		Bridge: n.cfg.Bridge, Gateway: netip.PrefixFrom(gateway(n.subnet), n.subnet.Bits()),
		Firewall: n.firewall.Backend, Warnings: n.warnings,
	}
}

// ensureUp is Up for those who need the network now: it does nothing while a
// glance says that all is there.
func (n *Network) ensureUp(ctx context.Context, trace *explain.Tracer) error {
	n.mu.Lock()
	firewall := n.firewall
	n.mu.Unlock()
	if firewall != nil && firewall.Intact() {
		return nil
	}
	return n.Up(ctx, trace)
}

// chooseSubnet returns the subnet on disk, or chooses one that does not hide
// anything from the host, its name servers included.
func (n *Network) chooseSubnet(warnings *[]string) (netip.Prefix, error) {
	used, err := n.links.InUse(n.cfg.Bridge)
	if err != nil {
		return netip.Prefix{}, err
	}
	if host, err := n.cfg.Resolv.read(); err == nil {
		for _, server := range host.upstreams {
			if a := server.Addr(); a.Is4() {
				used = append(used, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	subnet, clash, err := n.leases.subnet(n.cfg.Subnets, used)
	if clash {
		*warnings = append(*warnings, fmt.Sprintf(
			"the host has come to use addresses in the containers' subnet %s: they cannot reach those until all containers are removed and the network is made anew", subnet))
	}
	return subnet, err
}

// reconnect plugs containers' links into a bridge that was made anew, and
// publishes ports whose rules are gone.
func (n *Network) reconnect(ctx context.Context, trace *explain.Tracer) error {
	table, err := n.leases.read()
	if err != nil {
		return err
	}
	owners, err := n.firewall.Owners()
	if err != nil {
		return err
	}
	anyPlugged := false
	for _, lease := range table.Leases {
		link := linkName(lease.Container)
		plugged, err := n.links.EnsurePlugged(link, n.cfg.Bridge, trace)
		if errors.Is(err, fs.ErrNotExist) {
			continue // reserved, not attached; or its container has ended
		}
		if err != nil {
			return err
		}
		anyPlugged = anyPlugged || plugged
		if len(lease.Ports) == 0 {
			continue
		}
		if plugged {
			if err := n.links.SetHairpin(link, trace); err != nil {
				return err
			}
		}
		if slices.Contains(owners, shortID(lease.Container)) {
			continue
		}
		ports, err := forwards(lease)
		if err != nil {
			return err
		}
		if err := n.firewall.Publish(shortID(lease.Container), ports, trace); err != nil {
			return err
		}
	}
	if anyPlugged {
		// Containers that have taken their own link down may keep it waiting.
		if err := n.links.AwaitCarrier(ctx, n.cfg.Bridge); err != nil {
			n.cfg.Log.Warn("connect containers again", zap.Error(err))
		}
	}
	return nil
}

// Sweep removes what belongs to containers that are not among live: leases,
// rules, links. live holds full IDs.
func (n *Network) Sweep(ctx context.Context, live map[string]bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	short := make(map[string]bool, len(live))
	for id := range live {
		short[shortID(id)] = true
	}
	released, err := n.leases.release(func(container string) bool { return !live[container] })
	for _, lease := range released {
		n.cfg.Log.Info("released address of a container that is gone",
			zap.String("container", lease.Container), zap.Stringer("address", lease.Address))
	}
	errs := []error{err}

	n.mu.Lock()
	firewall := n.firewall
	n.mu.Unlock()
	if firewall != nil {
		owners, err := firewall.Owners()
		errs = append(errs, err)
		for _, owner := range owners {
			if !short[owner] {
				n.cfg.Log.Info("removing ports of a container that is gone", zap.String("container", owner))
				errs = append(errs, firewall.Unpublish(owner, nil))
			}
		}
	}
	links, err := n.links.Links("veth")
	return errors.Join(append(errs, err, n.removeLinks(links, short))...)
}

// removeLinks removes those of links that are of containers whose short IDs are
// not in keep.
func (n *Network) removeLinks(links []string, keep map[string]bool) error {
	var errs []error
	for _, link := range links {
		// Only what carries a short ID behind the prefix is ours.
		id, ok := strings.CutPrefix(link, linkPrefix)
		if ok && isShortID(id) && !keep[id] {
			n.cfg.Log.Info("removing link of a container that is gone", zap.String("link", link))
			errs = append(errs, n.links.DeleteLink(link, nil))
		}
	}
	return errors.Join(errs...)
}

// unplug removes what is still in the bridge of containers that are gone.
func (n *Network) unplug() error {
	ports, err := n.links.Ports(n.cfg.Bridge)
	if err != nil {
		return err
	}
	table, err := n.leases.read()
	if err != nil {
		return err
	}
	connected := map[string]bool{}
	for _, lease := range table.Leases {
		connected[shortID(lease.Container)] = true
	}
	return n.removeLinks(ports, connected)
}

// isShortID reports whether s can be the beginning of an ID.
func isShortID(s string) bool {
	return len(s) == 12 && strings.Trim(s, "0123456789abcdef") == ""
}

// Down removes the name server, the rules and the bridge, and the links of
// containers that are gone: the kernel removes those in its own time, which
// under load is seconds. Containers that are still connected lose their network. ip_forward stays on: others may have
// come to need it.
func (n *Network) Down(ctx context.Context, trace *explain.Tracer) error {
	n.up.Lock()
	defer n.up.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	dns := n.dns
	n.dns, n.firewall, n.warnings = nil, nil, nil
	n.mu.Unlock()
	var errs []error
	if dns != nil {
		errs = append(errs, dns.close())
	}
	return errors.Join(append(errs, n.unplug(),
		network.RemoveFirewall(trace),
		n.links.DeleteLink(n.cfg.Bridge, trace))...)
}
