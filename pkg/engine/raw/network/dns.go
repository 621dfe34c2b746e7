package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/socket"
)

const (
	// localTTL is for how many seconds an answer about a container may be
	// remembered. They come and go.
	localTTL = 5
	// upstreamTimeout bounds the wait for one upstream server. Resolvers give
	// up on us after 5 s (RES_TIMEOUT), so that the second one gets a chance.
	upstreamTimeout = 2 * time.Second
	// maxForwards bounds the questions that wait for upstream servers at once.
	maxForwards = 256
)

// nameServer answers containers' questions on the bridge's address: for
// containers itself, for all else by asking the host's servers.
type nameServer struct {
	address netip.Addr
	subnet  netip.Prefix
	log     *zap.Logger
	leases  cached[index]
	resolv  cached[resolv]
	servers []*dns.Server
	limit   chan struct{}      // one token per forward under way
	stop    context.CancelFunc // ends forwards under way
}

// index finds leases by name and by address.
type index struct {
	addresses map[string][]netip.Addr
	name      map[netip.Addr]string
}

// serveNames starts the name server on address, unless it runs there.
func (n *Network) serveNames(address netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dns != nil && n.dns.address == address && n.dns.subnet == n.subnet {
		return nil
	}
	if n.dns != nil {
		if err := n.dns.close(); err != nil {
			return err
		}
		n.dns = nil
	}
	s := &nameServer{
		address: address, subnet: n.subnet, log: n.cfg.Log, limit: make(chan struct{}, maxForwards),
		leases: cached[index]{paths: []string{n.cfg.Dirs.Leases()}, read: n.index},
		resolv: cached[resolv]{paths: []string{n.cfg.Resolv.Conf, n.cfg.Resolv.Systemd}, read: n.cfg.Resolv.read},
	}
	// It serves until it is closed, whatever started it.
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	if err := s.start(ctx, netip.AddrPortFrom(address, 53)); err != nil {
		stop()
		return err
	}
	n.dns = s
	return nil
}

// index reads the leases for the name server.
func (n *Network) index() (index, error) {
	table, err := n.leases.read()
	if err != nil {
		return index{}, err
	}
	x := index{addresses: map[string][]netip.Addr{}, name: map[netip.Addr]string{}}
	for _, lease := range table.Leases {
		for i, name := range lease.Names {
			x.addresses[name] = append(x.addresses[name], lease.Address)
			if i == 0 {
				x.name[lease.Address] = name
			}
		}
	}
	return x, nil
}

// start listens on UDP and TCP, and serves.
func (s *nameServer) start(ctx context.Context, at netip.AddrPort) error {
	packets, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return listenError("udp", at, err)
	}
	stream, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return errors.Join(listenError("tcp", at, err), packets.Close())
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.serve(ctx, w, q) })
	s.servers = []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: stream, Handler: handler}}
	for _, server := range s.servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		failed := make(chan error, 1)
		go func() { failed <- server.ActivateAndServe() }()
		select {
		case <-started:
		case err := <-failed:
			return errors.Join(err, packets.Close(), stream.Close())
		}
	}
	return nil
}

// listenError names who has the port, if somebody has.
func listenError(protocol string, at netip.AddrPort, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		if owner, ownerErr := socket.Listener("/proc", protocol, at.Addr().AsSlice(), at.Port()); ownerErr == nil {
			return fmt.Errorf("%w by %s", err, owner)
		}
	}
	return err
}

// close stops serving and waits for questions under way.
func (s *nameServer) close() error {
	s.stop()
	var errs []error
	for _, server := range s.servers {
		errs = append(errs, server.Shutdown())
	}
	return errors.Join(errs...)
}

// serve answers one question.
func (s *nameServer) serve(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	// The host routes packets from outside to us as well, and must not become
	// everybody's resolver.
	if from, err := netip.ParseAddrPort(w.RemoteAddr().String()); err != nil || !s.subnet.Contains(from.Addr().Unmap()) {
		w.Close()
		return
	}
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	answer := s.answer(ctx, q, tcp)
	if !tcp {
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
		answer.Truncate(size)
	}
	if err := w.WriteMsg(answer); err != nil {
		s.log.Debug("answer a name query", zap.Stringer("to", w.RemoteAddr()), zap.Error(err))
	}
}

