package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// ResolvFiles are where the host says which name servers to ask.
type ResolvFiles struct {
	Conf string // resolv.conf(5); "": /etc/resolv.conf
	// Systemd is where systemd-resolved lists the servers behind its own
	// address 127.0.0.53; "": /run/systemd/resolve/resolv.conf.
	Systemd string
}

func (f ResolvFiles) orDefault() ResolvFiles {
	if f.Conf == "" {
		f.Conf = "/etc/resolv.conf"
	}
	if f.Systemd == "" {
		f.Systemd = "/run/systemd/resolve/resolv.conf"
	}
	return f
}

// resolv is what matters of a host's resolv.conf.
type resolv struct {
	// upstreams are the servers that a process on the host asks, in order.
	// They may be on a loopback address.
	upstreams []netip.AddrPort
	// reachable are the IPv4 servers that a container can ask by itself: no
	// loopback address, which would be its own.
	reachable []netip.Addr
	search    []string
	options   []string
}

// maxServers is how many servers resolvers use at most (MAXNS in resolv.conf(5)).
const maxServers = 3

// read reads the host's files. A host without resolv.conf has no name servers.
func (f ResolvFiles) read() (resolv, error) {
	text, err := os.ReadFile(f.Conf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return resolv{}, err
	}
	r := parseResolv(string(text))
	stub := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 53}), 53)
	if slices.Contains(r.upstreams, stub) {
		// The stub stays the first to be asked on the host: it knows which
		// server is for which domain. The servers behind it are for the
		// containers, and for when it does not answer.
		if text, err := os.ReadFile(f.Systemd); err == nil {
			behind := parseResolv(string(text))
			r.upstreams = append(r.upstreams, behind.upstreams...)
			r.reachable = append(r.reachable, behind.reachable...)
		}
	}
	return r, nil
}

// parseResolv reads resolv.conf(5); lines that it does not know are left out,
// as the C library does.
func parseResolv(text string) (r resolv) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0][0] == '#' || fields[0][0] == ';' {
			continue
		}
		switch fields[0] {
		case "nameserver":
			address, err := netip.ParseAddr(fields[1])
			if err != nil {
				continue
			}
			r.upstreams = append(r.upstreams, netip.AddrPortFrom(address.Unmap(), 53))
			if address.Unmap().Is4() && !address.Unmap().IsLoopback() {
				r.reachable = append(r.reachable, address.Unmap())
			}
		case "search", "domain": // the last of either counts
			r.search = fields[1:]
		case "options":
			r.options = append(r.options, fields[1:]...)
		}
	}
	return r
}

// resolvConf is a container's resolv.conf(5): our own server first, then the
// host's for when the daemon is down. Without ours (an invalid address), or
// with servers that the user chose, names of containers do not resolve.
func resolvConf(host resolv, ours netip.Addr, chosen []string) string {
	var b strings.Builder
	servers := chosen
	options := slices.Clone(host.options)
	if len(chosen) == 0 {
		if ours.IsValid() {
			servers = append(servers, ours.String())
			// Taken in turns, two of three questions would miss it.
			options = slices.DeleteFunc(options, func(o string) bool { return o == "rotate" })
			// Containers' names have no dot, and are to be asked for as they
			// are before a search domain is put behind them.
			if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
				options = append(options, "ndots:0")
			}
		}
		for _, a := range host.reachable {
			if s := a.String(); !slices.Contains(servers, s) {
				servers = append(servers, s)
			}
		}
	}
	for _, s := range servers[:min(len(servers), maxServers)] {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(host.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(host.search, " "))
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.String()
}

// ResolvConf is the content of a connected container's /etc/resolv.conf. dns
// are the servers that the user chose (--dns), if any.
func (n *Network) ResolvConf(dns []string) (string, error) {
	host, err := n.cfg.Resolv.read()
	if err != nil {
		return "", err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var ours netip.Addr
	if n.dns != nil {
		ours = n.dns.address
	}
	return resolvConf(host, ours, dns), nil
}

// IsolatedResolvConf is the same for a container that is not connected to the
// bridge (--network none).
func (n *Network) IsolatedResolvConf(dns []string) (string, error) {
	host, err := n.cfg.Resolv.read()
	if err != nil {
		return "", err
	}
	return resolvConf(host, netip.Addr{}, dns), nil
}
