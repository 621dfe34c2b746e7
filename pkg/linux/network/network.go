// Package network makes the kernel objects that connect a container: a
// bridge, veth pairs, addresses, routes and NAT rules. It speaks rtnetlink(7)
// and nf_tables netlink itself, and runs iptables(8) where the kernel or the
// host leaves no other choice. It decides nothing: names, addresses and ports
// come from the caller.
//
// IPv4 only.
package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// Sources of explain events: the fields of the container's specification that
// an operation comes from.
const (
	SourceMode    = "network.mode"
	SourcePublish = "network.publish"
)

// MaxLinkName is the longest name of a link: IFNAMSIZ less the final zero.
const MaxLinkName = unix.IFNAMSIZ - 1

// Namespace is an open rtnetlink(7) socket in one network namespace. The
// socket stays in that namespace whichever thread uses it, so several
// goroutines may share it, and using it switches no thread's namespace.
type Namespace struct {
	nl *netlink.Handle
}

// Open returns the network namespace of the calling process.
func Open() (*Namespace, error) { return open(netns.None()) }

// OpenAt returns the network namespace that ns refers to: an open
// /proc/PID/ns/net or a bind mount of one. ns may be closed afterwards.
func OpenAt(ns *os.File) (*Namespace, error) { return open(netns.NsHandle(ns.Fd())) }

func open(ns netns.NsHandle) (*Namespace, error) {
	nl, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	return &Namespace{nl: nl}, nil
}

// Close closes the socket; the namespace and its links live on.
func (n *Namespace) Close() { n.nl.Close() }

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

// get is find, with an error for a link that is not there.
func (n *Namespace) get(name string) (netlink.Link, error) {
	link, err := n.find(name)
	if err == nil && link == nil {
		err = fmt.Errorf("link %s: %w", name, os.ErrNotExist)
	}
	return link, err
}

// find returns nil for a link that is not there.
func (n *Namespace) find(name string) (netlink.Link, error) {
	link, err := n.nl.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up link %s: %w", name, err)
	}
	return link, nil
}

// MAC derives a link's hardware address from its IPv4 address: locally
// administered (02), 42, then the four bytes. An address that is given out
// again then comes with the MAC that neighbours may still remember.
func MAC(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// dump repeats a netlink dump that a concurrent change cut short
// (NLM_F_DUMP_INTR), which would have left entries out.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for range 10 {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, fmt.Errorf("dump: %w", syscall.EAGAIN)
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}
