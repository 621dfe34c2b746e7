package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// parsePublish reads one -p as docker does: [[IP:][HOST]:]CONTAINER[/PROTOCOL],
// HOST and CONTAINER each a port or a range FIRST-LAST of the same length. No
// HOST, or an empty one, asks for a free port. An IPv6 address is in brackets.
func parsePublish(s string) ([]api.PortMapping, error) {
	rest, protocol, given := strings.Cut(s, "/")
	if !given {
		protocol = "tcp"
	}
	protocol = strings.ToLower(protocol)
	if protocol != "tcp" && protocol != "udp" {
		return nil, fmt.Errorf("%q is not a protocol that can be published (tcp, udp)", protocol)
	}
	ip, host, container, err := splitPublish(rest)
	if err != nil {
		return nil, err
	}
	if ip != "" {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			return nil, fmt.Errorf("%q is not an IP address", ip)
		}
		ip = addr.String()
	}
	first, last, err := parsePortRange(container)
	if err != nil {
		return nil, fmt.Errorf("container port: %w", err)
	}
	var hostFirst, hostLast uint16
	if host != "" {
		if hostFirst, hostLast, err = parsePortRange(host); err != nil {
			return nil, fmt.Errorf("host port: %w", err)
		}
		if hostLast-hostFirst != last-first {
			return nil, fmt.Errorf("%d host ports cannot be mapped to %d container ports", int(hostLast-hostFirst)+1, int(last-first)+1)
		}
	}
	var out []api.PortMapping
	for i := 0; i <= int(last-first); i++ {
		m := api.PortMapping{HostIP: ip, ContainerPort: first + uint16(i), Protocol: protocol} //nolint:gosec // in range
		if host != "" {
			m.HostPort = hostFirst + uint16(i) //nolint:gosec // in range
		}
		out = append(out, m)
	}
	return out, nil
}

// splitPublish takes [[IP:][HOST]:]CONTAINER apart.
func splitPublish(s string) (ip, host, container string, err error) {
	if after, ok := strings.CutPrefix(s, "["); ok {
		addr, ports, ok := strings.Cut(after, "]:")
		if !ok {
			return "", "", "", errors.New("an IPv6 address is written [ADDRESS]:HOST:CONTAINER")
		}
		host, container, ok = strings.Cut(ports, ":")
		if !ok {
			return "", "", "", errors.New("not IP:HOST:CONTAINER")
		}
		return addr, host, container, nil
	}
	parts := strings.Split(s, ":")
	switch len(parts) {
	case 1:
		return "", "", parts[0], nil
	case 2:
		return "", parts[0], parts[1], nil
	case 3:
		if parts[0] == "" {
			return "", "", "", errors.New("the IP address is empty")
		}
		return parts[0], parts[1], parts[2], nil
	}
	return "", "", "", errors.New("not [IP:]HOST:CONTAINER (an IPv6 address needs brackets)")
}

func parsePortRange(s string) (first, last uint16, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if first, err = parsePort(a); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return first, first, nil
	}
	if last, err = parsePort(b); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("the range %s runs backwards", s)
	}
	return first, last, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", s)
	}
	return uint16(n), nil
}

// parseNetwork reads --network.
func parseNetwork(s string) (string, error) {
	switch {
	case s == "default" || s == "bridge":
		return "bridge", nil
	case s == "none" || s == "host":
		return s, nil
	case isContainerMode(s):
		return s, nil
	}
	return "", errors.New("not bridge, none, host or container:NAME (there are no further networks in this version)")
}

// isContainerMode says whether s is container:NAME.
func isContainerMode(s string) bool {
	ref, ok := strings.CutPrefix(s, "container:")
	return ok && ref != ""
}

// formatPorts prints published ports as `docker ps` does.
func formatPorts(ports []api.PortMapping) string {
	var out []string
	for _, p := range ports {
		ip := p.HostIP
		switch {
		case ip == "":
			ip = "0.0.0.0"
		case strings.Contains(ip, ":"):
			ip = "[" + ip + "]"
		}
		out = append(out, fmt.Sprintf("%s:%d->%d/%s", ip, p.HostPort, p.ContainerPort, p.Protocol))
	}
	return strings.Join(out, ", ")
}
