package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

const (
	hostOutside = "198.51.100.1" // the host's address on the internet
	internet    = "198.51.100.2" // somebody else's
)

// newInternet connects a further namespace to the host, which plays
// everything outside. It knows a way to the containers' subnet, as a machine
// on the same LAN might.
func newInternet(t testing.TB) *os.File {
	t.Helper()
	ns := newNamespace(t)
	run(t, "ip", "link", "add", "sbtwan", "type", "veth", "peer", "name", "sbtwan1")
	t.Cleanup(func() { run(t, "ip", "link", "del", "sbtwan") })
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd())
	run(t, "ip", "link", "set", "sbtwan1", "netns", path)
	run(t, "ip", "addr", "add", hostOutside+"/24", "dev", "sbtwan")
	run(t, "ip", "link", "set", "sbtwan", "up")
	run(t, "ip", "link", "set", "lo", "up")
	inNamespace(t, ns, func() error {
		for _, args := range [][]string{
			{"addr", "add", internet + "/24", "dev", "sbtwan1"},
			{"link", "set", "sbtwan1", "up"},
			{"link", "set", "lo", "up"},
			{"route", "add", testSubnet.String(), "via", hostOutside},
		} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %v: %w: %s", args, err, out)
			}
		}
		return nil
	})
	return ns
}

// backends are the firewalls that work on this machine.
func backends(t testing.TB) map[string]*Firewall {
	t.Helper()
	tools := findIPTables()
	all := map[string]*Firewall{}
	if err := (&nftRules{bridge: testBridge, subnet: testSubnet}).probe(); err != nil {
		t.Logf("no %s here: %v", NFTables, err)
	} else {
		all[NFTables] = &Firewall{Backend: NFTables, nat: &nftRules{bridge: testBridge, subnet: testSubnet}}
		if tool := tools[IPTablesNFT]; tool != nil {
			all[NFTables].filters = []rules{&iptRules{tool: tool, bridge: testBridge, subnet: testSubnet, filterOnly: true}}
		}
	}
	for name, tool := range tools {
		if err := tool.probe(); err != nil {
			t.Logf("no %s here: %v", name, err)
			continue
		}
		all[name] = &Firewall{Backend: name, nat: &iptRules{tool: tool, bridge: testBridge, subnet: testSubnet}}
	}
	if len(all) == 0 {
		t.Skip("no packet filter on this host")
	}
	return all
}

// ruleset is everything in the packet filter of this namespace, without
// counters.
func ruleset(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, cmd := range []string{"iptables-legacy-save", "iptables-nft-save"} {
		if _, err := exec.LookPath(cmd); err == nil {
			for line := range strings.Lines(run(t, cmd)) {
				if strings.HasPrefix(line, "-") || strings.HasPrefix(line, ":SANDBOX") || strings.HasPrefix(line, ":DOCKER") {
					b.WriteString(line)
				}
			}
		}
	}
	if _, err := exec.LookPath("nft"); err == nil {
		if out, err := exec.Command("nft", "list", "table", "ip", Label).Output(); err == nil {
			b.Write(out)
		}
	}
	return b.String()
}

func TestFirewall(t *testing.T) {
	needRoot(t)
	for name, fw := range backends(t) {
		t.Run(name, func(t *testing.T) { testFirewall(t, fw) })
	}
}

