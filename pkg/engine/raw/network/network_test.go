package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/network/proxy"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/network"
)

// attach connects a new namespace as container number i.
func attach(t testing.TB, n *Network, i int, name string, trace *explain.Tracer) (*namespace, Endpoint) {
	t.Helper()
	ns := newNamespace(t)
	ep, err := n.Attach(context.Background(), EndpointConfig{ID: id(i), Name: name, NetNS: ns.path()}, trace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { detach(t, n, i) })
	return ns, ep
}

func detach(t testing.TB, n *Network, i int) {
	t.Helper()
	if err := n.Detach(context.Background(), id(i)); err != nil {
		t.Error(err)
	}
}

// serve answers each TCP connection to port 80 in ns with the client's address.
func serve(t testing.TB, ns *namespace) {
	t.Helper()
	var l net.Listener
	ns.in(t, func() (err error) { l, err = net.Listen("tcp4", ":80"); return err })
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, c.RemoteAddr().String())
			c.Close()
		}
	}()
}

// dial returns what a server answers; a nil ns means the host.
func dial(ns *namespace, address string) (answer string, err error) {
	return ask(ns, address, "")
}

// ask is dial for a server that wants to be asked.
func ask(ns *namespace, address, question string) (answer string, err error) {
	fn := func() error {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(3 * time.Second))
		io.WriteString(c, question)
		b, err := io.ReadAll(c)
		answer = string(b)
		return err
	}
	if ns == nil {
		return answer, fn()
	}
	err = ns.try(fn)
	return answer, err
}

func TestAttach(t *testing.T) {
	n := newNetwork(t)
	var mu sync.Mutex
	var ops []string
	trace := explain.New("engine", os.Getpid(), func(ev explain.Event) {
		mu.Lock()
		defer mu.Unlock()
		ops = append(ops, ev.Op)
		if ev.Source == "" || ev.Error != "" {
			t.Errorf("event %+v has no source, or an error", ev)
		}
	})
	one, ep := attach(t, n, 1, "one", nil)
	if ep.Address.String() != "10.89.0.2/16" || ep.Gateway.String() != "10.89.0.1" || ep.MAC.String() != "02:42:0a:59:00:02" || len(ep.Link) > network.MaxLinkName {
		t.Errorf("endpoint %+v", ep)
	}
	two, _ := attach(t, n, 2, "two", trace)
	want := []string{"link add", "link set master", "link set up", "link set up", "addr add", "link set up", "route add"}
	if !slices.Equal(ops, want) {
		t.Errorf("a second container made\n%v\nwant\n%v", ops, want)
	}
	serve(t, one)
	if from, err := dial(two, "10.89.0.2:80"); err != nil || !strings.HasPrefix(from, "10.89.0.3:") {
		t.Errorf("neighbour saw %q, %v", from, err)
	}
	if from, err := dial(nil, "10.89.0.2:80"); err != nil || !strings.HasPrefix(from, "10.89.0.1:") {
		t.Errorf("container saw the host as %q, %v", from, err)
	}
	if s, err := n.Stats(id(2)); err != nil || s.TxPackets == 0 || s.RxBytes == 0 {
		t.Errorf("stats %+v, %v", s, err)
	}

	// The same container again, as after a restart: its old namespace is gone,
	// or nearly so.
	three := newNamespace(t)
	again, err := n.Attach(context.Background(), EndpointConfig{ID: id(1), Name: "one", NetNS: three.path()}, nil)
	if err != nil || again.Address != ep.Address {
		t.Errorf("attached again: %+v, %v; want %s", again, err, ep.Address)
	}
}

func TestAttachFails(t *testing.T) {
	n := newNetwork(t)
	_, err := n.Attach(context.Background(), EndpointConfig{ID: id(1), Name: "x", NetNS: "/proc/self/nothing"}, nil)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Attach without a namespace: %v", err)
	}
	// eth0 is taken: the link cannot be made.
	ns := newNamespace(t)
	ns.in(t, func() error {
		run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
		return nil
	})
	if _, err := n.Attach(context.Background(), EndpointConfig{ID: id(1), Name: "x", NetNS: ns.path()}, nil); err == nil {
		t.Error("Attach over an existing eth0 succeeded")
	}
	// A port that the firewall does not take: everything must be undone.
	ok := newNamespace(t)
	_, err = n.Attach(context.Background(), EndpointConfig{
		ID: id(1), Name: "x", NetNS: ok.path(), Publish: []api.PortMapping{{HostIP: "nonsense", HostPort: 1, ContainerPort: 1, Protocol: "tcp"}},
	}, nil)
	if err == nil {
		t.Error("Attach with a hostile host IP succeeded")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := n.Up(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Up when cancelled: %v", err)
	}
	if leases, err := n.Leases(); err != nil || len(leases) > 0 {
		t.Errorf("leases after failures: %+v, %v", leases, err)
	}
	if links, _ := n.links.Links("veth"); len(links) > 0 {
		t.Errorf("links after failures: %v", links)
	}
}