func (s *nameServer) answer(ctx context.Context, q *dns.Msg, tcp bool) *dns.Msg {
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 {
		return reply(q, dns.RcodeNotImplemented)
	}
	question := q.Question[0]
	if question.Qclass == dns.ClassINET {
		if answer := s.local(q, question); answer != nil {
			return answer
		}
	}
	return s.forward(ctx, q, tcp)
}

// local answers about containers, and is nil about anything else.
func (s *nameServer) local(q *dns.Msg, question dns.Question) *dns.Msg {
	x, err := s.leases.get()
	if err != nil {
		s.log.Error("read leases for the name server", zap.Error(err))
		return reply(q, dns.RcodeServerFailure)
	}
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	header := dns.RR_Header{Name: question.Name, Class: dns.ClassINET, Ttl: localTTL}
	if address, ok := reverse(name); ok && s.subnet.Contains(address) {
		// Nobody else knows anything about this subnet.
		if x.name[address] == "" {
			return reply(q, dns.RcodeNameError)
		}
		answer := reply(q, dns.RcodeSuccess)
		if question.Qtype == dns.TypePTR || question.Qtype == dns.TypeANY {
			header.Rrtype = dns.TypePTR
			answer.Answer = append(answer.Answer, &dns.PTR{Hdr: header, Ptr: dns.Fqdn(x.name[address])})
		}
		return answer
	}
	addresses := x.addresses[name]
	if len(addresses) == 0 {
		return nil
	}
	// A name that exists without records of the type asked for, as for AAAA,
	// is NOERROR with no answer (RFC 2308, NODATA). NXDOMAIN would make
	// resolvers believe that it has no A record either.
	answer := reply(q, dns.RcodeSuccess)
	if question.Qtype == dns.TypeA || question.Qtype == dns.TypeANY {
		header.Rrtype = dns.TypeA
		for _, a := range addresses {
			answer.Answer = append(answer.Answer, &dns.A{Hdr: header, A: a.AsSlice()})
		}
	}
	return answer
}

// reverse reads an address out of its in-addr.arpa name (RFC 1035, 3.5).
func reverse(name string) (netip.Addr, bool) {
	labels, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(labels)
	if err != nil || !a.Is4() {
		return netip.Addr{}, false
	}
	b := a.As4()
	return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}), true
}

// forward asks the host's servers, in order, by the protocol that we were
// asked by: a cut-off answer is passed on, and the asker comes back by TCP.
//
// When there is no server to ask, or none answers, we do not know: SERVFAIL.
// Only a name without a dot can be nothing but a container's, and does not
// exist then.
func (s *nameServer) forward(ctx context.Context, q *dns.Msg, tcp bool) *dns.Msg {
	host, err := s.resolv.get()
	if err != nil {
		s.log.Warn("read the host's name servers", zap.Error(err))
	}
	if len(host.upstreams) == 0 && strings.Count(q.Question[0].Name, ".") < 2 && q.Question[0].Name != "." {
		return reply(q, dns.RcodeNameError)
	}
	select {
	case s.limit <- struct{}{}:
		defer func() { <-s.limit }()
	default:
		return reply(q, dns.RcodeServerFailure)
	}
	client := &dns.Client{Net: "udp", Timeout: upstreamTimeout, UDPSize: dns.DefaultMsgSize}
	if tcp {
		client.Net = "tcp"
	}
	failure := reply(q, dns.RcodeServerFailure)
	for _, upstream := range host.upstreams {
		if upstream.Addr() == s.address {
			continue // ourselves
		}
		question := q.Copy()
		question.Id = dns.Id() // the asker's may be guessed by its neighbours
		answer, _, err := client.ExchangeContext(ctx, question, upstream.String())
		if err != nil {
			s.log.Debug("ask name server", zap.Stringer("server", upstream), zap.Error(err))
			continue
		}
		answer.Id = q.Id
		if answer.Rcode == dns.RcodeServerFailure || answer.Rcode == dns.RcodeRefused {
			failure = answer // another may do better
			continue
		}
		return answer
	}
	return failure
}

// reply is an empty answer of our own.
func reply(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	m.RecursionAvailable = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(opt.UDPSize(), false)
	}
	return m
}
