package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// Our chains. iptables-save shows them beside the host's own.
const (
	chainPublish     = "SANDBOX-PUBLISH"     // nat: one DNAT rule per published port
	chainPostrouting = "SANDBOX-POSTROUTING" // nat
	chainForward     = "SANDBOX-FORWARD"     // filter
	chainInput       = "SANDBOX-INPUT"       // filter
)

// iptRules holds the rules in chains of their own in iptables' tables.
type iptRules struct {
	tool   *ipTool
	bridge string
	subnet netip.Prefix
	// filterOnly leaves address translation to another backend, and only has
	// forwarded packets accepted here as well.
	filterOnly bool
}

// ipRule is one rule and the chain that it is in.
type ipRule struct {
	table, chain string
	spec         []string
	why          string
}

// jumps lead from the host's chains to ours. They are put first: whatever is
// behind may reject what nobody has accepted. Docker puts its own first too,
// whenever it starts; the order does not matter, since neither decides about
// the other's packets.
func (r *iptRules) jumps() []ipRule {
	jump := func(chain string, match ...string) []string {
		return slices.Concat(match, []string{"-m", "comment", "--comment", Label, "-j", chain})
	}
	filter := []ipRule{
		{"filter", "FORWARD", jump(chainForward), "a host with Docker drops forwarded packets that no rule accepts"},
		{"filter", "INPUT", jump(chainInput), "a host's firewall may drop packets to its own services, such as our DNS"},
	}
	if r.filterOnly {
		return filter
	}
	return append(filter,
		ipRule{
			"nat", "PREROUTING", jump(chainPublish, "-m", "addrtype", "--dst-type", "LOCAL"),
			"packets to one of the host's own addresses may be for a published port",
		}, ipRule{
			"nat", "OUTPUT", jump(chainPublish, "!", "-d", "127.0.0.0/8", "-m", "addrtype", "--dst-type", "LOCAL"),
			"the host's own packets to one of its addresses never pass PREROUTING",
		}, ipRule{
			"nat", "POSTROUTING", jump(chainPostrouting), "",
		})
}

