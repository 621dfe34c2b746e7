package network

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgetFlows makes the kernel forget the UDP flows to newly published ports:
// NAT rules see only the first packet of a flow, and a sender that has been
// trying for a while would go on being refused. New TCP connections are new
// flows by themselves.
func forgetFlows(ports []Forward) error {
	var filters []netlink.CustomConntrackFilter
	for _, p := range ports {
		if p.Protocol != "udp" {
			continue
		}
		filter := &netlink.ConntrackFilter{}
		err := errors.Join(filter.AddProtocol(unix.IPPROTO_UDP), filter.AddPort(netlink.ConntrackOrigDstPort, p.Host.Port()))
		if !p.Host.Addr().IsUnspecified() {
			err = errors.Join(err, filter.AddIP(netlink.ConntrackOrigDstIP, net.IP(p.Host.Addr().AsSlice())))
		}
		if err != nil {
			return fmt.Errorf("select flows to %s: %w", p.Host, err)
		}
		filters = append(filters, filter)
	}
	if len(filters) == 0 {
		return nil
	}
	nl, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	defer nl.Close()
	_, err = nl.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filters...)
	// Without nf_conntrack_netlink in the kernel old flows just time out, and
	// an interrupted dump has found most of them.
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("forget old udp flows: %w", err)
	}
	return nil
}
