package proxy

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxDatagram is the largest UDP payload, in bytes, with room to spare.
const maxDatagram = 64 << 10

// relay is one published UDP port on one address. Each client gets a socket
// of its own towards the container, by whose port the answers find back.
type relay struct {
	file   *os.File
	v6     bool
	target addr
	idle   time.Duration

	mu     sync.Mutex
	closed bool
	flows  map[flowKey]*flow
	wg     sync.WaitGroup
}

// flowKey is a client, and the address of ours that it writes to.
type flowKey struct {
	client addr
	local  [16]byte
}

// flow is one client's datagrams.
type flow struct {
	server *os.File // connected to the container
	source []byte   // control message: send from the address the client knows
}

func newRelay(f *os.File, v6 bool, target addr, idle time.Duration) *relay {
	return &relay{file: f, v6: v6, target: target, idle: idle, flows: map[flowKey]*flow{}}
}

// serve passes clients' datagrams to the container.
func (r *relay) serve() {
	defer r.wg.Wait()
	raw, err := r.file.SyscallConn()
	if err != nil {
		return
	}
	buf, oob := make([]byte, maxDatagram), make([]byte, 128)
	for {
		var n, oobn int
		var from unix.Sockaddr
		var recvErr error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, from, recvErr = unix.Recvmsg(int(fd), buf, oob, 0)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		if recvErr != nil {
			continue // an ICMP error that an earlier answer of ours has caused
		}
		if f := r.flow(fromSockaddr(from), r.local(oob[:oobn])); f != nil {
			// A datagram that the container has no room for is lost, as any may be.
			_, _ = f.server.Write(buf[:n])
			_ = f.server.SetReadDeadline(time.Now().Add(r.idle))
		}
	}
}

// local reads the address that a datagram was sent to from its control
// message (ip(7), ipv6(7)).
func (r *relay) local(oob []byte) (ip [16]byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return ip
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&m.Data[0]))
			copy(ip[:], info.Spec_dst[:])
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			ip = (*unix.Inet6Pktinfo)(unsafe.Pointer(&m.Data[0])).Addr
		}
	}
	return ip
}

// flow returns the client's flow, a new one if need be; nil when there can be
// none.
func (r *relay) flow(client addr, local [16]byte) *flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := flowKey{client, local}
	if f := r.flows[key]; f != nil {
		return f
	}
	if r.closed || len(r.flows) >= maxFlows {
		return nil
	}
	fd, err := unix.Socket(r.target.family(), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	if err := unix.Connect(fd, r.target.sockaddr()); err != nil {
		unix.Close(fd)
		return nil
	}
	f := &flow{server: os.NewFile(uintptr(fd), "container")}
	if r.v6 {
		f.source = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: local})
	} else {
		f.source = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(local[:4])})
	}
	_ = f.server.SetReadDeadline(time.Now().Add(r.idle))
	r.flows[key] = f
	r.wg.Go(func() { r.answer(key, f) })
	return f
}

// answer passes the container's datagrams back to the flow's client, until
// none has passed either way for the idle time.
func (r *relay) answer(key flowKey, f *flow) {
	defer func() {
		r.mu.Lock()
		delete(r.flows, key)
		r.mu.Unlock()
		f.server.Close()
	}()
	raw, err := r.file.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, maxDatagram)
	to := key.client.sockaddr()
	for {
		n, err := f.server.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue // nobody listens in the container yet
		}
		// An empty datagram reads as an end of file, and is not one.
		if err != nil && err != io.EOF {
			return
		}
		_ = f.server.SetReadDeadline(time.Now().Add(r.idle))
		_ = raw.Write(func(fd uintptr) bool {
			return !errors.Is(unix.Sendmsg(int(fd), buf[:n], f.source, to, 0), unix.EAGAIN)
		})
	}
}

func (r *relay) close() error {
	r.mu.Lock()
	r.closed = true
	for _, f := range r.flows {
		f.server.Close()
	}
	r.mu.Unlock()
	return r.file.Close()
}
