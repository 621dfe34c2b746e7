package network

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// HostGateway is the word that --add-host takes for the host's address.
const HostGateway = "host-gateway"

// Hosts is the content of a container's /etc/hosts (hosts(5)). ep is zero for
// a container without a connection; extra are --add-host's NAME:IP, later ones
// behind earlier ones.
func Hosts(ep Endpoint, hostname string, names, extra []string) (string, error) {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	for _, entry := range extra {
		name, ip, ok := strings.Cut(entry, ":")
		if !ok || name == "" {
			return "", fmt.Errorf("add host: %q is not NAME:IP: %w", entry, errdefs.ErrInvalidArgument)
		}
		if ip == HostGateway {
			if !ep.Gateway.IsValid() {
				return "", fmt.Errorf("add host %s: %s needs a connection to the host: %w", name, HostGateway, errdefs.ErrInvalidArgument)
			}
			ip = ep.Gateway.String()
		}
		if net.ParseIP(ip) == nil {
			return "", fmt.Errorf("add host %s: %q is not an IP address: %w", name, ip, errdefs.ErrInvalidArgument)
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, name)
	}
	if ep.Address.IsValid() {
		all := []string{hostname}
		for _, name := range names {
			if name != "" && !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
		fmt.Fprintf(&b, "%s\t%s\n", ep.Address.Addr(), strings.Join(all, " "))
	}
	return b.String(), nil
}
