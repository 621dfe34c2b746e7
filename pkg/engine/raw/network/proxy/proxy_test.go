package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// container is an address that plays the container's.
const container = "127.0.5.1"

func listen(t *testing.T, ports ...api.PortMapping) *Proxy {
	t.Helper()
	p, err := Listen(ports, container)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// serveTCP runs handle for each connection to the container, and returns its port.
func serveTCP(t *testing.T, handle func(net.Conn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", container+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { handle(c); c.Close() }()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func dial(t *testing.T, network, host string, port uint16) net.Conn {
	t.Helper()
	c, err := net.Dial(network, net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// hosts are the addresses that a port without host IP must answer on.
func hosts() []string {
	hosts := []string{"127.0.0.1", "127.0.0.9"}
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		l.Close()
		hosts = append(hosts, "::1")
	}
	return hosts
}

func TestTCP(t *testing.T) {
	// It answers only when the client has ended its side: half-close.
	port := serveTCP(t, func(c net.Conn) {
		b, _ := io.ReadAll(c)
		c.Write(bytes.ToUpper(b))
	})
	p := listen(t, api.PortMapping{Protocol: "tcp", ContainerPort: port})
	taken := p.Ports()[0].HostPort
	if taken == 0 {
		t.Fatal("no host port chosen")
	}
	for _, host := range hosts() {
		t.Run(host, func(t *testing.T) {
			c := dial(t, "tcp", host, taken)
			payload := []byte(strings.Repeat("sandbox ", 1<<17)) // 1 MiB
			go func() {
				c.Write(payload)
				c.(*net.TCPConn).CloseWrite()
			}()
			b, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(b, bytes.ToUpper(payload)) {
				t.Errorf("got %d bytes, %v; want %d", len(b), err, len(payload))
			}
		})
	}
}

func TestTCPParallel(t *testing.T) {
	port := serveTCP(t, func(c net.Conn) { io.Copy(c, c) })
	taken := listen(t, api.PortMapping{Protocol: "tcp", ContainerPort: port}).Ports()[0].HostPort
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", taken))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			want := make([]byte, 1+rand.IntN(200_000))
			go func() { c.Write(want); c.(*net.TCPConn).CloseWrite() }()
			if got, err := io.ReadAll(c); err != nil || len(got) != len(want) {
				t.Errorf("echoed %d of %d bytes: %v", len(got), len(want), err)
			}
		})
	}
	wg.Wait()
}

func TestTCPRefused(t *testing.T) {
	p := listen(t, api.PortMapping{Protocol: "tcp", ContainerPort: 1})
	c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", p.Ports()[0].HostPort))
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read from a port that nobody serves: %v; want a reset", err)
	}
}

func TestTCPReset(t *testing.T) {
	gone := make(chan error, 1)
	port := serveTCP(t, func(c net.Conn) {
		_, err := io.Copy(io.Discard, c)
		gone <- err
	})
	p := listen(t, api.PortMapping{Protocol: "tcp", ContainerPort: port})
	c := dial(t, "tcp4", "127.0.0.1", p.Ports()[0].HostPort)
	c.Write([]byte("x"))
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("the container's side outlives the client's")
	}
}

func TestCloseEndsConnections(t *testing.T) {
	port := serveTCP(t, func(c net.Conn) { io.Copy(c, c) })
	p, err := Listen([]api.PortMapping{{Protocol: "tcp", ContainerPort: port}, {Protocol: "udp", ContainerPort: port}}, container)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, "tcp4", "127.0.0.1", p.Ports()[0].HostPort)
	c.Write([]byte("x"))
	io.ReadFull(c, make([]byte, 1))
	u := dial(t, "udp4", "127.0.0.1", p.Ports()[1].HostPort)
	u.Write([]byte("x"))
	done := make(chan error)
	go func() { done <- p.Close() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Close does not return while a connection is open")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("connection is open after Close")
	}
	if err := p.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestUDP(t *testing.T) {
	server, err := net.ListenPacket("udp4", container+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		b := make([]byte, maxDatagram)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			server.WriteTo(bytes.ToUpper(b[:n]), from)
		}
	}()
	p := listen(t, api.PortMapping{Protocol: "udp", ContainerPort: uint16(server.LocalAddr().(*net.UDPAddr).Port)})
	for _, host := range hosts() {
		// Connected sockets take answers only from the address they wrote to.
		t.Run(host, func(t *testing.T) {
			one, two := dial(t, "udp", host, p.Ports()[0].HostPort), dial(t, "udp", host, p.Ports()[0].HostPort)
			big := strings.Repeat("b", 9000)
			one.Write([]byte(big))
			two.Write([]byte("two"))
			for c, want := range map[net.Conn]string{one: strings.ToUpper(big), two: "TWO"} {
				b := make([]byte, maxDatagram)
				if n, err := c.Read(b); err != nil || string(b[:n]) != want {
					t.Errorf("answer of %d bytes, %v; want %d", n, err, len(want))
				}
			}
		})
	}
}