func testFirewall(t *testing.T, fw *Firewall) {
	host := openHost(t)
	before := ruleset(t)
	bridge(t, host)
	wan := newInternet(t)
	one := attach(t, host, "sbtone", "10.89.0.2", nil)
	two := attach(t, host, "sbttwo", "10.89.0.3", nil)
	if err := errors.Join(EnableForwarding(nil), host.SetHairpin("sbtone", nil)); err != nil {
		t.Fatal(err)
	}
	serve(t, wan, ":80")
	serve(t, one, ":80")

	// A host with Docker on it: nothing is forwarded unless accepted.
	filter := "iptables-nft"
	if fw.Backend == IPTablesLegacy {
		filter = "iptables-legacy"
	}
	if _, err := exec.LookPath(filter); err == nil {
		run(t, filter, "-P", "FORWARD", "DROP")
		run(t, filter, "-P", "INPUT", "DROP")
		run(t, filter, "-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
		t.Cleanup(func() {
			run(t, filter, "-P", "FORWARD", "ACCEPT")
			run(t, filter, "-P", "INPUT", "ACCEPT")
			run(t, filter, "-F", "INPUT")
			if after := ruleset(t); after != before {
				t.Errorf("packet filter afterwards:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
	var events []explain.Event
	trace := explain.New("test", os.Getpid(), func(ev explain.Event) { events = append(events, ev) })
	if err := fw.Ensure(trace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveFirewall(nil); err != nil {
			t.Error(err)
		}
	})
	for _, ev := range events {
		t.Logf("%s %s %s", ev.Op, ev.Target, ev.Value)
	}
	t.Logf("%s", ruleset(t))

	t.Run("masquerade", func(t *testing.T) {
		if from := dialFrom(t, one, internet+":80"); !strings.HasPrefix(from, hostOutside+":") {
			t.Errorf("the internet saw %s; want the host's address %s", from, hostOutside)
		}
	})
	t.Run("unpublished", func(t *testing.T) {
		if canDial(wan, "10.89.0.2:80") {
			t.Error("the internet reached a port that is not published")
		}
	})

	host8080 := netip.MustParseAddrPort("0.0.0.0:8080")
	onlyOutside := netip.MustParseAddrPort(hostOutside + ":8081")
	ports := []Forward{
		{"tcp", host8080, netip.MustParseAddrPort("10.89.0.2:80")},
		{"tcp", onlyOutside, netip.MustParseAddrPort("10.89.0.2:80")},
		{"udp", host8080, netip.MustParseAddrPort("10.89.0.2:53")},
		{"tcp", netip.MustParseAddrPort("127.0.0.1:8082"), netip.MustParseAddrPort("10.89.0.2:80")},
	}
	if err := fw.Publish("0123456789ab", ports, nil); err != nil {
		t.Fatal(err)
	}
	if owners, err := fw.Owners(); err != nil || !slices.Equal(owners, []string{"0123456789ab"}) {
		t.Errorf("owners = %v, %v", owners, err)
	}
	for _, nf := range []string{"0", "1"} {
		const sysctl = "/proc/sys/net/bridge/bridge-nf-call-iptables"
		if err := os.WriteFile(sysctl, []byte(nf), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		t.Run("published/br_netfilter="+nf, func(t *testing.T) {
			if from := dialFrom(t, wan, hostOutside+":8080"); !strings.HasPrefix(from, internet+":") {
				t.Errorf("container saw %s; want the client's own address %s", from, internet)
			}
			dialFrom(t, wan, hostOutside+":8081")
			if from := dialFrom(t, two, hostOutside+":8080"); !strings.HasPrefix(from, "10.89.0.1:") {
				t.Errorf("neighbour came from %s; want the gateway's address", from)
			}
			dialFrom(t, one, hostOutside+":8080") // itself, by way of the host
			dialFrom(t, two, "10.89.0.1:8080")
			dialFrom(t, two, "10.89.0.2:80")
			dial(t, hostOutside+":8080")
			if canDial(two, "10.89.0.1:8081") {
				t.Error("a port published on one address answers on another")
			}
		})
	}
	t.Run("udp", func(t *testing.T) { testUDP(t, one, wan) })

	// The shared rules can be repaired under way without losing published ports.
	if err := fw.Ensure(nil); err != nil {
		t.Fatal(err)
	}
	dialFrom(t, wan, hostOutside+":8080")
	again := ruleset(t)
	if err := fw.Ensure(nil); err != nil {
		t.Fatal(err)
	}
	if now := ruleset(t); now != again {
		t.Errorf("a second Ensure changed the rules:\n%s\nwere:\n%s", now, again)
	}

	if err := fw.Unpublish("other", nil); err != nil {
		t.Error(err)
	}
	dialFrom(t, wan, hostOutside+":8080")
	if err := fw.Unpublish("0123456789ab", nil); err != nil {
		t.Error(err)
	}
	if canDial(wan, hostOutside+":8080") || canDial(wan, hostOutside+":8081") {
		t.Error("port answers after Unpublish")
	}
	if owners, err := fw.Owners(); err != nil || len(owners) > 0 {
		t.Errorf("owners after Unpublish = %v, %v", owners, err)
	}
}

// testUDP sends before the port is published too, so that the kernel
// remembers the flow as one to the host itself.
func testUDP(t *testing.T, container, wan *os.File) {
	var server net.PacketConn
	inNamespace(t, container, func() (err error) { server, err = net.ListenPacket("udp4", ":53"); return err })
	defer server.Close()
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			server.WriteTo(b[:n], from)
		}
	}()
	var client net.Conn
	inNamespace(t, wan, func() (err error) { client, err = net.Dial("udp4", hostOutside+":8080"); return err })
	defer client.Close()
	client.SetDeadline(time.Now().Add(3 * time.Second))
	client.Write([]byte("hello"))
	b := make([]byte, 16)
	if n, err := client.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("udp answer %q, %v", b[:n], err)
	}
}

func TestForgetFlows(t *testing.T) {
	needRoot(t)
	fws := backends(t)
	fw := fws[NFTables]
	if fw == nil {
		fw = fws[IPTablesLegacy]
	}
	host := openHost(t)
	bridge(t, host)
	wan := newInternet(t)
	one := attach(t, host, "sbtone", "10.89.0.2", nil)
	if err := errors.Join(EnableForwarding(nil), fw.Ensure(nil)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { RemoveFirewall(nil) })
	var server net.PacketConn
	inNamespace(t, one, func() (err error) { server, err = net.ListenPacket("udp4", ":53"); return err })
	defer server.Close()
	// Something on the host that takes the first packet, as our proxy would.
	sink, err := net.ListenPacket("udp4", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	var client net.Conn
	inNamespace(t, wan, func() (err error) { client, err = net.Dial("udp4", hostOutside+":8080"); return err })
	defer client.Close()
	client.Write([]byte("before"))
	time.Sleep(50 * time.Millisecond)
	if err := fw.Publish("x", []Forward{{"udp", netip.MustParseAddrPort("0.0.0.0:8080"), netip.MustParseAddrPort("10.89.0.2:53")}}, nil); err != nil {
		t.Fatal(err)
	}
	client.Write([]byte("after"))
	server.SetDeadline(time.Now().Add(3 * time.Second))
	b := make([]byte, 16)
	if n, _, err := server.ReadFrom(b); err != nil || string(b[:n]) != "after" {
		t.Errorf("container got %q, %v; want the packet sent after publishing", b[:n], err)
	}
}

func TestOpenFirewall(t *testing.T) {
	needRoot(t)
	before := ruleset(t)
	fw, err := OpenFirewall(testBridge, testSubnet)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("backend %s, %d further filters, warnings %q", fw.Backend, len(fw.filters), fw.Warnings)
	if after := ruleset(t); after != before {
		t.Errorf("choosing a backend left behind:\n%s", after)
	}
	if _, err := exec.LookPath("iptables-legacy"); err != nil {
		t.Skip("no iptables-legacy")
	}
	// Somebody else's legacy rules decide it.
	run(t, "iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-s", "203.0.113.0/24", "-j", "MASQUERADE")
	defer run(t, "iptables-legacy", "-t", "nat", "-F")
	fw, err = OpenFirewall(testBridge, testSubnet)
	if err != nil {
		t.Fatal(err)
	}
	if fw.Backend != IPTablesLegacy {
		t.Errorf("backend beside legacy rules = %s; want %s", fw.Backend, IPTablesLegacy)
	}
}

func TestIntact(t *testing.T) {
	needRoot(t)
	nft := &Firewall{Backend: NFTables, nat: &nftRules{bridge: testBridge, subnet: testSubnet}}
	if err := nft.nat.(*nftRules).probe(); err != nil {
		t.Skip("no nftables NAT in this kernel: ", err)
	}
	for _, want := range []bool{false, true, false} {
		if ok := nft.Intact(); ok != want {
			t.Errorf("Intact = %t; want %t", ok, want)
		}
		if want {
			RemoveFirewall(nil)
		} else if err := nft.Ensure(nil); err != nil {
			t.Fatal(err)
		}
	}
	RemoveFirewall(nil)
}

func serve(t testing.TB, ns *os.File, address string) {
	t.Helper()
	var l net.Listener
	inNamespace(t, ns, func() (err error) { l, err = net.Listen("tcp4", address); return err })
	t.Cleanup(func() { l.Close() })
	go echoPeer(l)
}

// canDial reports whether a connection from ns succeeds within half a second.
func canDial(ns *os.File, address string) bool {
	ok := make(chan bool, 1)
	go func() {
		ok <- tryDial(ns, address) == nil
	}()
	return <-ok
}
