// Package network connects the raw engine's containers: a bridge with an
// address from the host's point of view, a veth pair and a lease for each
// container, names, and published ports. pkg/linux/network performs it; what
// is decided is decided here.
//
// IPv4 only.
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/network"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"github.com/sandboxlabs/sandbox/pkg/undo"
)

const (
	// Bridge is the name of the bridge unless Config says otherwise.
	Bridge = "sandbox0"
	// linkPrefix and the short ID are the name of a container's link in the
	// host, 15 bytes, which is all that a name may have.
	linkPrefix = "sbx"
	// containerLink is its name inside.
	containerLink = "eth0"
	// lingerTime is how long a link is left to go with its namespace, after
	// Detach, before it is deleted. The kernel needs some 30 ms; deleting it
	// ourselves makes everyone wait who wants to change links.
	lingerTime = 500 * time.Millisecond
)

// subnets are tried in turn; none is among Docker's or kind's defaults.
var subnets = []netip.Prefix{
	netip.MustParsePrefix("10.89.0.0/16"),
	netip.MustParsePrefix("10.90.0.0/16"),
	netip.MustParsePrefix("10.189.0.0/16"),
	netip.MustParsePrefix("10.237.0.0/16"),
	netip.MustParsePrefix("172.31.240.0/20"),
	netip.MustParsePrefix("192.168.237.0/24"),
	netip.MustParsePrefix("198.18.0.0/20"), // for benchmarks (RFC 2544), hence seldom in use
}

// Config is what a Network must know.
type Config struct {
	Dirs    state.Dirs
	Log     *zap.Logger
	Bridge  string         // "": Bridge
	Subnets []netip.Prefix // nil: a list of our own; the first that is free is used
	// Resolv are the host's resolver files; zero means those of the system.
	Resolv ResolvFiles
}

// Network is one bridge and all that is plugged into it. Its methods may be
// called concurrently.
type Network struct {
	cfg    Config
	links  *network.Namespace
	leases leases

	up sync.Mutex // one Up at a time

	mu       sync.Mutex // guards what follows
	subnet   netip.Prefix
	mtu      int
	firewall *network.Firewall
	dns      *nameServer
	warnings []string
	dying    map[int]*time.Timer // links that Detach has left, by index

	deleting sync.WaitGroup // one for each of dying
}

// EndpointConfig is a container that is to be connected.
type EndpointConfig struct {
	ID      string
	Name    string
	Aliases []string // further names, such as the host name
	// NetNS is the path of its network namespace, such as /proc/PID/ns/net.
	NetNS string
	// Publish are its published ports, with host ports: see proxy.Ports.
	Publish []api.PortMapping
}

// Endpoint is a container's connection.
type Endpoint struct {
	Address netip.Prefix
	Gateway netip.Addr
	MAC     net.HardwareAddr
	Link    string // the host's end
}

// New returns a Network that makes nothing before it is needed.
func New(cfg Config) (*Network, error) {
	if cfg.Bridge == "" {
		cfg.Bridge = Bridge
	}
	if cfg.Subnets == nil {
		cfg.Subnets = subnets
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	cfg.Resolv = cfg.Resolv.orDefault()
	links, err := network.Open()
	if err != nil {
		return nil, err
	}
	return &Network{cfg: cfg, links: links, leases: leases{path: cfg.Dirs.Leases()}, dying: map[int]*time.Timer{}}, nil
}

// Close stops the name server, and lets go of the kernel. What containers use
// stays.
func (n *Network) Close() error {
	n.mu.Lock()
	server := n.dns
	n.dns = nil
	var errs []error
	for index, timer := range n.dying {
		if timer.Stop() {
			errs = append(errs, n.links.DeleteLinkIndex(index, nil))
			n.deleting.Done()
		}
	}
	clear(n.dying)
	n.mu.Unlock()
	n.deleting.Wait()
	if server != nil {
		errs = append(errs, server.close())
	}
	n.links.Close()
	return errors.Join(errs...)
}

// linkName is a container's link in the host.
func linkName(id string) string { return linkPrefix + shortID(id) }

// Reserve gives the container an address before its namespace exists. It may
// be repeated, and lasts until Detach.
func (n *Network) Reserve(ctx context.Context, cfg EndpointConfig, trace *explain.Tracer) (Endpoint, error) {
	if err := n.ensureUp(ctx, trace); err != nil {
		return Endpoint{}, err
	}
	lease, _, err := n.leases.reserve(cfg.ID, names(cfg))
	if err != nil {
		return Endpoint{}, err
	}
	return n.endpoint(lease), nil
}

func (n *Network) endpoint(lease Lease) Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	return Endpoint{
		Address: netip.PrefixFrom(lease.Address, n.subnet.Bits()), Gateway: gateway(n.subnet),
		MAC: network.MAC(lease.Address), Link: linkName(lease.Container),
	}
}

