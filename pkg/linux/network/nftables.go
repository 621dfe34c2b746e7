package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// nftRules holds the rules in a table of their own, so that nobody's `flush
// chain` or reload meets them and one `delete table` removes them:
//
//	table ip sandbox {
//	  chain publish { one dnat rule per published port }
//	  chain prerouting  { type nat hook prerouting priority dstnat;
//	    fib daddr type local jump publish }
//	  chain output      { type nat hook output priority -100;
//	    ip daddr != 127.0.0.0/8 fib daddr type local jump publish }
//	  chain postrouting { type nat hook postrouting priority srcnat;
//	    ip saddr SUBNET oifname != BRIDGE masquerade
//	    ip saddr SUBNET oifname BRIDGE ct status dnat masquerade }
//	  chain forward     { type filter hook forward priority filter;
//	    iifname != BRIDGE oifname BRIDGE ct state ! established,related ct status ! dnat drop }
//	}
type nftRules struct {
	bridge string
	subnet netip.Prefix
}

const publishChain = "publish"

// nf_conntrack_common.h: the connection's destination was translated.
const ipsDstNAT = 1 << 5

// rule is one rule, as the machine takes it and as nft(8) prints it.
type rule struct {
	chain string
	text  string
	exprs []expr.Any
	why   string
}

func (r *nftRules) table(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyIPv4}
}

// shared queues the table, its chains and all rules but those of published
// ports, and returns those rules. Queued on an existing table, it empties the
// chains that it fills, and the whole takes effect at once.
func (r *nftRules) shared(c *nftables.Conn, table *nftables.Table) []rule {
	c.AddTable(table)
	c.AddChain(&nftables.Chain{Name: publishChain, Table: table})
	chains := map[string]*nftables.Chain{}
	for _, base := range []struct {
		name     string
		kind     nftables.ChainType
		hook     *nftables.ChainHook
		priority *nftables.ChainPriority
	}{
		{"prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest},
		{"output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest},
		{"postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource},
		{"forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter},
	} {
		chains[base.name] = c.AddChain(&nftables.Chain{
			Name: base.name, Table: table, Type: base.kind, Hooknum: base.hook, Priority: base.priority,
		})
		c.FlushChain(chains[base.name])
	}
	jump := &expr.Verdict{Kind: expr.VerdictJump, Chain: publishChain}
	all := []rule{
		{
			"prerouting", "fib daddr type local jump publish",
			join(localDestination(), jump),
			"packets to one of the host's own addresses may be for a published port",
		}, {
			"output", "ip daddr != 127.0.0.0/8 fib daddr type local jump publish",
			join(addressIn(expr.CmpOpNeq, destination, netip.MustParsePrefix("127.0.0.0/8")), localDestination(), jump),
			"the host's own packets to one of its addresses never pass prerouting",
		}, {
			"postrouting", fmt.Sprintf("ip saddr %s oifname != %q masquerade", r.subnet, r.bridge),
			join(addressIn(expr.CmpOpEq, source, r.subnet), linkName(expr.MetaKeyOIFNAME, expr.CmpOpNeq, r.bridge), &expr.Masq{}),
			"nobody outside knows the way to the containers' subnet: give their packets the host's address",
		}, {
			"postrouting", fmt.Sprintf("ip saddr %s oifname %q ct status dnat masquerade", r.subnet, r.bridge),
			join(addressIn(expr.CmpOpEq, source, r.subnet), linkName(expr.MetaKeyOIFNAME, expr.CmpOpEq, r.bridge),
				conntrackBits(expr.CtKeySTATUS, expr.CmpOpNeq, ipsDstNAT), &expr.Masq{}),
			"hairpin: a container that uses a published port must get the answers from the host, not straight from its neighbour",
		}, {
			"forward", fmt.Sprintf("iifname != %q oifname %q ct state ! established,related ct status ! dnat drop", r.bridge, r.bridge),
			join(linkName(expr.MetaKeyIIFNAME, expr.CmpOpNeq, r.bridge), linkName(expr.MetaKeyOIFNAME, expr.CmpOpEq, r.bridge),
				conntrackBits(expr.CtKeySTATE, expr.CmpOpEq, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED),
				conntrackBits(expr.CtKeySTATUS, expr.CmpOpEq, ipsDstNAT), &expr.Verdict{Kind: expr.VerdictDrop}),
			"from outside only published ports can be reached, now that the host is a router",
		},
	}
	for _, rule := range all {
		c.AddRule(&nftables.Rule{
			Table: table, Chain: chains[rule.chain], Exprs: rule.exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, Label),
		})
	}
	return all
}

// probe makes all rules in a table of another name and deletes it in the same
// transaction, so that the kernel checks everything and nobody sees anything.
func (r *nftRules) probe() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := r.table(Label + "-probe")
	r.shared(c, table)
	c.DelTable(table)
	return commit(c)
}

// commit sends what is queued as one transaction. When the kernel refuses it,
// it complains about each part; the later complaints follow from the first.
func commit(c *nftables.Conn) error {
	err := c.Flush()
	var parts interface{ Unwrap() []error }
	if errors.As(err, &parts) && len(parts.Unwrap()) > 0 {
		return parts.Unwrap()[0]
	}
	return err
}

func (r *nftRules) ensure(trace *explain.Tracer) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	all := r.shared(c, r.table(Label))
	ev := explain.Event{
		Op: "nft add table", Target: "ip " + Label, Source: SourceMode,
		Why: "our rules, in a table of their own, which change in one transaction",
	}
	if trace.Enabled() {
		var b strings.Builder
		for _, rule := range all {
			fmt.Fprintf(&b, "%s: %s\n", rule.chain, rule.text)
		}
		ev.Value = strings.TrimSuffix(b.String(), "\n")
	}
	return trace.Do(ev, func() error { return commit(c) })
}

// intact asks for one chain. The library does not let the kernel's answer be
// told from other errors, but ensure, which comes next, will meet them too.
func (r *nftRules) intact() bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	_, err = c.ListChain(r.table(Label), "postrouting")
	return err == nil
}

