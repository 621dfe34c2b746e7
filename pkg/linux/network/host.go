package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// InUse lists the IPv4 subnets that the host has routes to or addresses in,
// apart from those of the link `except` and the default route.
func (n *Namespace) InUse(except string) ([]netip.Prefix, error) {
	own := 0
	if link, err := n.find(except); err != nil {
		return nil, err
	} else if link != nil {
		own = link.Attrs().Index
	}
	routes, err := dump(func() ([]netlink.Route, error) { return n.nl.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return n.nl.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var used []netip.Prefix
	for _, r := range routes {
		if p := prefixOf(r.Dst); p.IsValid() && p.Bits() > 0 && (own == 0 || r.LinkIndex != own) {
			used = append(used, p.Masked())
		}
	}
	for _, a := range addrs {
		if own == 0 || a.LinkIndex != own {
			used = append(used, prefixOf(a.IPNet).Masked())
		}
	}
	return used, nil
}

// DefaultMTU is the MTU in bytes of the link that the default route leaves
// by, or Ethernet's 1500 without one.
func (n *Namespace) DefaultMTU() (int, error) {
	const ethernet = 1500
	routes, err := dump(func() ([]netlink.Route, error) { return n.nl.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return 0, fmt.Errorf("list routes: %w", err)
	}
	best := netlink.Route{Priority: int(^uint(0) >> 1)}
	for _, r := range routes {
		if (r.Dst == nil || prefixOf(r.Dst).Bits() == 0) && r.LinkIndex != 0 && r.Priority < best.Priority {
			best = r
		}
	}
	if best.LinkIndex == 0 {
		return ethernet, nil
	}
	link, err := n.nl.LinkByIndex(best.LinkIndex)
	if err != nil {
		return 0, fmt.Errorf("look up the default route's link: %w", err)
	}
	return link.Attrs().MTU, nil
}

// ipForward is a sysctl of the network namespace of whoever opens it.
const ipForward = "/proc/sys/net/ipv4/ip_forward"

// EnableForwarding lets the calling process's network namespace pass packets
// from one link to another (ip_forward in the kernel's ip-sysctl.rst). It
// holds for all links, and nobody can tell later who else has come to need it,
// so nothing turns it off again.
func EnableForwarding(trace *explain.Tracer) error {
	have, err := os.ReadFile(ipForward)
	if err != nil {
		return err
	}
	if bytes.Equal(bytes.TrimSpace(have), []byte("1")) {
		return nil
	}
	return trace.Do(explain.Event{
		Op: "write", Target: ipForward, Value: "1", Source: SourceMode,
		Why: "a packet from a container that is meant for elsewhere is dropped unless the host acts as a router",
	}, func() error { return os.WriteFile(ipForward, []byte("1"), 0) })
}