// shared are the rules of our own chains, in order, but for published ports'.
func (r *iptRules) shared() []ipRule {
	in, out, subnet := r.bridge, r.bridge, r.subnet.String()
	filter := []ipRule{
		{"filter", chainForward, []string{"-i", in, "-j", "ACCEPT"}, "what containers send"},
		{
			"filter", chainForward, []string{"-o", out, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"},
			"answers to it",
		},
		{
			"filter", chainForward, []string{"-o", out, "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT"},
			"connections to published ports",
		},
		{
			"filter", chainForward, []string{"-o", out, "-j", "DROP"},
			"from outside only published ports can be reached, now that the host is a router",
		},
		{"filter", chainInput, []string{"-i", in, "-p", "udp", "--dport", "53", "-j", "ACCEPT"}, "containers ask the bridge's address for names"},
		{"filter", chainInput, []string{"-i", in, "-p", "tcp", "--dport", "53", "-j", "ACCEPT"}, "the same, for long answers"},
	}
	if r.filterOnly {
		return filter
	}
	return append(filter,
		ipRule{
			"nat", chainPostrouting, []string{"-s", subnet, "!", "-o", out, "-j", "MASQUERADE"},
			"nobody outside knows the way to the containers' subnet: give their packets the host's address",
		}, ipRule{
			"nat", chainPostrouting, []string{"-s", subnet, "-o", out, "-m", "conntrack", "--ctstate", "DNAT", "-j", "MASQUERADE"},
			"hairpin: a container that uses a published port must get the answers from the host, not straight from its neighbour",
		})
}

func (r *iptRules) chains() [][2]string {
	filter := [][2]string{{"filter", chainForward}, {"filter", chainInput}}
	if r.filterOnly {
		return filter
	}
	return append(filter, [2]string{"nat", chainPublish}, [2]string{"nat", chainPostrouting})
}

// op performs and reports one change.
func (r *iptRules) op(trace *explain.Tracer, flag string, rule ipRule, source string, fn func() error) error {
	return trace.Do(explain.Event{
		Op:     "iptables " + flag,
		Target: "-t " + rule.table + " " + rule.chain, Value: strings.Join(rule.spec, " "),
		Source: source, Why: rule.why,
	}, fn)
}

func (r *iptRules) ensure(trace *explain.Tracer) error {
	ipt := r.tool
	fresh := map[string]bool{}
	for _, c := range r.chains() {
		table, chain := c[0], c[1]
		exists, err := ipt.ChainExists(table, chain)
		if err != nil {
			return err
		}
		if exists {
			continue
		}
		err = r.op(trace, "-N", ipRule{table: table, chain: chain, why: "rules of ours, in a chain of their own"}, SourceMode, func() error {
			return ipt.NewChain(table, chain)
		})
		if err != nil {
			return err
		}
		fresh[chain] = true
	}
	if err := r.fill(fresh, trace); err != nil {
		return err
	}
	for _, rule := range r.jumps() {
		exists, err := ipt.Exists(rule.table, rule.chain, rule.spec...)
		if err != nil {
			return err
		}
		if exists {
			continue
		}
		if err := r.op(trace, "-I", rule, SourceMode, func() error {
			return ipt.Insert(rule.table, rule.chain, 1, rule.spec...)
		}); err != nil {
			return err
		}
	}
	return nil
}

// fill brings our chains to the shared rules. Their order matters, so a chain
// that lacks one is filled anew.
func (r *iptRules) fill(fresh map[string]bool, trace *explain.Tracer) error {
	ipt := r.tool
	wanted := map[string]int{}
	for _, rule := range r.shared() {
		wanted[rule.chain]++
	}
	stale := map[string]bool{}
	for _, rule := range r.shared() {
		if fresh[rule.chain] || stale[rule.chain] {
			continue
		}
		exists, err := ipt.Exists(rule.table, rule.chain, rule.spec...)
		if err != nil {
			return err
		}
		have, err := ipt.List(rule.table, rule.chain) // the chain itself, then its rules
		if err != nil {
			return err
		}
		stale[rule.chain] = !exists || len(have)-1 != wanted[rule.chain]
		if stale[rule.chain] {
			if err := r.op(trace, "-F", ipRule{table: rule.table, chain: rule.chain}, SourceMode, func() error {
				return ipt.ClearChain(rule.table, rule.chain)
			}); err != nil {
				return err
			}
		}
	}
	for _, rule := range r.shared() {
		if !fresh[rule.chain] && !stale[rule.chain] {
			continue
		}
		if err := r.op(trace, "-A", rule, SourceMode, func() error {
			return ipt.Append(rule.table, rule.chain, rule.spec...)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (r *iptRules) intact() bool { return true }

func (r *iptRules) publish(owner string, ports []Forward, trace *explain.Tracer) error {
	for _, p := range ports {
		var spec []string
		if !p.Host.Addr().IsUnspecified() {
			spec = append(spec, "-d", p.Host.Addr().String())
		}
		spec = append(spec, "-p", p.Protocol, "--dport", fmt.Sprint(p.Host.Port()),
			"-m", "comment", "--comment", comment(owner), "-j", "DNAT", "--to-destination", p.Container.String())
		rule := ipRule{"nat", chainPublish, spec, "packets to the host's port get the container's address and port as their destination"}
		if err := r.op(trace, "-A", rule, SourcePublish, func() error {
			return r.tool.Append(rule.table, rule.chain, rule.spec...)
		}); err != nil {
			return errors.Join(err, r.unpublish(owner, trace))
		}
	}
	return nil
}

// published lists the rules of published ports with their owners, as
// arguments that `iptables -D` takes. No argument of ours needs quotes but
// the comment.
func (r *iptRules) published() (map[string][][]string, error) {
	byOwner := map[string][][]string{}
	exists, err := r.tool.ChainExists("nat", chainPublish)
	if err != nil || !exists {
		return nil, err
	}
	lines, err := r.tool.List("nat", chainPublish)
	if err != nil {
		return nil, err
	}
	for _, line := range lines {
		before, rest, ok := strings.Cut(line, ` --comment "`)
		text, after, closed := strings.Cut(rest, `"`)
		owner, labelled := ownerOf(text)
		fields := strings.Fields(before)
		if !ok || !closed || !labelled || len(fields) < 2 || fields[0] != "-A" {
			continue
		}
		spec := slices.Concat(fields[2:], []string{"--comment", text}, strings.Fields(after))
		byOwner[owner] = append(byOwner[owner], spec)
	}
	return byOwner, nil
}

func (r *iptRules) unpublish(owner string, trace *explain.Tracer) error {
	published, err := r.published()
	if err != nil {
		return err
	}
	for _, spec := range published[owner] {
		rule := ipRule{"nat", chainPublish, spec, ""}
		err := r.op(trace, "-D", rule, SourcePublish, func() error {
			return r.tool.DeleteIfExists(rule.table, rule.chain, rule.spec...)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *iptRules) owners() ([]string, error) {
	published, err := r.published()
	owners := make([]string, 0, len(published))
	for owner := range published {
		owners = append(owners, owner)
	}
	return owners, err
}

// remove takes the jumps away first: a chain that is jumped to cannot go.
func (r *iptRules) remove(trace *explain.Tracer) error {
	there := map[string]bool{}
	for _, c := range r.chains() {
		exists, err := r.tool.ChainExists(c[0], c[1])
		if err != nil {
			return err
		}
		there[c[1]] = exists
	}
	for _, rule := range r.jumps() {
		// Without the chain, iptables rejects the very question for a jump to it.
		if chain := rule.spec[len(rule.spec)-1]; !there[chain] {
			continue
		}
		exists, err := r.tool.Exists(rule.table, rule.chain, rule.spec...)
		if err != nil {
			return err
		}
		if !exists {
			continue
		}
		rule.why = ""
		if err := r.op(trace, "-D", rule, SourceMode, func() error {
			return r.tool.Delete(rule.table, rule.chain, rule.spec...)
		}); err != nil {
			return err
		}
	}
	for _, c := range r.chains() {
		if !there[c[1]] {
			continue
		}
		if err := r.op(trace, "-X", ipRule{table: c[0], chain: c[1]}, SourceMode, func() error {
			return r.tool.ClearAndDeleteChain(c[0], c[1])
		}); err != nil {
			return err
		}
	}
	return nil
}
