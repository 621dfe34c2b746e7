package build

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// portRange is a word of EXPOSE.
type portRange struct {
	from, to  int
	protocol  string
	published bool // it also says where on the host, which is forgotten
}

// parsePort reads PORT[-PORT][/PROTOCOL] of EXPOSE. Like Docker it also takes
// what -p has before that: [[IP:]PORT[-PORT]:].
func parsePort(s string) (r portRange, err error) {
	host, ports := "", s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		host, ports = s[:i], s[i+1:]
	}
	ports, protocol, _ := strings.Cut(ports, "/")
	if r.protocol = strings.ToLower(protocol); r.protocol == "" {
		r.protocol = "tcp"
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, r.protocol) {
		return r, fmt.Errorf("protocol %q is none of tcp, udp and sctp", r.protocol)
	}
	if r.from, r.to, err = parsePortNumbers(ports); err != nil {
		return r, err
	}
	ip, published := "", host
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		ip, published = host[:i], host[i+1:]
	}
	if r.published = ip != "" || published != ""; published != "" {
		from, to, err := parsePortNumbers(published)
		if err != nil {
			return r, fmt.Errorf("on the host: %w", err)
		}
		if r.from != r.to && to-from != r.to-r.from {
			return r, errors.New("there are not as many ports on the host")
		}
	}
	if inner, ok := strings.CutPrefix(ip, "["); ok && strings.HasSuffix(inner, "]") {
		ip = strings.TrimSuffix(inner, "]")
	}
	if ip != "" && net.ParseIP(ip) == nil {
		return r, fmt.Errorf("%q is no IP address", ip)
	}
	return r, nil
}

func parsePortNumbers(s string) (from, to int, err error) {
	first, last, isRange := strings.Cut(s, "-")
	if from, err = parsePortNumber(first); err != nil || !isRange {
		return from, from, err
	}
	if to, err = parsePortNumber(last); err == nil && to < from {
		err = errors.New("the range ends before it begins")
	}
	return from, to, err
}

// maxPorts is how many ports one build may name: as many as there are.
const maxPorts = 3 << 16

// expose adds ports to those of the image.
func (d *dispatcher) expose(s string) error {
	r, err := parsePort(s)
	if err == nil {
		if d.p.ports += r.to - r.from + 1; d.p.ports > maxPorts {
			err = errors.New("these are more ports than there are")
		}
	}
	if err != nil {
		return fmt.Errorf("port %s: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	config := &d.s.config.Config
	for p := r.from; p <= r.to; p++ {
		config.ExposedPorts = withMember(config.ExposedPorts, strconv.Itoa(p)+"/"+r.protocol)
	}
	return nil
}

func parsePortNumber(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is no port number", s)
	}
	return int(n), nil
}

// validSignal accepts what signal(7) names, with or without SIG, and numbers.
func validSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return n > 0 && n <= 64
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if unix.SignalNum(name) != 0 || name == "SIGRTMIN" || name == "SIGRTMAX" {
		return true
	}
	// Real-time signals: 34 to 64 in a libc's numbering.
	up, isMin := strings.CutPrefix(name, "SIGRTMIN+")
	down, isMax := strings.CutPrefix(name, "SIGRTMAX-")
	n, err := strconv.Atoi(map[bool]string{true: up, false: down}[isMin])
	return (isMin || isMax) && err == nil && n >= 0 && n <= 30
}