func TestAttachConcurrently(t *testing.T) {
	n := newNetwork(t)
	var wg sync.WaitGroup
	for i := range 20 {
		ns := newNamespace(t)
		wg.Go(func() {
			if _, err := n.Attach(context.Background(), EndpointConfig{ID: id(i), Name: fmt.Sprint("c", i), NetNS: ns.path()}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	leases, err := n.Leases()
	if err != nil || len(leases) != 20 {
		t.Errorf("%d leases, %v; want 20", len(leases), err)
	}
	for i := range 20 {
		wg.Go(func() { detach(t, n, i) })
	}
	wg.Wait()
}

func TestPublish(t *testing.T) {
	n := newNetwork(t)
	one, ep := attach(t, n, 1, "one", nil)
	two, _ := attach(t, n, 2, "two", nil)
	serve(t, one)
	p, err := proxy.Listen([]api.PortMapping{{ContainerPort: 80, Protocol: "tcp"}}, ep.Address.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := n.Publish(context.Background(), id(1), p.Ports(), nil); err != nil {
		t.Fatal(err)
	}
	port := p.Ports()[0].HostPort
	for _, c := range []struct {
		from *namespace
		host string
	}{{nil, "127.0.0.1"}, {nil, "10.89.0.1"}, {nil, "::1"}, {one, "10.89.0.1"}, {two, "10.89.0.1"}} {
		if _, err := dial(c.from, net.JoinHostPort(c.host, fmt.Sprint(port))); err != nil {
			t.Errorf("%s, from a container: %t: %v", c.host, c.from != nil, err)
		}
	}
	if leases, _ := n.Leases(); len(leases) != 2 || !slices.Equal(leases[0].Ports, p.Ports()) {
		t.Errorf("leases %+v do not hold the ports", leases)
	}
	// Without the proxy only the kernel is left, and the other way round.
	p.Close()
	if _, err := dial(nil, fmt.Sprintf("10.89.0.1:%d", port)); err != nil {
		t.Errorf("by NAT alone: %v", err)
	}
	detach(t, n, 1)
	if _, err := dial(two, fmt.Sprintf("10.89.0.1:%d", port)); err == nil {
		t.Error("port answers after Detach")
	}
}

// TestRepair breaks what a learner might break, and brings it back with Up or
// with the next container.
func TestRepair(t *testing.T) {
	n := newNetwork(t)
	one, ep := attach(t, n, 1, "one", nil)
	serve(t, one)
	ports := []api.PortMapping{{HostPort: 18080, ContainerPort: 80, Protocol: "tcp"}}
	if err := n.Publish(context.Background(), id(1), ports, nil); err != nil {
		t.Fatal(err)
	}
	works := func(t *testing.T) {
		t.Helper()
		if _, err := dial(nil, ep.Address.Addr().String()+":80"); err != nil {
			t.Errorf("by its address: %v", err)
		}
		if _, err := dial(nil, "10.89.0.1:18080"); err != nil {
			t.Errorf("by the published port: %v", err)
		}
		if _, err := dial(one, "10.89.0.1:18080"); err != nil {
			t.Errorf("from the container itself: %v", err)
		}
	}
	works(t)
	up := func(t *testing.T) {
		if err := n.Up(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("bridge deleted", func(t *testing.T) {
		run(t, "ip", "link", "del", "sbtbr0")
		up(t)
		works(t)
	})
	t.Run("bridge deleted, then a container", func(t *testing.T) {
		run(t, "ip", "link", "del", "sbtbr0")
		attach(t, n, 3, "three", nil)
		works(t)
	})
	t.Run("link unplugged", func(t *testing.T) {
		run(t, "ip", "link", "set", ep.Link, "nomaster")
		up(t)
		works(t)
	})
	t.Run("rules flushed", func(t *testing.T) {
		if err := network.RemoveFirewall(nil); err != nil {
			t.Fatal(err)
		}
		if n.Status().Firewall == network.NFTables {
			attach(t, n, 4, "four", nil) // notices
		} else {
			up(t)
		}
		works(t)
	})
	t.Run("nothing to repair", func(t *testing.T) {
		up(t)
		var ops []string
		trace := explain.New("engine", 1, func(ev explain.Event) { ops = append(ops, ev.Op) })
		if err := n.Up(context.Background(), trace); err != nil {
			t.Fatal(err)
		}
		// The table is replaced as a whole; the kernel ends up where it was.
		ops = slices.DeleteFunc(ops, func(op string) bool { return op == "nft add table" })
		if len(ops) > 0 {
			t.Errorf("Up on a sound network made %v", ops)
		}
	})
	t.Run("another process", func(t *testing.T) {
		m, err := New(n.cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Up(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		if s := m.Status(); len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], fmt.Sprintf("(pid %d)", os.Getpid())) {
			t.Errorf("warnings %q; want one that names who has the name server's port", s.Warnings)
		}
		works(t)
	})
}

func TestSweep(t *testing.T) {
	n := newNetwork(t)
	for i := range 3 {
		ns := newNamespace(t)
		_, err := n.Attach(context.Background(), EndpointConfig{
			ID: id(i), Name: fmt.Sprint("c", i), NetNS: ns.path(),
			Publish: []api.PortMapping{{HostPort: uint16(18000 + i), ContainerPort: 80, Protocol: "tcp"}},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	// Somebody else's links stay, whatever they are called.
	run(t, "ip", "link", "add", "sbxother", "type", "veth", "peer", "name", "sbtpeer")
	defer run(t, "ip", "link", "del", "sbxother")
	// A lease whose container never came to be.
	if _, err := n.Reserve(context.Background(), EndpointConfig{ID: id(9), Name: "nine"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := n.Sweep(context.Background(), map[string]bool{id(1): true}); err != nil {
		t.Fatal(err)
	}
	leases, _ := n.Leases()
	owners, err := n.firewall.Owners()
	links, _ := n.links.Links("veth")
	slices.Sort(links)
	if len(leases) != 1 || leases[0].Container != id(1) || err != nil || !slices.Equal(owners, []string{shortID(id(1))}) ||
		!slices.Equal(links, []string{"sbtpeer", linkName(id(1)), "sbxother"}) {
		t.Errorf("after Sweep: leases %+v, owners %v (%v), links %v", leases, owners, err, links)
	}
	if err := n.Sweep(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
}

// TestDownLinks: the links of containers that are gone go with the bridge, not
// when the kernel comes to it; those of others stay.
func TestDownLinks(t *testing.T) {
	n := newNetwork(t)
	ns := newNamespace(t)
	if _, err := n.Attach(t.Context(), EndpointConfig{ID: id(1), Name: "one", NetNS: ns.path()}, nil); err != nil {
		t.Fatal(err)
	}
	gone, other := linkName(id(2)), linkName(id(3))
	run(t, "ip", "link", "add", gone, "master", n.cfg.Bridge, "type", "veth", "peer", "name", "sbtpeer2")
	run(t, "ip", "link", "add", other, "type", "veth", "peer", "name", "sbtpeer3")
	defer run(t, "ip", "link", "del", other)
	if err := n.Down(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	links, err := n.links.Links("veth")
	if err != nil || slices.Contains(links, gone) || !slices.Contains(links, other) || !slices.Contains(links, linkName(id(1))) {
		t.Errorf("links %v, %v", links, err)
	}
	if err := n.Up(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestChooseSubnet(t *testing.T) {
	n := newNetwork(t, "10.90.0.53")
	run(t, "ip", "link", "add", "sbtv0", "type", "veth", "peer", "name", "sbtv1")
	defer run(t, "ip", "link", "del", "sbtv0")
	run(t, "ip", "addr", "add", "10.89.3.1/24", "dev", "sbtv0")
	if err := n.Up(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if got := n.Status().Gateway; got != netip.MustParsePrefix("10.189.0.1/16") {
		t.Errorf("gateway %s; want one beside the host's 10.89.3.1 and its name server 10.90.0.53", got)
	}
}

func BenchmarkAttach(b *testing.B) {
	n := newNetwork(b)
	if err := n.Up(context.Background(), nil); err != nil {
		b.Fatal(err)
	}
	var attached, detached time.Duration
	i := 0
	for b.Loop() {
		i++
		b.StopTimer()
		ns := newNamespace(b)
		b.StartTimer()
		start := time.Now()
		if _, err := n.Attach(context.Background(), EndpointConfig{ID: id(i), Name: "bench", NetNS: ns.path()}, nil); err != nil {
			b.Fatal(err)
		}
		attached += time.Since(start)
		b.StopTimer()
		ns.end()
		b.StartTimer()
		start = time.Now()
		if err := n.Detach(context.Background(), id(i)); err != nil {
			b.Fatal(err)
		}
		detached += time.Since(start)
	}
	b.ReportMetric(float64(attached.Microseconds())/float64(i), "attach-µs/op")
	b.ReportMetric(float64(detached.Microseconds())/float64(i), "detach-µs/op")
}
