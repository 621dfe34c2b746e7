// Package network makes the kernel objects that connect a container: a
// bridge, veth pairs, addresses, routes and NAT rules. It speaks rtnetlink(7)
// and nf_tables netlink itself, and runs iptables(8) where the kernel or the
// host leaves no other choice. It decides nothing: names, addresses and ports
// come from the caller.
//
// IPv4 only.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
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
