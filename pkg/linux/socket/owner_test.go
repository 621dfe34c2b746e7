package socket

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"testing"
)

func TestListener(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	any6, err := net.Listen("tcp", ":0") // [::], which takes IPv4's port too
	if err != nil {
		t.Fatal(err)
	}
	defer any6.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	port := func(a net.Addr) uint16 {
		switch a := a.(type) {
		case *net.TCPAddr:
			return uint16(a.Port)
		case *net.UDPAddr:
			return uint16(a.Port)
		}
		return 0
	}
	for _, c := range []struct {
		name, protocol string
		ip             []byte
		addr           net.Addr
		found          bool
	}{
		{"its address", "tcp", []byte{127, 0, 0, 2}, tcp.Addr(), true},
		{"any address", "tcp", nil, tcp.Addr(), true},
		{"0.0.0.0", "tcp", make([]byte, 4), tcp.Addr(), true},
		{"another address", "tcp", []byte{127, 0, 0, 3}, tcp.Addr(), false},
		{"another protocol", "udp", []byte{127, 0, 0, 2}, tcp.Addr(), false},
		{"dual stack", "tcp", []byte{127, 0, 0, 1}, any6.Addr(), true},
		{"udp", "udp", []byte{127, 0, 0, 1}, udp.LocalAddr(), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Listener("/proc", c.protocol, c.ip, port(c.addr))
			if c.found && (err != nil || p.PID != os.Getpid() || p.Name != "socket.test") {
				t.Errorf("Listener = %v, %v; want this process", p, err)
			}
			if !c.found && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Listener = %v, %v; want fs.ErrNotExist", p, err)
			}
		})
	}
}