// Attach connects a container. On failure nothing is left, but for an address
// that was reserved before.
func (n *Network) Attach(ctx context.Context, cfg EndpointConfig, trace *explain.Tracer) (_ Endpoint, err error) {
	var undo undo.Stack
	defer func() {
		if err != nil {
			err = undo.Run(fmt.Errorf("connect container %s: %w", cfg.Name, err))
		}
	}()
	if err := n.ensureUp(ctx, trace); err != nil {
		return Endpoint{}, err
	}
	lease, fresh, err := n.leases.reserve(cfg.ID, names(cfg))
	if err != nil {
		return Endpoint{}, err
	}
	if fresh {
		undo.Push(func(context.Context) error {
			_, err := n.leases.release(func(id string) bool { return id == cfg.ID })
			return err
		})
	}
	ns, err := os.Open(cfg.NetNS)
	if err != nil {
		return Endpoint{}, err
	}
	defer ns.Close()
	ep := n.endpoint(lease)
	if err := n.plug(ctx, ep, ns, trace); err != nil {
		return Endpoint{}, err
	}
	undo.Push(func(context.Context) error { return n.links.DeleteLink(ep.Link, trace) })
	inside, err := network.OpenAt(ns)
	if err != nil {
		return Endpoint{}, err
	}
	defer inside.Close()
	if err := inside.LoopbackUp(trace); err != nil {
		return Endpoint{}, err
	}
	if err := inside.Configure(containerLink, ep.Address, ep.Gateway, trace); err != nil {
		return Endpoint{}, err
	}
	// The bridge has a carrier when one of its ports has.
	for _, link := range []string{ep.Link, n.cfg.Bridge} {
		if err := n.links.AwaitCarrier(ctx, link); err != nil {
			return Endpoint{}, err
		}
	}
	if len(cfg.Publish) > 0 {
		undo.Push(func(context.Context) error { return n.unpublish(shortID(cfg.ID)) })
		if err := n.Publish(ctx, cfg.ID, cfg.Publish, trace); err != nil {
			return Endpoint{}, err
		}
	}
	return ep, nil
}

// plug makes the container's veth pair. What may be in the way: a link of the
// same container's previous life that the kernel has not got round to
// removing, and a bridge that somebody has deleted.
func (n *Network) plug(ctx context.Context, ep Endpoint, ns *os.File, trace *explain.Tracer) error {
	n.mu.Lock()
	veth := network.Veth{
		Name: ep.Link, Bridge: n.cfg.Bridge, Peer: containerLink, PeerNS: ns, MAC: ep.MAC, MTU: n.mtu,
	}
	n.mu.Unlock()
	err := n.links.AddVeth(veth, trace)
	switch {
	case errors.Is(err, unix.EEXIST):
		if err := n.links.DeleteLink(ep.Link, trace); err != nil {
			return err
		}
	case errors.Is(err, fs.ErrNotExist):
		if err := n.Up(ctx, trace); err != nil {
			return err
		}
	default:
		return err
	}
	return n.links.AddVeth(veth, trace)
}

// Publish sends what reaches ports of the host to the container's. The ports
// must be held by a proxy already, so that no one else has them.
func (n *Network) Publish(_ context.Context, id string, ports []api.PortMapping, trace *explain.Tracer) error {
	// Noted first: who is killed after this point leaves rules that can be
	// found, or a note that Up makes true.
	lease, err := n.leases.publish(id, ports)
	if err != nil {
		return err
	}
	if err := n.links.SetHairpin(linkName(id), trace); err != nil {
		return err
	}
	forwards, err := forwards(lease)
	if err != nil {
		return err
	}
	n.mu.Lock()
	firewall := n.firewall
	n.mu.Unlock()
	return firewall.Publish(shortID(id), forwards, trace)
}

// forwards are a lease's published ports for the firewall.
func forwards(lease Lease) ([]network.Forward, error) {
	var all []network.Forward
	for _, p := range lease.Ports {
		host := netip.IPv4Unspecified()
		if p.HostIP != "" {
			var err error
			if host, err = netip.ParseAddr(p.HostIP); err != nil {
				return nil, fmt.Errorf("publish port %d: %w (%w)", p.ContainerPort, err, errdefs.ErrInvalidArgument)
			}
		}
		all = append(all, network.Forward{
			Protocol: p.Protocol, Host: netip.AddrPortFrom(host, p.HostPort),
			Container: netip.AddrPortFrom(lease.Address, p.ContainerPort),
		})
	}
	return all, nil
}

// Detach takes back what Reserve, Attach and Publish have done. It is no error
// if they have not. The container's link goes with its namespace; if a process
// elsewhere keeps that, it goes a moment later all the same.
func (n *Network) Detach(_ context.Context, id string) error {
	released, err := n.leases.release(func(container string) bool { return container == id })
	if err != nil {
		return err
	}
	for _, lease := range released {
		if len(lease.Ports) > 0 {
			err = errors.Join(err, n.unpublish(shortID(id)))
		}
	}
	index, indexErr := n.links.LinkIndex(linkName(id))
	if indexErr != nil {
		if errors.Is(indexErr, fs.ErrNotExist) {
			indexErr = nil
		}
		return errors.Join(err, indexErr)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deleting.Add(1)
	n.dying[index] = time.AfterFunc(lingerTime, func() {
		defer n.deleting.Done()
		if err := n.links.DeleteLinkIndex(index, nil); err != nil {
			n.cfg.Log.Error("delete link", zap.String("container", id), zap.Error(err))
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.dying, index)
	})
	return err
}

// unpublish removes an owner's rules; without a firewall, as after a failed
// Up, there can be none that this process has made.
func (n *Network) unpublish(owner string) error {
	n.mu.Lock()
	firewall := n.firewall
	n.mu.Unlock()
	if firewall == nil {
		return nil
	}
	return firewall.Unpublish(owner, nil)
}

// Stats are the container's counters, read at the host's end of its link, so
// what the host sends the container receives.
func (n *Network) Stats(id string) (api.NetStats, error) {
	s, err := n.links.LinkStats(linkName(id))
	if err != nil {
		return api.NetStats{}, err
	}
	return api.NetStats{RxBytes: s.TxBytes, RxPackets: s.TxPackets, TxBytes: s.RxBytes, TxPackets: s.RxPackets}, nil
}

// Leases are all addresses that are taken, by address.
func (n *Network) Leases() ([]Lease, error) {
	table, err := n.leases.read()
	slices.SortFunc(table.Leases, func(a, b Lease) int { return a.Address.Compare(b.Address) })
	return table.Leases, err
}
