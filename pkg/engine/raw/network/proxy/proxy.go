// Package proxy passes connections to a container's published ports on from
// the host, where the kernel's NAT does not: from the loopback addresses, and
// from IPv6. Its sockets also hold the ports, so that nothing else can take
// them, and who comes second is told.
//
// It runs in every container's shim, and so does without package net, whose
// initialization every start of the runtime would pay for.
package proxy

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/socket"
)

const (
	// connectTimeout bounds the wait for the container to accept.
	connectTimeout = 10 * time.Second
	// idleTimeout ends a UDP flow that nothing has passed for this long; UDP
	// has no other end. The kernel's NAT uses 120 s for flows with answers.
	idleTimeout = 90 * time.Second
	// maxFlows bounds the UDP flows of one port, each of which costs a socket.
	maxFlows = 1024
	// portTries bounds the search for a port that is free in IPv4 and IPv6.
	portTries = 16
)

// Proxy holds the host's side of a container's published ports.
type Proxy struct {
	ports     []api.PortMapping
	container addr
	tcp       []*listener
	udp       []*relay
	wg        sync.WaitGroup
}

// Listen takes all the ports on the host, or none, and passes on what comes to
// them to the container at IPv4 address ip. A mapping without a host IP takes
// the port on all addresses, IPv6's too; one without a host port gets a free
// one, see Ports. The error for a port that is in use satisfies
// errdefs.IsConflict and names the process that has it, where that can be
// known.
func Listen(ports []api.PortMapping, ip string) (*Proxy, error) {
	container, err := parseAddr(ip)
	if err != nil {
		return nil, err
	}
	p := &Proxy{container: container}
	for _, m := range ports {
		if err := p.add(m); err != nil {
			return nil, errors.Join(fmt.Errorf("publish port %s: %w", describe(m), err), p.Close())
		}
	}
	for _, l := range p.tcp {
		p.wg.Go(l.serve)
	}
	for _, r := range p.udp {
		p.wg.Go(r.serve)
	}
	return p, nil
}

// Ports are the mappings with the host ports that were taken, in their order.
func (p *Proxy) Ports() []api.PortMapping { return p.ports }

// Close gives up the ports, ends all connections and waits for that.
func (p *Proxy) Close() error {
	var errs []error
	for _, l := range p.tcp {
		errs = append(errs, l.close())
	}
	for _, r := range p.udp {
		errs = append(errs, r.close())
	}
	p.tcp, p.udp = nil, nil
	p.wg.Wait()
	return errors.Join(errs...)
}

// add takes one mapping's port on each address that it is for.
func (p *Proxy) add(m api.PortMapping) error {
	hosts := []addr{{}, {v6: true}}
	if m.HostIP != "" {
		host, err := parseAddr(m.HostIP)
		if err != nil {
			return err
		}
		hosts = []addr{host}
	}
	var files []*os.File
	var port uint16
	var err error
	for range portTries {
		files, port, err = bindAll(m.Protocol, hosts, m.HostPort)
		// A port that was free in IPv4 may not be in IPv6: take another.
		if m.HostPort != 0 || !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return inUse(m, err)
	}
	if err != nil {
		return err
	}
	target := p.container
	target.port = m.ContainerPort
	for i, f := range files {
		if m.Protocol == "udp" {
			p.udp = append(p.udp, newRelay(f, hosts[i].v6, target, idleTimeout))
		} else {
			p.tcp = append(p.tcp, &listener{file: f, target: target, conns: map[*os.File]bool{}})
		}
	}
	m.HostPort = port
	p.ports = append(p.ports, m)
	return nil
}

// bindAll takes one port on all hosts. An IPv6 wildcard on a host without IPv6
// is left out.
func bindAll(protocol string, hosts []addr, port uint16) (files []*os.File, _ uint16, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			files = nil
		}
	}()
	for i, host := range hosts {
		host.port = port
		f, got, err := bind(protocol, host)
		if i > 0 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			break
		}
		if err != nil {
			return files, 0, err
		}
		files, port = append(files, f), got
	}
	return files, port, nil
}

// inUse is the error for a port that somebody else has.
func inUse(m api.PortMapping, cause error) error {
	var ip []byte
	if host, err := parseAddr(m.HostIP); err == nil {
		ip = host.ip()
	}
	text := cause.Error()
	if owner, err := socket.Listener("/proc", m.Protocol, ip, m.HostPort); err == nil {
		text += " by " + owner.String()
	}
	return errdefs.ErrConflict.WithMessage(text)
}

// describe is a mapping as the user would write it.
func describe(m api.PortMapping) string {
	host := m.HostIP
	if host == "" {
		host = "0.0.0.0"
	}
	return host + ":" + strconv.Itoa(int(m.HostPort)) + "/" + m.Protocol
}
