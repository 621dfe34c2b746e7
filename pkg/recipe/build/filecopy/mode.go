package filecopy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// mode changes permission bits as chmod(1) does; the zero mode changes nothing.
type mode struct {
	octal bool
	bits  uint32
	steps []modeStep
}

// modeStep is one operation of a symbolic mode, such as the "+x" of "u+x".
type modeStep struct {
	who  uint32 // mask of the bits that may change
	op   byte   // + - =
	perm string
}

// The bits of who, with those of set-user-ID, set-group-ID and sticky that go
// with them; see chmod(1).
const (
	whoUser  = 0o4700
	whoGroup = 0o2070
	whoOther = 0o0007
	whoAll   = 0o7777
)

// CheckMode reports what is wrong with a mode for Options.Chmod.
func CheckMode(s string) error {
	_, err := parseMode(s)
	return err
}

func parseMode(s string) (mode, error) {
	if s == "" {
		return mode{}, nil
	}
	if s[0] >= '0' && s[0] <= '9' {
		bits, err := strconv.ParseUint(s, 8, 32)
		if err != nil || bits > 0o7777 {
			return mode{}, fmt.Errorf("chmod %q: not an octal number from 0 to 7777: %w", s, errdefs.ErrInvalidArgument)
		}
		return mode{octal: true, bits: uint32(bits)}, nil
	}
	var m mode
	for clause := range strings.SplitSeq(s, ",") {
		steps, ok := parseClause(clause)
		if !ok {
			return mode{}, fmt.Errorf("chmod %q: %q is no symbolic mode such as u=rwX or go-w: %w", s, clause, errdefs.ErrInvalidArgument)
		}
		m.steps = append(m.steps, steps...)
	}
	return m, nil
}

func parseClause(s string) (steps []modeStep, ok bool) {
	n := strings.IndexAny(s, "+-=")
	if n < 0 {
		return nil, false
	}
	var who uint32
	for _, c := range s[:n] {
		switch c {
		case 'u':
			who |= whoUser
		case 'g':
			who |= whoGroup
		case 'o':
			who |= whoOther
		case 'a':
			who |= whoAll
		default:
			return nil, false
		}
	}
	if who == 0 {
		who = whoAll // there is no umask in an image
	}
	if who&0o777 == 0o777 {
		who = whoAll
	}
	for s = s[n:]; s != ""; {
		end := strings.IndexAny(s[1:], "+-=") + 1
		if end == 0 {
			end = len(s)
		}
		perm := s[1:end]
		if strings.Trim(perm, "rwxXst") != "" && perm != "u" && perm != "g" && perm != "o" {
			return nil, false
		}
		steps = append(steps, modeStep{who, s[0], perm})
		s = s[end:]
	}
	return steps, true
}

// apply returns the permission bits of a copy of what has the mode st_mode.
func (m mode) apply(st uint32) uint32 {
	bits := st & 0o7777
	if m.octal {
		return m.bits
	}
	for _, s := range m.steps {
		bits = s.apply(bits, st&unix.S_IFMT == unix.S_IFDIR)
	}
	return bits
}

func (s modeStep) apply(bits uint32, dir bool) uint32 {
	var set uint32
	for _, c := range s.perm {
		switch c {
		case 'r':
			set |= 0o444
		case 'w':
			set |= 0o222
		case 'x':
			set |= 0o111
		case 'X':
			if dir || bits&0o111 != 0 {
				set |= 0o111
			}
		case 's':
			set |= 0o6000
		case 't':
			set |= 0o1000
		case 'u':
			set |= bits >> 6 & 7 * 0o111
		case 'g':
			set |= bits >> 3 & 7 * 0o111
		case 'o':
			set |= bits & 7 * 0o111
		}
	}
	set &= s.who
	switch s.op {
	case '+':
		return bits | set
	case '-':
		return bits &^ set
	}
	return bits&^s.who | set
}
