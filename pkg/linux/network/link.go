package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// Veth is a pair of links: what goes into one comes out of the other.
type Veth struct {
	Name   string           // of this namespace's end
	Bridge string           // that end is plugged into it
	Peer   string           // name of the other end
	PeerNS *os.File         // network namespace that the other end is made in
	MAC    net.HardwareAddr // of the other end
	MTU    int              // bytes, of both
}

// AddVeth makes v and brings this namespace's end up. The other end is made
// inside PeerNS at once: moving it there later would cost a second round
// through the kernel, and for a moment its name could clash with a host's.
func (n *Namespace) AddVeth(v Veth, trace *explain.Tracer) (err error) {
	bridge, err := n.get(v.Bridge)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = v.Name, v.MTU
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = v.Peer, v.MAC, netlink.NsFd(v.PeerNS.Fd())
	ev := explain.Event{
		Op: "link add", Target: v.Name, Source: SourceMode,
		Why: "a virtual cable: one plug in the host, the other made inside the container's network namespace",
	}
	if trace.Enabled() {
		ev.Value = fmt.Sprintf("type veth mtu %d peer name %s address %s netns %s", v.MTU, v.Peer, v.MAC, v.PeerNS.Name())
	}
	if err := trace.Do(ev, func() error { return n.nl.LinkAdd(veth) }); err != nil {
		return fmt.Errorf("add veth %s: %w", v.Name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.DeleteLink(v.Name, trace))
		}
	}()
	if err := n.plug(veth, bridge, trace); err != nil {
		return err
	}
	return n.setUp(veth, trace)
}

// Configure brings link up with an address and, if gateway is valid, a
// default route through it.
func (n *Namespace) Configure(name string, address netip.Prefix, gateway netip.Addr, trace *explain.Tracer) error {
	link, err := n.get(name)
	if err != nil {
		return err
	}
	if err := n.addAddress(link, address, "the container's own address", trace); err != nil {
		return err
	}
	if err := n.setUp(link, trace); err != nil {
		return err
	}
	if !gateway.IsValid() {
		return nil
	}
	err = trace.Do(explain.Event{
		Op: "route add", Target: "default", Value: "via " + gateway.String() + " dev " + name, Source: SourceMode,
		Why: "everything outside the subnet goes to the host, which forwards it",
	}, func() error {
		// RouteReplace, so that a repeated set-up converges.
		return n.nl.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()})
	})
	if err != nil {
		return fmt.Errorf("add default route via %s: %w", gateway, err)
	}
	return nil
}

// LoopbackUp brings lo up, which gives a new namespace 127.0.0.1. A loopback
// that is up already is left alone.
func (n *Namespace) LoopbackUp(trace *explain.Tracer) error {
	lo, err := n.get("lo")
	if err != nil {
		return err
	}
	if lo.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	return n.setUp(lo, trace)
}

func (n *Namespace) addAddress(link netlink.Link, address netip.Prefix, why string, trace *explain.Tracer) error {
	name := link.Attrs().Name
	err := trace.Do(explain.Event{
		Op: "addr add", Target: name, Value: address.String(), Source: SourceMode, Why: why,
	}, func() error {
		return n.nl.AddrReplace(link, &netlink.Addr{IPNet: &net.IPNet{
			IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), address.Addr().BitLen()),
		}})
	})
	if err != nil {
		return fmt.Errorf("add address %s to %s: %w", address, name, err)
	}
	return nil
}

func (n *Namespace) setUp(link netlink.Link, trace *explain.Tracer) error {
	name := link.Attrs().Name
	err := trace.Do(explain.Event{
		Op: "link set up", Target: name, Source: SourceMode, Why: "a new link is down",
	}, func() error { return n.nl.LinkSetUp(link) })
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// DeleteLink removes a link; deleting one end of a veth pair deletes both. A
// link that is not there is no error.
func (n *Namespace) DeleteLink(name string, trace *explain.Tracer) error {
	link, err := n.find(name)
	if err != nil || link == nil {
		return err
	}
	err = trace.Do(explain.Event{Op: "link del", Target: name, Source: SourceMode}, func() error {
		return n.nl.LinkDel(link)
	})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// carrierTimeout bounds AwaitCarrier, and carrierPoll is how often it looks.
const (
	carrierTimeout = 2 * time.Second
	carrierPoll    = time.Millisecond
)

// AwaitCarrier waits until the kernel has noticed that both ends of a veth pair
// are up. It notes that in a work queue (net/core/link_watch.c), and until then
// the bridge drops what comes in: a container's first packet would be lost,
// and sent again only after a second. Looking at the link makes newer kernels
// do it at once; older ones take up to a few milliseconds.
func (n *Namespace) AwaitCarrier(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, carrierTimeout)
	defer cancel()
	tick := time.NewTicker(carrierPoll)
	defer tick.Stop()
	for {
		link, err := n.get(name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("link %s stays %s: %w", name, link.Attrs().OperState, ctx.Err())
		}
	}
}

// LinkIndex is a link's number, which no later link of the same name has. An
// absent link is an error that satisfies errors.Is(err, fs.ErrNotExist).
func (n *Namespace) LinkIndex(name string) (int, error) {
	link, err := n.get(name)
	if err != nil {
		return 0, err
	}
	return link.Attrs().Index, nil
}

// DeleteLinkIndex is DeleteLink for one particular link.
func (n *Namespace) DeleteLinkIndex(index int, trace *explain.Tracer) error {
	err := trace.Do(explain.Event{Op: "link del", Target: fmt.Sprintf("index %d", index), Source: SourceMode}, func() error {
		return n.nl.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}})
	})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %d: %w", index, err)
	}
	return nil
}

// Links lists the names of all links of one type: "veth", "bridge", ….
func (n *Namespace) Links(kind string) ([]string, error) {
	links, err := dump(n.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var names []string
	for _, link := range links {
		if link.Type() == kind {
			names = append(names, link.Attrs().Name)
		}
	}
	return names, nil
}

// Ports lists the names of the links that are plugged into a bridge; there are
// none in one that does not exist.
func (n *Namespace) Ports(bridge string) ([]string, error) {
	links, err := dump(n.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	index := -1
	for _, link := range links {
		if link.Attrs().Name == bridge {
			index = link.Attrs().Index
		}
	}
	var names []string
	for _, link := range links {
		if link.Attrs().MasterIndex == index {
			names = append(names, link.Attrs().Name)
		}
	}
	return names, nil
}

// Stats are the cumulative counters of one link, as rtnl_link_stats64.
type Stats struct {
	RxBytes, TxBytes, RxPackets, TxPackets uint64
}

// LinkStats reads a link's counters. An absent link is an error that
// satisfies errors.Is(err, fs.ErrNotExist).
func (n *Namespace) LinkStats(name string) (Stats, error) {
	link, err := n.get(name)
	if err != nil {
		return Stats{}, err
	}
	s := link.Attrs().Statistics
	if s == nil {
		return Stats{}, fmt.Errorf("link %s has no statistics", name)
	}
	return Stats{RxBytes: s.RxBytes, TxBytes: s.TxBytes, RxPackets: s.RxPackets, TxPackets: s.TxPackets}, nil
}
