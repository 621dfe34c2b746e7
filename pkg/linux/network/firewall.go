package network

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// Label names everything that this package puts into the host's packet
// filter: the nftables table, and, in capitals, the prefix of the iptables
// chains. Comments of rules begin with it.
const Label = "sandbox"

// Backends of a Firewall.
const (
	NFTables       = "nftables"        // a table of our own, by netlink
	IPTablesNFT    = "iptables-nft"    // chains of our own in iptables' tables in nf_tables
	IPTablesLegacy = "iptables-legacy" // chains of our own in ip_tables
)

// Forward sends what reaches a port of the host to a container.
type Forward struct {
	Protocol  string // tcp, udp
	Host      netip.AddrPort
	Container netip.AddrPort
}

func (f Forward) String() string { return fmt.Sprintf("%s %s -> %s", f.Protocol, f.Host, f.Container) }

// kernel reports whether the kernel can do f by NAT. It never translates a
// packet to a loopback address, which may not leave the host (a "martian"),
// and IPv6 cannot be translated to IPv4: those are the proxy's.
func (f Forward) kernel() bool { return f.Host.Addr().Is4() && !f.Host.Addr().IsLoopback() }

// rules is one way to hold NAT and filter rules.
type rules interface {
	// ensure makes the rules that all containers share, or repairs them.
	ensure(trace *explain.Tracer) error
	// intact is a cheap look whether someone has flushed the rules.
	intact() bool
	publish(owner string, ports []Forward, trace *explain.Tracer) error
	unpublish(owner string, trace *explain.Tracer) error
	owners() ([]string, error)
	remove(trace *explain.Tracer) error
}

// Firewall keeps the NAT and filter rules of one bridge in the network
// namespace of the calling process:
//
//   - what leaves the subnet gets the host's address (masquerade);
//   - a published port of the host is translated to a container's (DNAT);
//   - packets from and to the bridge may be forwarded, but a connection from
//     outside only to a published port.
//
// All its rules are in tables or chains of its own, reached by one jump from
// each chain of the host's.
type Firewall struct {
	Backend string
	// Warnings say what in the host's packet filter may yet stop packets.
	Warnings []string

	nat rules
	// filters are iptables flavours other than nat's whose FORWARD chain also
	// sees every packet. A packet must be accepted by all of them.
	filters []rules
}

// OpenFirewall chooses how to keep the rules of bridge and its subnet, by
// trying: nftables in a table of its own, unless the host's iptables is the
// legacy one, or legacy rules are in force; then that. Mixing the two makes
// verdicts that no single tool shows.
func OpenFirewall(bridge string, subnet netip.Prefix) (*Firewall, error) {
	tools := findIPTables()
	nft := &nftRules{bridge: bridge, subnet: subnet.Masked()}
	own := func(tool *ipTool) *iptRules { return &iptRules{tool: tool, bridge: bridge, subnet: subnet.Masked()} }

	var reasons []error
	fw := &Firewall{}
	legacy := tools[IPTablesLegacy]
	if legacy != nil && (legacy.isDefault || legacy.inUse()) {
		if err := legacy.probe(); err != nil {
			reasons = append(reasons, fmt.Errorf("%s: %w", IPTablesLegacy, err))
		} else {
			fw.Backend, fw.nat = IPTablesLegacy, own(legacy)
		}
	}
	if fw.nat == nil {
		if err := nft.probe(); err != nil {
			reasons = append(reasons, fmt.Errorf("%s: %w", NFTables, err))
		} else {
			fw.Backend, fw.nat = NFTables, nft
		}
	}
	for _, name := range []string{IPTablesNFT, IPTablesLegacy} {
		tool := tools[name]
		if fw.nat != nil || tool == nil {
			continue
		}
		if err := tool.probe(); err != nil {
			reasons = append(reasons, fmt.Errorf("%s: %w", name, err))
		} else {
			fw.Backend, fw.nat = name, own(tool)
		}
	}
	if fw.nat == nil {
		return nil, fmt.Errorf("no way to translate addresses on this host: %w", errors.Join(reasons...))
	}
	for name, tool := range tools {
		if name == fw.Backend || !tool.isDefault && !tool.inUse() {
			continue
		}
		if err := tool.probeFilter(); err != nil {
			continue
		}
		filter := own(tool)
		filter.filterOnly = true
		fw.filters = append(fw.filters, filter)
	}
	fw.Warnings = foreignForwardDrops(bridge)
	return fw, nil
}

// Ensure makes the rules that all containers of the bridge share, or repairs
// them. Published ports that are there are kept.
func (f *Firewall) Ensure(trace *explain.Tracer) error {
	if err := f.nat.ensure(trace); err != nil {
		return fmt.Errorf("%s: %w", f.Backend, err)
	}
	for _, filter := range f.filters {
		if err := filter.ensure(trace); err != nil {
			return fmt.Errorf("accept forwarded packets: %w", err)
		}
	}
	return nil
}

// Intact is a cheap look whether the rules are still there: `nft flush
// ruleset`, and services that reload the host's rules, take them away. For
// iptables it would cost as much as Ensure, and says yes.
func (f *Firewall) Intact() bool { return f.nat.intact() }

// Publish forwards ports on behalf of owner, which Unpublish takes back. It
// leaves out what NAT cannot do: loopback and IPv6 addresses of the host.
func (f *Firewall) Publish(owner string, ports []Forward, trace *explain.Tracer) error {
	var able []Forward
	for _, p := range ports {
		if p.kernel() {
			able = append(able, p)
		}
	}
	if len(able) == 0 {
		return nil
	}
	if err := f.nat.publish(owner, able, trace); err != nil {
		return fmt.Errorf("publish %v: %w", able, err)
	}
	return forgetFlows(able)
}

// Unpublish takes back all of owner's ports; none is no error.
func (f *Firewall) Unpublish(owner string, trace *explain.Tracer) error {
	if err := f.nat.unpublish(owner, trace); err != nil {
		return fmt.Errorf("unpublish %s: %w", owner, err)
	}
	return nil
}

// Owners lists for whom ports are published.
func (f *Firewall) Owners() ([]string, error) { return f.nat.owners() }

// RemoveFirewall takes away everything that any Firewall has made, in all
// backends: the host may have changed its mind between two runs.
func RemoveFirewall(trace *explain.Tracer) error {
	errs := []error{(&nftRules{}).remove(trace)}
	for _, tool := range findIPTables() {
		if tool.ours() {
			errs = append(errs, (&iptRules{tool: tool}).remove(trace))
		}
	}
	return errors.Join(errs...)
}