func TestUDPEmptyDatagramAndLateServer(t *testing.T) {
	server, err := net.ListenPacket("udp4", container+":0")
	if err != nil {
		t.Fatal(err)
	}
	address := server.LocalAddr()
	server.Close()
	p := listen(t, api.PortMapping{Protocol: "udp", ContainerPort: uint16(address.(*net.UDPAddr).Port)})
	c := dial(t, "udp4", "127.0.0.1", p.Ports()[0].HostPort)
	c.Write([]byte("early")) // refused
	time.Sleep(20 * time.Millisecond)
	if server, err = net.ListenPacket("udp4", address.String()); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c.Write(nil)
	server.SetDeadline(time.Now().Add(5 * time.Second))
	n, from, err := server.ReadFrom(make([]byte, 16))
	if err != nil || n != 0 {
		t.Fatalf("got %d bytes, %v; want an empty datagram", n, err)
	}
	server.WriteTo(nil, from)
	server.WriteTo([]byte("after"), from)
	b := make([]byte, 16)
	if n, err := c.Read(b); err != nil || n != 0 {
		t.Errorf("got %d bytes, %v; want an empty datagram", n, err)
	}
	if n, err := c.Read(b); err != nil || string(b[:n]) != "after" {
		t.Errorf("got %q, %v", b[:n], err)
	}
}

func TestUDPIdle(t *testing.T) {
	target, _ := parseAddr(container)
	target.port = 9
	f, port, err := bind("udp", addr{bytes: [16]byte{127, 0, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	r := newRelay(f, false, target, 50*time.Millisecond)
	done := make(chan struct{})
	go func() { r.serve(); close(done) }()
	flows := func() int { r.mu.Lock(); defer r.mu.Unlock(); return len(r.flows) }
	dial(t, "udp4", "127.0.0.1", port).Write([]byte("x"))
	deadline := time.Now().Add(5 * time.Second)
	for flows() == 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	for flows() != 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if flows() != 0 {
		t.Error("an idle flow stays")
	}
	r.close()
	<-done
}

func TestConflict(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := uint16(l.Addr().(*net.TCPAddr).Port)
	before := openFiles(t)
	for _, hostIP := range []string{"", "0.0.0.0", "127.0.0.1"} {
		_, err := Listen([]api.PortMapping{
			{Protocol: "tcp", ContainerPort: 80},
			{Protocol: "tcp", HostIP: hostIP, HostPort: taken, ContainerPort: 80},
		}, container)
		if !errdefs.IsConflict(err) {
			t.Fatalf("Listen on a port in use: %v; want a conflict", err)
		}
		if want := fmt.Sprintf("proxy.test (pid %d)", os.Getpid()); !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %s", err, want)
		}
		t.Log(err)
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors open after failures, %d before", after, before)
	}
	listen(t, api.PortMapping{Protocol: "tcp", HostIP: "127.0.0.2", HostPort: taken, ContainerPort: 80})
	listen(t, api.PortMapping{Protocol: "udp", HostPort: taken, ContainerPort: 80})
}

// BenchmarkTCP is how fast bytes pass.
func BenchmarkTCP(b *testing.B) {
	l, err := net.Listen("tcp4", container+":0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.Copy(io.Discard, c)
		c.Close()
	}()
	p, err := Listen([]api.PortMapping{{Protocol: "tcp", ContainerPort: uint16(l.Addr().(*net.TCPAddr).Port)}}, container)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", p.Ports()[0].HostPort))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	chunk := make([]byte, 1<<20)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := c.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func FuzzParseAddr(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "::", "::1", "fe80::1:2", "1:2:3:4:5:6:7:8", "1::8", "01.2.3.4", "1:2", ":::", "256.1.1.1", "1:2:3:4:5:6:7::", "", ":", "1::2::3", "+1::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseAddr(s)
		want, wantErr := netip.ParseAddr(s)
		if strings.Contains(s, ":") && strings.ContainsAny(s, ".%") {
			return // forms that it does without
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("parseAddr(%q): %v; netip: %v", s, err, wantErr)
		}
		if err == nil && !bytes.Equal(got.ip(), want.AsSlice()) {
			t.Fatalf("parseAddr(%q) = %v; want %v", s, got.ip(), want)
		}
	})
}
