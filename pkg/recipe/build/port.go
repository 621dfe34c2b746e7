package build

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// parsePort reads PORT[-PORT][/PROTOCOL] of EXPOSE. Like Docker it also takes,
// and forgets, what -p has before that.
func parsePort(s string) (from, to int, protocol string, err error) {
	ports, protocol, ok := strings.Cut(s, "/")
	protocol = strings.ToLower(protocol)
	if !ok || protocol == "" {
		protocol = "tcp"
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
		return 0, 0, "", fmt.Errorf("protocol %q is none of tcp, udp and sctp", protocol)
	}
	if i := strings.LastIndexByte(ports, ':'); i >= 0 {
		ports = ports[i+1:]
	}
	first, last, isRange := strings.Cut(ports, "-")
	if from, err = parsePortNumber(first); err != nil || !isRange {
		return from, from, protocol, err
	}
	if to, err = parsePortNumber(last); err == nil && to < from {
		err = errors.New("the range ends before it begins")
	}
	return from, to, protocol, err
}

// maxPorts is how many ports one build may name: as many as there are.
const maxPorts = 3 << 16

// expose adds ports to those of the image.
func (d *dispatcher) expose(s string) error {
	from, to, protocol, err := parsePort(s)
	if err == nil {
		if d.p.ports += to - from + 1; d.p.ports > maxPorts {
			err = errors.New("these are more ports than there are")
		}
	}
	if err != nil {
		return fmt.Errorf("port %s: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	config := &d.s.config.Config
	for p := from; p <= to; p++ {
		config.ExposedPorts = withMember(config.ExposedPorts, strconv.Itoa(p)+"/"+protocol)
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
