package host

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/linux/network"
	"golang.org/x/sys/unix"
)

func networkChecks() []check {
	return []check{
		{
			name: "bridge and veth", why: "each container hangs on a bridge by a pair of virtual links",
			look: func(_ context.Context, h *Host) finding {
				if !h.Real || os.Geteuid() != 0 {
					return okf("not tried: that takes root")
				}
				if err := inNamespaces(unix.CLONE_NEWNET, tryLinks); err != nil {
					return failf("%v", err)
				}
				return okf("made both")
			},
			fix: "modprobe bridge veth", repair: modprobe("bridge", "veth"),
		},
		{
			name: "NAT", why: "containers reach the outside with the host's address, and published ports reach them",
			look: func(_ context.Context, h *Host) finding {
				if !h.Real || os.Geteuid() != 0 {
					return okf("not tried: that takes root")
				}
				backend := ""
				err := inNamespaces(unix.CLONE_NEWNET, func() (err error) {
					backend, err = tryNAT()
					return err
				})
				if err != nil {
					return warnf("%v; containers reach each other and the host, and nothing else", err)
				}
				return okf("%s", backend)
			},
			fix: "apt-get install nftables (or iptables), and modprobe nf_tables nft_masq nft_chain_nat", repair: modprobe("nf_tables", "nft_chain_nat", "nft_masq"),
		},
		{
			name: "IP forwarding", why: "the host passes packets between the bridge and its other links",
			look: func(_ context.Context, h *Host) finding {
				if read(h.Proc, "sys/net/ipv4/ip_forward") != "1" {
					return warnf("off; up turns it on until the next reboot")
				}
				return okf("on")
			},
			fix: "sysctl -w net.ipv4.ip_forward=1, kept in " + sysctlFile, repair: sysctl("net.ipv4.ip_forward", 1),
		},
		portsCheck(),
	}
}

// probeBridge exists only in a network namespace that ends with the probe.
var probeBridge = network.Bridge{Name: "sandbox-doctor", Address: netip.MustParsePrefix("192.0.2.1/24"), MTU: 1500}

func tryLinks() error {
	ns, err := network.Open()
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := ns.EnsureBridge(probeBridge, nil); err != nil {
		return err
	}
	peer, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer peer.Close()
	return ns.AddVeth(network.Veth{
		Name: "sbdoctor0", Bridge: probeBridge.Name, Peer: "sbdoctor1", PeerNS: peer, MTU: probeBridge.MTU,
		MAC: network.MAC(netip.MustParseAddr("192.0.2.2")),
	}, nil)
}

func tryNAT() (backend string, err error) {
	fw, err := network.OpenFirewall(probeBridge.Name, probeBridge.Address)
	if err != nil {
		return "", err
	}
	return fw.Backend, fw.Ensure(nil)
}

// Ports that the stages of the stack take, and for what.
var stackPorts = []struct {
	port uint16
	what string
}{
	{3001, "Grafana"}, {9090, "Prometheus"}, {9093, "Alertmanager"}, {4566, "LocalStack"},
}

func portsCheck() check {
	return check{
		name: "ports", why: "the stack's pages and APIs are found at these: Grafana 3001, Prometheus 9090, Alertmanager 9093, LocalStack 4566",
		look: func(_ context.Context, h *Host) finding {
			taken := h.listening()
			var free, used []string
			for _, p := range stackPorts {
				if inode, ok := taken[p.port]; ok {
					used = append(used, fmt.Sprintf("%d (%s) by %s", p.port, p.what, h.owner(inode)))
				} else {
					free = append(free, strconv.Itoa(int(p.port)))
				}
			}
			if len(used) > 0 {
				return warnf("in use: %s", join(used))
			}
			return okf("free: %s", strings.Join(free, " "))
		},
		fix: "stop what uses them",
	}
}

// listening returns the inodes of listening TCP sockets by port, from
// /proc/net/tcp and tcp6 (proc_pid_net(5)): the local address is the second
// field, the state the fourth (0A is LISTEN), the inode the tenth.
func (h *Host) listening() map[uint16]string {
	out := map[uint16]string{}
	for _, file := range []string{"net/tcp", "net/tcp6"} {
		for line := range strings.Lines(read(h.Proc, file) + "\n") {
			fields := strings.Fields(line)
			if len(fields) < 10 || fields[3] != "0A" {
				continue
			}
			_, port, _ := strings.Cut(fields[1], ":")
			if n, err := strconv.ParseUint(port, 16, 16); err == nil {
				out[uint16(n)] = fields[9]
			}
		}
	}
	return out
}

// owner names the process that has the socket open.
func (h *Host) owner(inode string) string {
	want := "socket:[" + inode + "]"
	fds, _ := filepath.Glob(filepath.Join(h.Proc, "[0-9]*", "fd", "*")) // the pattern is right
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == want {
			pid := filepath.Base(filepath.Dir(filepath.Dir(fd)))
			return fmt.Sprintf("%s (process %s)", read(h.Proc, pid, "comm"), pid)
		}
	}
	if os.Geteuid() != 0 {
		return "another user's process"
	}
	return "a process that cannot be seen"
}
