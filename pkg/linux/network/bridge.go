package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// Bridge is a virtual switch with an address of the host's on it.
type Bridge struct {
	Name    string
	Address netip.Prefix // the host's, which is the containers' gateway
	MTU     int          // bytes
}

// EnsureBridge makes b, or brings an existing link of that name to it. A link
// that is there and is no bridge is left alone, and is an error that satisfies
// errors.Is(err, fs.ErrExist).
func (n *Namespace) EnsureBridge(b Bridge, trace *explain.Tracer) error {
	link, err := n.find(b.Name)
	if err != nil {
		return err
	}
	if link == nil {
		// A bridge without an address of its own takes the lowest of its
		// ports', and changes it as they come and go: containers would lose
		// their gateway's ARP entry.
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = b.Name, b.MTU, MAC(b.Address.Addr())
		err := trace.Do(explain.Event{
			Op: "link add", Target: b.Name, Value: fmt.Sprintf("type bridge address %s mtu %d", attrs.HardwareAddr, b.MTU),
			Source: SourceMode, Why: "a virtual switch in the kernel that all containers are plugged into",
		}, func() error { return n.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}) })
		// Another process may have made it since.
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add bridge %s: %w", b.Name, err)
		}
		if link, err = n.get(b.Name); err != nil {
			return err
		}
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("link %s is a %s, not a bridge: %w", b.Name, link.Type(), os.ErrExist)
	}
	if b.MTU != 0 && link.Attrs().MTU != b.MTU {
		err := trace.Do(explain.Event{
			Op: "link set mtu", Target: b.Name, Value: fmt.Sprint(b.MTU), Source: SourceMode,
			Why: "packets larger than the default route's link can carry would be lost on the way out",
		}, func() error { return n.nl.LinkSetMTU(link, b.MTU) })
		if err != nil {
			return fmt.Errorf("set mtu of %s to %d: %w", b.Name, b.MTU, err)
		}
	}
	if err := n.ensureOnlyAddress(link, b.Address, trace); err != nil {
		return err
	}
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	return n.setUp(link, trace)
}

// ensureOnlyAddress gives link the address want and takes other IPv4
// addresses away: those of an earlier subnet would keep its route alive.
func (n *Namespace) ensureOnlyAddress(link netlink.Link, want netip.Prefix, trace *explain.Tracer) error {
	name := link.Attrs().Name
	have, err := dump(func() ([]netlink.Addr, error) { return n.nl.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	found := false
	for _, addr := range have {
		if prefixOf(addr.IPNet) == want {
			found = true
			continue
		}
		err := trace.Do(explain.Event{
			Op: "addr del", Target: name, Value: addr.IPNet.String(), Source: SourceMode,
			Why: "left over from another subnet",
		}, func() error { return n.nl.AddrDel(link, &addr) })
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("delete address %s from %s: %w", addr.IPNet, name, err)
		}
	}
	if found {
		return nil
	}
	return n.addAddress(link, want, "the containers' gateway, and the host's own address among them", trace)
}

// SetHairpin lets a bridge send packets back out of the port that they came
// in by. It takes that for a container to use its own published port where
// br_netfilter is loaded, as it is beside Docker: the packet is then
// translated inside the bridge, and never comes up to the host.
func (n *Namespace) SetHairpin(name string, trace *explain.Tracer) error {
	link, err := n.get(name)
	if err != nil {
		return err
	}
	err = trace.Do(explain.Event{
		Op: "bridge link set", Target: name, Value: "hairpin on", Source: SourcePublish,
		Why: "a container may use its own published port: the bridge must send the packet back where it came from",
	}, func() error { return n.nl.LinkSetHairpin(link, true) })
	if err != nil {
		return fmt.Errorf("set hairpin mode of %s: %w", name, err)
	}
	return nil
}

// EnsurePlugged plugs a link into the bridge unless it is, and reports whether
// it had to. An absent link or bridge is an error that satisfies
// errors.Is(err, fs.ErrNotExist).
func (n *Namespace) EnsurePlugged(name, bridge string, trace *explain.Tracer) (plugged bool, err error) {
	link, err := n.get(name)
	if err != nil {
		return false, err
	}
	master, err := n.get(bridge)
	if err != nil || link.Attrs().MasterIndex == master.Attrs().Index {
		return false, err
	}
	return true, n.plug(link, master, trace)
}

func (n *Namespace) plug(link, bridge netlink.Link, trace *explain.Tracer) error {
	name, master := link.Attrs().Name, bridge.Attrs().Name
	err := trace.Do(explain.Event{
		Op: "link set master", Target: name, Value: master, Source: SourceMode,
		Why: "plug the host's end into the switch",
	}, func() error { return n.nl.LinkSetMaster(link, bridge) })
	if err != nil {
		return fmt.Errorf("plug %s into %s: %w", name, master, err)
	}
	return nil
}
