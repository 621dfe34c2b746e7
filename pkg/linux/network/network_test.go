package network

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// attach plugs a new namespace into the bridge, as a container would be.
func attach(t testing.TB, host *Namespace, name, address string, trace *explain.Tracer) *os.File {
	t.Helper()
	ns := newNamespace(t)
	ip := netip.MustParseAddr(address)
	err := host.AddVeth(Veth{Name: name, Bridge: testBridge, Peer: "eth0", PeerNS: ns, MAC: MAC(ip), MTU: 1400}, trace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.DeleteLink(name, nil); err != nil {
			t.Error(err)
		}
	})
	inside, err := OpenAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	if err := inside.LoopbackUp(trace); err != nil {
		t.Fatal(err)
	}
	if err := inside.Configure("eth0", netip.PrefixFrom(ip, 16), testGateway.Addr(), trace); err != nil {
		t.Fatal(err)
	}
	return ns
}

func bridge(t testing.TB, host *Namespace) {
	t.Helper()
	if err := host.EnsureBridge(Bridge{Name: testBridge, Address: testGateway, MTU: 1400}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.DeleteLink(testBridge, nil); err != nil {
			t.Error(err)
		}
	})
}

func TestBridgeConverges(t *testing.T) {
	host := openHost(t)
	bridge(t, host)
	before := run(t, "ip", "-4", "-o", "addr", "show", "dev", testBridge)
	if !strings.Contains(before, "10.89.0.1/16") {
		t.Errorf("bridge has no gateway address: %s", before)
	}
	mac := run(t, "ip", "-o", "link", "show", "dev", testBridge)
	if !strings.Contains(mac, "02:42:0a:59:00:01") || !strings.Contains(mac, "mtu 1400") {
		t.Errorf("bridge: %s", mac)
	}

	run(t, "ip", "addr", "add", "10.77.0.1/24", "dev", testBridge)
	run(t, "ip", "addr", "del", "10.89.0.1/16", "dev", testBridge)
	run(t, "ip", "link", "set", testBridge, "down", "mtu", "1300")
	var ops []string
	trace := explain.New("test", os.Getpid(), func(ev explain.Event) { ops = append(ops, ev.Op) })
	if err := host.EnsureBridge(Bridge{Name: testBridge, Address: testGateway, MTU: 1400}, trace); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(ops, ", "), "link set mtu, addr del, addr add, link set up"; got != want {
		t.Errorf("repair made %s; want %s", got, want)
	}
	if after := run(t, "ip", "-4", "-o", "addr", "show", "dev", testBridge); after != before {
		t.Errorf("addresses after repair:\n%s\nwant:\n%s", after, before)
	}

	ops = nil
	if err := host.EnsureBridge(Bridge{Name: testBridge, Address: testGateway, MTU: 1400}, trace); err != nil || len(ops) > 0 {
		t.Errorf("a second EnsureBridge: %v, made %v; want nothing", err, ops)
	}
}

func TestBridgeLeavesForeignLinkAlone(t *testing.T) {
	host := openHost(t)
	run(t, "ip", "link", "add", "sbtv0", "type", "veth", "peer", "name", "sbtv1")
	defer run(t, "ip", "link", "del", "sbtv0")
	err := host.EnsureBridge(Bridge{Name: "sbtv0", Address: testGateway}, nil)
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("EnsureBridge over a veth: %v; want an error that is fs.ErrExist", err)
	}
}

