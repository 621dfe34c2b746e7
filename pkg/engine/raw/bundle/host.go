package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host are the facts about the machine that a config.json depends on. They do
// not change while the daemon runs.
type Host struct {
	Hostname string
	// Capabilities is the daemon's bounding set: nobody below it has more.
	Capabilities []string
	AppArmor     bool
	Seccomp      bool
	CPUs         IDSet // online; empty if unknown
	MemoryNodes  IDSet // online; empty if unknown
	// MaskedPaths are hidden in addition to those that every machine has.
	MaskedPaths []string
	// OOMScoreAdj is the daemon's own, which its children would inherit.
	OOMScoreAdj int
}

// ReadHost looks at the machine through proc and sys, normally /proc and /sys.
func ReadHost(proc, sys string) (Host, error) {
	var h Host
	var err error
	if h.Hostname, err = os.Hostname(); err != nil {
		return Host{}, err
	}
	for i, c := range capabilityTable {
		// EINVAL: the kernel is older than the capability.
		if set, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(i), 0, 0, 0); err == nil && set == 1 {
			h.Capabilities = append(h.Capabilities, c.name)
		}
	}
	// EINVAL: built without. The kernel looks for that before it looks at the
	// filter, of which there is none (seccomp(2)).
	h.Seccomp = errors.Is(unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, 0, 0, 0), unix.EFAULT)
	enabled, err := read(filepath.Join(sys, "module/apparmor/parameters/enabled"))
	if err != nil {
		return Host{}, err
	}
	h.AppArmor = enabled == "Y"
	for file, set := range map[string]*IDSet{
		"devices/system/cpu/online":  &h.CPUs,
		"devices/system/node/online": &h.MemoryNodes,
	} {
		list, err := read(filepath.Join(sys, file))
		if err != nil {
			return Host{}, err
		}
		if list == "" {
			continue // a kernel without NUMA
		}
		if *set, err = ParseIDSet(list); err != nil {
			return Host{}, fmt.Errorf("read %s: %w", file, err)
		}
	}
	// Counters that tell when other processes compute.
	throttles, err := filepath.Glob(filepath.Join(sys, "devices/system/cpu/cpu[0-9]*/thermal_throttle"))
	if err != nil {
		return Host{}, err
	}
	for _, p := range throttles {
		h.MaskedPaths = append(h.MaskedPaths, filepath.Join("/sys", strings.TrimPrefix(p, sys)))
	}
	adj, err := read(filepath.Join(proc, "self/oom_score_adj"))
	if err != nil {
		return Host{}, err
	}
	if adj != "" {
		if h.OOMScoreAdj, err = strconv.Atoi(adj); err != nil {
			return Host{}, fmt.Errorf("read oom_score_adj: %w", err)
		}
	}
	return h, nil
}

// read returns a file's contents without the newline; "" where there is none.
func read(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}

// IDSet is a set of CPUs or memory nodes: sorted, disjoint ranges, both ends
// included.
type IDSet [][2]int

// maxID is more than the CPUs of any kernel (CONFIG_NR_CPUS).
const maxID = 1 << 16

// ParseIDSet parses a list like 0-3,5 (cpuset(7), "List format").
func ParseIDSet(list string) (IDSet, error) {
	var ranges IDSet
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number", from)
		}
		last, err := strconv.ParseUint(to, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number", to)
		}
		if last < first || last >= maxID {
			return nil, fmt.Errorf("%q is not a range", part)
		}
		ranges = append(ranges, [2]int{int(first), int(last)})
	}
	slices.SortFunc(ranges, func(a, b [2]int) int { return a[0] - b[0] })
	set := ranges[:1]
	for _, r := range ranges[1:] {
		if end := &set[len(set)-1][1]; r[0] <= *end+1 {
			*end = max(*end, r[1])
		} else {
			set = append(set, r)
		}
	}
	return set, nil
}

// String formats the set as the kernel does.
func (s IDSet) String() string {
	var parts []string
	for _, r := range s {
		if r[0] == r[1] {
			parts = append(parts, strconv.Itoa(r[0]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", r[0], r[1]))
		}
	}
	return strings.Join(parts, ",")
}

func (s IDSet) count() int {
	n := 0
	for _, r := range s {
		n += r[1] - r[0] + 1
	}
	return n
}

func (s IDSet) contains(other IDSet) bool {
	for _, o := range other {
		if !slices.ContainsFunc(s, func(r [2]int) bool { return r[0] <= o[0] && o[1] <= r[1] }) {
			return false
		}
	}
	return true
}
