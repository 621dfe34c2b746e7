package proxy

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// addr is an IP address and a port. IPv4 uses the first four bytes. It can be
// a key of a map.
type addr struct {
	v6    bool
	bytes [16]byte
	port  uint16
}

func (a addr) ip() []byte {
	if a.v6 {
		return a.bytes[:]
	}
	return a.bytes[:4]
}

func (a addr) sockaddr() unix.Sockaddr {
	if a.v6 {
		return &unix.SockaddrInet6{Addr: a.bytes, Port: int(a.port)}
	}
	return &unix.SockaddrInet4{Addr: [4]byte(a.bytes[:4]), Port: int(a.port)}
}

func (a addr) family() int {
	if a.v6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func fromSockaddr(sa unix.Sockaddr) (a addr) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		copy(a.bytes[:], sa.Addr[:])
		a.port = uint16(sa.Port)
	case *unix.SockaddrInet6:
		a.v6, a.bytes, a.port = true, sa.Addr, uint16(sa.Port)
	}
	return a
}

// parseAddr reads an IPv4 address, or an IPv6 one in the forms of RFC 4291
// section 2.2 without an embedded IPv4 address or a zone.
func parseAddr(s string) (a addr, err error) {
	if a.v6 = strings.Contains(s, ":"); !a.v6 {
		parts := strings.Split(s, ".")
		if len(parts) != 4 {
			return a, badAddr(s)
		}
		for i, part := range parts {
			n, err := strconv.ParseUint(part, 10, 8)
			if err != nil || len(part) > 1 && part[0] == '0' {
				return a, badAddr(s)
			}
			a.bytes[i] = byte(n)
		}
		return a, nil
	}
	head, tail, gap := strings.Cut(s, "::")
	front, err1 := parseGroups(head)
	back, err2 := parseGroups(tail)
	if n := len(front) + len(back); errors.Join(err1, err2) != nil || !gap && n != 16 || gap && n > 14 {
		return a, badAddr(s)
	}
	copy(a.bytes[:], front)
	copy(a.bytes[16-len(back):], back)
	return a, nil
}

func parseGroups(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var b []byte
	for group := range strings.SplitSeq(s, ":") {
		n, err := strconv.ParseUint(group, 16, 16)
		if err != nil || len(group) > 4 {
			return nil, badAddr(s)
		}
		b = append(b, byte(n>>8), byte(n))
	}
	return b, nil
}

func badAddr(s string) error { return fmt.Errorf("%q is not an IP address", s) }

// bind makes a socket that is bound to a and, for TCP, listens. Port 0 takes
// any free one; the port is returned.
func bind(protocol string, a addr) (_ *os.File, port uint16, err error) {
	kind := unix.SOCK_STREAM
	if protocol == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(a.family(), kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	options := [][2]int{}
	if protocol == "udp" {
		// A host has many addresses: an answer must come from the one that
		// the question went to.
		if a.v6 {
			options = append(options, [2]int{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO})
		} else {
			options = append(options, [2]int{unix.IPPROTO_IP, unix.IP_PKTINFO})
		}
	} else {
		// Connections of an earlier listener that linger in TIME_WAIT do not
		// matter (socket(7)); for UDP it would let two take one port.
		options = append(options, [2]int{unix.SOL_SOCKET, unix.SO_REUSEADDR})
	}
	if a.v6 {
		options = append(options, [2]int{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o[0], o[1], 1); err != nil {
			return nil, 0, fmt.Errorf("setsockopt: %w", err)
		}
	}
	if err := unix.Bind(fd, a.sockaddr()); err != nil {
		return nil, 0, err
	}
	if protocol != "udp" {
		if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
			return nil, 0, err
		}
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return nil, 0, fmt.Errorf("getsockname: %w", err)
	}
	return os.NewFile(uintptr(fd), protocol+" listener"), fromSockaddr(bound).port, nil
}
