package images_test

import (
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
)

// pocket is a network of one test: a namespace with a bridge, on which the host
// has an address too. So the host reaches containers as neighbours, through
// nobody's rules, and has none of its own changed. There is no way out of it.
type pocket struct {
	t      *testing.T
	ns     netns.NsHandle
	subnet netip.Prefix
	last   netip.Addr // the last that was given away
}

// linkCount makes names of links: they are not removed at the moment when their
// namespace is closed.
var linkCount atomic.Int32

const (
	pocketBridge = "sbi0"
	// pocketHosts is how many addresses a pocket gives away itself; a daemon
	// has those above.
	pocketHosts = 128
)

// newPocket makes a network that ends with the test; it would also end with
// this process, which alone holds it.
func newPocket(t *testing.T) *pocket {
	t.Helper()
	p := &pocket{t: t, subnet: freeSubnet(t)}
	p.last = p.subnet.Addr()
	p.ns = newNetNS(t)
	t.Cleanup(func() {
		for _, rule := range hostRules() {
			if strings.Contains(rule, strings.TrimSuffix(p.subnet.Addr().String(), "0")) {
				t.Errorf("left behind: the rule %s", rule)
			}
		}
	})
	inside := p.handle(p.ns)
	defer inside.Close()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: pocketBridge}}
	p.check(inside.LinkAdd(bridge))
	p.addAddr(inside, bridge)
	p.check(inside.LinkSetUp(bridge))

	host, err := netns.Get()
	p.check(err)
	defer host.Close()
	outside := p.handle(host)
	defer outside.Close()
	// The host's end disappears with its peer's namespace.
	name := fmt.Sprintf("sbi%d.%d", os.Getpid(), linkCount.Add(1))
	p.plug(host, name)
	t.Cleanup(func() {
		p.ns.Close()
		for range 500 {
			if _, err := netlink.LinkByName(name); errors.As(err, &netlink.LinkNotFoundError{}) {
				return
			}
			time.Sleep(10 * time.Millisecond) // the kernel ends namespaces in the background
		}
		t.Errorf("left behind: link %s", name)
	})
	return p
}

// plug connects a namespace to the bridge by a link with an address.
func (p *pocket) plug(ns netns.NsHandle, name string) netip.Addr {
	p.t.Helper()
	inside, there := p.handle(p.ns), p.handle(ns)
	defer inside.Close()
	defer there.Close()
	bridge, err := inside.LinkByName(pocketBridge)
	p.check(err)
	link := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("port%d", linkCount.Add(1)), MasterIndex: bridge.Attrs().Index},
		PeerName:  name, PeerNamespace: netlink.NsFd(ns),
	}
	p.check(inside.LinkAdd(link))
	p.check(inside.LinkSetUp(link))
	peer, err := there.LinkByName(name)
	p.check(err)
	addr := p.addAddr(there, peer)
	p.check(there.LinkSetUp(peer))
	return addr
}

// addAddr gives a link the next address.
func (p *pocket) addAddr(h *netlink.Handle, link netlink.Link) netip.Addr {
	p.t.Helper()
	p.last = p.last.Next()
	if p.last.As4()[3] >= pocketHosts {
		p.t.Fatalf("all addresses of %s are given away", p.subnet)
	}
	p.check(h.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: p.last.AsSlice(), Mask: net.CIDRMask(p.subnet.Bits(), 32)}}))
	return p.last
}

// daemonRange are the addresses that a daemon may give away.
func (p *pocket) daemonRange() netip.Prefix {
	b := p.subnet.Addr().As4()
	b[3] = pocketHosts
	return netip.PrefixFrom(netip.AddrFrom4(b), p.subnet.Bits()+1)
}

func (p *pocket) handle(ns netns.NsHandle) *netlink.Handle {
	p.t.Helper()
	h, err := netlink.NewHandleAt(ns)
	p.check(err)
	return h
}

func (p *pocket) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("pocket network: %v", err)
	}
}

// serve offers a store's images on the loopback interface, where Docker and
// containerd ask for no TLS: of the pocket, or of the host if p is nil. It
// returns host and port.
func serve(t *testing.T, p *pocket, store *image.Store) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(registry.New(store, registry.Options{}))
	if p != nil {
		_ = srv.Listener.Close()
		p.within(func() (err error) {
			srv.Listener, err = net.Listen("tcp", "127.0.0.1:0")
			return err
		})
	}
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// within calls do on a thread that is in the pocket.
func (p *pocket) within(do func() error) {
	p.t.Helper()
	p.check(apart(func() error {
		if err := netns.Set(p.ns); err != nil {
			return err
		}
		return do()
	}))
}

// apart calls do on a thread that may change its network namespace.
func apart(do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		origin, err := netns.Get()
		if err != nil {
			result <- err
			return
		}
		defer origin.Close()
		err = do()
		if back := netns.Set(origin); back != nil {
			panic(back) // this thread must not run others' goroutines
		}
		result <- err
	}()
	return <-result
}

// newNetNS makes a namespace that lasts as long as the handle is open or
// something runs in it. Its loopback interface is up.
func newNetNS(t *testing.T) (ns netns.NsHandle) {
	t.Helper()
	if err := apart(func() (err error) {
		if ns, err = netns.New(); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	return ns
}

// freeSubnet finds a network for a pocket that the host has no address in, in
// the range for benchmarks (RFC 2544), which is used nowhere else.
func freeSubnet(t *testing.T) netip.Prefix {
	t.Helper()
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 256 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(os.Getpid() + i), 0}), 24)
		taken := false
		for _, a := range addrs {
			ip, _ := netip.AddrFromSlice(a.IP.To4())
			taken = taken || subnet.Contains(ip)
		}
		if !taken {
			return subnet
		}
	}
	t.Fatal("no free network in 198.19.0.0/16")
	return netip.Prefix{}
}

// hostRules are the host's packet filters, one rule a line.
func hostRules() (rules []string) {
	for _, argv := range [][]string{{"nft", "list", "ruleset"}, {"iptables-save"}, {"iptables-legacy-save"}} {
		out, _ := exec.Command(argv[0], argv[1:]...).Output()
		rules = append(rules, strings.Split(string(out), "\n")...)
	}
	return rules
}
