package build

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// parsePort reads PORT[-PORT][/PROTOCOL] of EXPOSE. Like Docker it also takes,
// and forgets, what -p has before that.
func parsePort(s string) ([]string, error) {
	ports, protocol, ok := strings.Cut(s, "/")
	protocol = strings.ToLower(protocol)
	if !ok || protocol == "" {
		protocol = "tcp"
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
		return nil, fmt.Errorf("protocol %q is none of tcp, udp and sctp", protocol)
	}
	if i := strings.LastIndexByte(ports, ':'); i >= 0 {
		ports = ports[i+1:]
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	from, err := parsePortNumber(first)
	if err != nil {
		return nil, err
	}
	to, err := parsePortNumber(last)
	if err != nil {
		return nil, err
	}
	if to < from {
		return nil, errors.New("the range ends before it begins")
	}
	var out []string
	for p := from; p <= to; p++ {
		out = append(out, strconv.Itoa(p)+"/"+protocol)
	}
	return out, nil
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