// exists reports whether there is a chain for published ports.
func (r *nftRules) exists(c *nftables.Conn) (bool, error) {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, fmt.Errorf("list nftables chains: %w", err)
	}
	return slices.ContainsFunc(chains, func(ch *nftables.Chain) bool {
		return ch.Table.Name == Label && ch.Name == publishChain
	}), nil
}

func (r *nftRules) publish(owner string, ports []Forward, trace *explain.Tracer) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := r.table(Label)
	chain := &nftables.Chain{Name: publishChain, Table: table}
	texts := make([]string, 0, len(ports))
	for _, p := range ports {
		rule := dnat(p)
		texts = append(texts, rule.text)
		c.AddRule(&nftables.Rule{
			Table: table, Chain: chain, Exprs: rule.exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, comment(owner)),
		})
	}
	return trace.Do(explain.Event{
		Op: "nft add rule", Target: "ip " + Label + " " + publishChain, Value: strings.Join(texts, "\n"), Source: SourcePublish,
		Why: "packets to the host's port get the container's address and port as their destination",
	}, func() error { return commit(c) })
}

// dnat is the rule for one published port.
func dnat(p Forward) rule {
	text := fmt.Sprintf("%s dport %d dnat to %s", p.Protocol, p.Host.Port(), p.Container)
	var exprs []expr.Any
	if host := p.Host.Addr(); !host.IsUnspecified() {
		exprs = addressIn(expr.CmpOpEq, destination, netip.PrefixFrom(host, host.BitLen()))
		text = "ip daddr " + host.String() + " " + text
	}
	addr := p.Container.Addr().As4()
	return rule{publishChain, text, join(exprs,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocolNumber(p.Protocol)}},
		// Both TCP and UDP have the destination port at offset 2.
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(p.Host.Port())},
		&expr.Immediate{Register: 1, Data: addr[:]},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(p.Container.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	), ""}
}

