package network

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// ipTool is one flavour of iptables(8) on this host.
type ipTool struct {
	*iptables.IPTables
	flavour   string // IPTablesNFT or IPTablesLegacy
	path      string
	isDefault bool // it is what the plain name "iptables" runs
}

// findIPTables returns the flavours that are installed.
func findIPTables() map[string]*ipTool {
	tools := map[string]*ipTool{}
	for _, name := range []string{"iptables", "iptables-nft", "iptables-legacy"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		// "iptables v1.8.9 (nf_tables)"; before 1.8 there was only legacy,
		// and it does not say so.
		version, err := exec.Command(path, "--version").Output()
		if err != nil {
			continue
		}
		flavour := IPTablesLegacy
		if strings.Contains(string(version), "nf_tables") {
			flavour = IPTablesNFT
		}
		if tools[flavour] != nil {
			continue
		}
		ipt, err := iptables.New(iptables.Path(path), iptables.Timeout(10))
		if err != nil {
			continue
		}
		tools[flavour] = &ipTool{IPTables: ipt, flavour: flavour, path: path, isDefault: name == "iptables"}
	}
	return tools
}

// inUse reports whether somebody else's rules, or a policy other than to
// accept, are in force in this flavour's tables.
func (t *ipTool) inUse() bool {
	return t.holds(func(line string) bool {
		switch fields := strings.Fields(line); fields[0] {
		case "-A":
			return !strings.Contains(line, "SANDBOX-")
		case "-P":
			return fields[2] != "ACCEPT"
		default:
			return false
		}
	})
}

// ours reports whether this flavour's tables hold chains of ours.
func (t *ipTool) ours() bool {
	return t.holds(func(line string) bool { return strings.HasPrefix(line, "-N SANDBOX-") })
}

// holds reports whether a line of `iptables -S` of the tables that the kernel
// has matches. It takes care not to create tables: looking into a legacy table
// does, and from then on every packet passes it.
func (t *ipTool) holds(match func(line string) bool) bool {
	tables := []string{"filter", "nat"}
	if t.flavour == IPTablesLegacy {
		names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
		if err != nil {
			return false
		}
		loaded := strings.Fields(string(names))
		tables = slices.DeleteFunc(tables, func(name string) bool { return !slices.Contains(loaded, name) })
	}
	for _, table := range tables {
		out, err := exec.Command(t.path, "-w", "10", "-t", table, "-S").Output()
		if err != nil {
			continue
		}
		if slices.ContainsFunc(strings.Split(strings.TrimSpace(string(out)), "\n"), func(line string) bool {
			return line != "" && match(line)
		}) {
			return true
		}
	}
	return false
}

// probe makes a NAT chain with the targets and matches that we need, in no
// packet's way, and deletes it.
func (t *ipTool) probe() (err error) {
	const chain = "SANDBOX-PROBE"
	if err := t.ClearChain("nat", chain); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.ClearAndDeleteChain("nat", chain)) }()
	if err := t.Append("nat", chain, "-m", "addrtype", "--dst-type", "LOCAL", "-p", "tcp", "--dport", "1",
		"-m", "comment", "--comment", Label, "-j", "DNAT", "--to-destination", "192.0.2.1:1"); err != nil {
		return err
	}
	return t.Append("nat", chain, "-m", "conntrack", "--ctstate", "DNAT", "-j", "RETURN")
}

// probeFilter makes a filter chain and deletes it. A tool that cannot, though it is
// installed, drops nothing either.
func (t *ipTool) probeFilter() error {
	const chain = "SANDBOX-PROBE"
	if err := t.ClearChain("filter", chain); err != nil {
		return err
	}
	return t.ClearAndDeleteChain("filter", chain)
}