func TestVethConnects(t *testing.T) {
	host := openHost(t)
	bridge(t, host)
	var events []explain.Event
	trace := explain.New("test", os.Getpid(), func(ev explain.Event) { events = append(events, ev) })
	one := attach(t, host, "sbtone", "10.89.0.2", trace)
	two := attach(t, host, "sbttwo", "10.89.0.3", nil)

	var listener net.Listener
	inNamespace(t, two, func() (err error) { listener, err = net.Listen("tcp4", ":80"); return err })
	defer listener.Close()
	go echoPeer(listener)
	if from := dialFrom(t, one, "10.89.0.3:80"); !strings.HasPrefix(from, "10.89.0.2:") {
		t.Errorf("neighbour saw %q; want 10.89.0.2", from)
	}
	if from := dial(t, "10.89.0.3:80"); !strings.HasPrefix(from, "10.89.0.1:") {
		t.Errorf("container saw the host as %q; want 10.89.0.1", from)
	}

	var ops []string
	for _, ev := range events {
		ops = append(ops, ev.Op+" "+ev.Target)
		if ev.Why == "" || ev.Source == "" || ev.Duration <= 0 || ev.Error != "" {
			t.Errorf("incomplete event %+v", ev)
		}
	}
	want := "link add sbtone|link set master sbtone|link set up sbtone|link set up lo|addr add eth0|link set up eth0|route add default"
	if got := strings.Join(ops, "|"); got != want {
		t.Errorf("events\n%s\nwant\n%s", got, want)
	}

	inside, err := OpenAt(one)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	stats, err := inside.LinkStats("eth0")
	if err != nil || stats.RxBytes == 0 || stats.TxPackets == 0 {
		t.Errorf("eth0: %+v, %v; want counters above zero", stats, err)
	}
	if _, err := inside.LinkStats("eth7"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent link: %v; want fs.ErrNotExist", err)
	}
}

func TestInUse(t *testing.T) {
	host := openHost(t)
	bridge(t, host)
	run(t, "ip", "link", "add", "sbtv0", "type", "veth", "peer", "name", "sbtv1")
	defer run(t, "ip", "link", "del", "sbtv0")
	run(t, "ip", "addr", "add", "172.31.5.1/24", "dev", "sbtv0")
	run(t, "ip", "link", "set", "sbtv0", "up", "mtu", "1280")
	run(t, "ip", "link", "set", "sbtv1", "up")
	run(t, "ip", "route", "add", "10.200.0.0/16", "via", "172.31.5.2")
	run(t, "ip", "route", "add", "default", "via", "172.31.5.2")
	used, err := host.InUse(testBridge)
	if err != nil {
		t.Fatal(err)
	}
	overlaps := func(s string) bool {
		for _, u := range used {
			if u.Overlaps(netip.MustParsePrefix(s)) {
				return true
			}
		}
		return false
	}
	if !overlaps("172.31.0.0/16") || !overlaps("10.200.7.0/24") {
		t.Errorf("InUse = %v; want the address's and the route's subnet", used)
	}
	if overlaps("10.89.0.0/16") {
		t.Errorf("InUse = %v: holds the bridge's own subnet or the default route", used)
	}
	if mtu, err := host.DefaultMTU(); err != nil || mtu != 1280 {
		t.Errorf("DefaultMTU = %d, %v; want 1280", mtu, err)
	}
}

// echoPeer tells each client the address that it came from.
func echoPeer(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, c.RemoteAddr().String())
		c.Close()
	}
}

func dial(t testing.TB, address string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp4", address, 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func dialFrom(t testing.TB, ns *os.File, address string) (answer string) {
	t.Helper()
	inNamespace(t, ns, func() error {
		c, err := net.DialTimeout("tcp4", address, 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(3 * time.Second))
		b, err := io.ReadAll(c)
		answer = string(b)
		return err
	})
	return answer
}

// BenchmarkAttach is all that the kernel does to connect one container.
func BenchmarkAttach(b *testing.B) {
	host := openHost(b)
	bridge(b, host)
	for b.Loop() {
		b.StopTimer()
		ns := newNamespace(b)
		b.StartTimer()
		if err := host.AddVeth(Veth{Name: "sbtbench", Bridge: testBridge, Peer: "eth0", PeerNS: ns, MTU: 1400}, nil); err != nil {
			b.Fatal(err)
		}
		inside, err := OpenAt(ns)
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(inside.LoopbackUp(nil), inside.Configure("eth0", netip.MustParsePrefix("10.89.0.2/16"), testGateway.Addr(), nil)); err != nil {
			b.Fatal(err)
		}
		inside.Close()
		b.StopTimer()
		if err := host.DeleteLink("sbtbench", nil); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkDetach is the removal of a veth pair.
func BenchmarkDetach(b *testing.B) {
	host := openHost(b)
	bridge(b, host)
	for b.Loop() {
		b.StopTimer()
		ns := newNamespace(b)
		if err := host.AddVeth(Veth{Name: "sbtbench", Bridge: testBridge, Peer: "eth0", PeerNS: ns, MTU: 1400}, nil); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := host.DeleteLink("sbtbench", nil); err != nil {
			b.Fatal(err)
		}
	}
}