// published lists the rules of published ports with their owners.
func (r *nftRules) published(c *nftables.Conn) (map[string][]*nftables.Rule, error) {
	if ok, err := r.exists(c); err != nil || !ok {
		return nil, err
	}
	table := r.table(Label)
	list, err := c.GetRules(table, &nftables.Chain{Name: publishChain, Table: table})
	if err != nil {
		return nil, fmt.Errorf("list rules of table %s: %w", Label, err)
	}
	byOwner := map[string][]*nftables.Rule{}
	for _, rule := range list {
		text, _ := userdata.GetString(rule.UserData, userdata.TypeComment)
		if owner, ok := ownerOf(text); ok {
			byOwner[owner] = append(byOwner[owner], rule)
		}
	}
	return byOwner, nil
}

func (r *nftRules) unpublish(owner string, trace *explain.Tracer) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	published, err := r.published(c)
	if err != nil || len(published[owner]) == 0 {
		return err
	}
	for _, rule := range published[owner] {
		if err := c.DelRule(rule); err != nil {
			return err
		}
	}
	return trace.Do(explain.Event{
		Op: "nft delete rule", Target: "ip " + Label + " " + publishChain, Value: comment(owner), Source: SourcePublish,
	}, func() error { return commit(c) })
}

func (r *nftRules) owners() ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	published, err := r.published(c)
	owners := make([]string, 0, len(published))
	for owner := range published {
		owners = append(owners, owner)
	}
	return owners, err
}

func (r *nftRules) remove(trace *explain.Tracer) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		// A kernel without nf_tables has no table of ours either.
		if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		return fmt.Errorf("list nftables tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == Label }) {
		return nil
	}
	c.DelTable(r.table(Label))
	return trace.Do(explain.Event{Op: "nft delete table", Target: "ip " + Label, Source: SourceMode}, func() error { return commit(c) })
}

// comment and ownerOf turn an owner into a rule's comment and back.
func comment(owner string) string { return Label + " " + owner }

func ownerOf(comment string) (string, bool) {
	return strings.CutPrefix(comment, Label+" ")
}

func protocolNumber(name string) byte {
	if name == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// join concatenates expressions and lists of them.
func join(parts ...any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		switch p := p.(type) {
		case []expr.Any:
			all = append(all, p...)
		case expr.Any:
			all = append(all, p)
		}
	}
	return all
}

// Offsets in the IPv4 header.
const (
	source      = 12
	destination = 16
)

// addressIn compares the network part of the packet's address at offset.
func addressIn(op expr.CmpOp, offset uint32, p netip.Prefix) []expr.Any {
	network := p.Masked().Addr().As4()
	mask := make([]byte, 4)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	exprs := []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
	if p.Bits() < 32 {
		exprs = append(exprs, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)})
	}
	return append(exprs, &expr.Cmp{Op: op, Register: 1, Data: network[:]})
}

// linkName compares the name of the link that a packet comes in or goes out by.
func linkName(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

// localDestination matches packets to one of the host's own addresses.
func localDestination() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// conntrackBits compares some bits of a connection tracking field with zero.
func conntrackBits(key expr.CtKey, op expr.CmpOp, bits uint32) []expr.Any {
	zero := make([]byte, 4)
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: zero},
		&expr.Cmp{Op: op, Register: 1, Data: zero},
	}
}

// foreignForwardDrops describes other people's base chains on the forward hook
// whose policy is to drop. Those of iptables and of Docker we deal with; any
// other cannot be told from here to let a bridge's packets pass.
func foreignForwardDrops(bridge string) []string {
	c, err := nftables.New()
	if err != nil {
		return nil
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil // no nf_tables, no such chains
	}
	var warnings []string
	for _, ch := range chains {
		drops := ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
		forwards := ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward
		ip := ch.Table.Family == nftables.TableFamilyIPv4 || ch.Table.Family == nftables.TableFamilyINet
		if ip && ch.Table.Name == "firewalld" {
			if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, "firewalld") }) {
				warnings = append(warnings, "firewalld may drop containers' packets: `firewall-cmd --permanent --zone=trusted --add-interface="+bridge+"` lets them pass")
			}
			continue
		}
		if drops && forwards && ip && ch.Table.Name != "filter" {
			warnings = append(warnings, fmt.Sprintf("nftables chain %s in table %s drops forwarded packets by default: containers reach only each other and the host", ch.Name, ch.Table.Name))
		}
	}
	return warnings
}
