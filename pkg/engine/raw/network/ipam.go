package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Lease is an address that belongs to a container until it is released,
// whoever restarts meanwhile.
type Lease struct {
	Container string            `json:"container"` // ID
	Address   netip.Addr        `json:"address"`
	Names     []string          `json:"names,omitempty"` // that resolve to it
	Ports     []api.PortMapping `json:"ports,omitempty"` // published, with host ports
}

// leaseFile is leases.json.
type leaseFile struct {
	Subnet netip.Prefix `json:"subnet"`
	// Last is the address given out last. The search for a free one starts
	// behind it, so that an address rests for as long as possible: peers may
	// still know its old holder.
	Last   netip.Addr `json:"last,omitzero"`
	Leases []Lease    `json:"leases"`
}

// leases is the table of leases on disk. Several processes may use it at once:
// each operation reads and replaces the file under flock(2) of its folder.
// IPv4 only.
type leases struct {
	path string
	mu   sync.Mutex // flock excludes processes, this one goroutines: fewer blocked threads
}

// update runs change on the table and writes it if change says so.
func (l *leases) update(change func(*leaseFile) (write bool, err error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	dir := filepath.Dir(l.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer lock.Close() // unlocks
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", dir, err)
		}
	}
	table, err := l.read()
	if err != nil {
		return err
	}
	write, err := change(&table)
	if err != nil || !write {
		return err
	}
	// Not synced: the links that leases speak of end with the power, too.
	return state.ReplaceJSON(l.path, table)
}

// read needs no lock: the file is replaced as a whole. A power failure can
// leave it empty, which is as good as none.
func (l *leases) read() (table leaseFile, err error) {
	fi, err := os.Stat(l.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() == 0 {
		return leaseFile{}, nil
	}
	err = state.ReadJSON(l.path, &table)
	return table, err
}

// subnet returns the subnet that addresses come from. It is chosen once: an
// address that is in use must stay valid. Only a table without leases moves to
// another subnet, when the host has come to use its own otherwise.
func (l *leases) subnet(candidates, used []netip.Prefix) (subnet netip.Prefix, clash bool, err error) {
	free := func(p netip.Prefix) bool { return !slices.ContainsFunc(used, p.Overlaps) }
	err = l.update(func(t *leaseFile) (bool, error) {
		if t.Subnet.IsValid() && (free(t.Subnet) || len(t.Leases) > 0) {
			subnet, clash = t.Subnet, !free(t.Subnet)
			return false, nil
		}
		i := slices.IndexFunc(candidates, free)
		if i < 0 {
			return false, fmt.Errorf("the host uses all subnets that containers could have, %v: %w", candidates, errdefs.ErrResourceExhausted)
		}
		subnet = candidates[i]
		t.Subnet, t.Last = subnet, netip.Addr{}
		return true, nil
	})
	return subnet, clash, err
}

// reserve returns the container's lease, a new one unless it has one. An
// existing one gets the new names.
func (l *leases) reserve(container string, names []string) (lease Lease, fresh bool, err error) {
	err = l.update(func(t *leaseFile) (bool, error) {
		if i := t.index(container); i >= 0 {
			have := &t.Leases[i]
			renamed := !slices.Equal(have.Names, names)
			have.Names = names
			lease = *have
			return renamed, nil
		}
		address, err := t.next()
		if err != nil {
			return false, err
		}
		fresh, lease = true, Lease{Container: container, Address: address, Names: names}
		t.Last = address
		t.Leases = append(t.Leases, lease)
		return true, nil
	})
	return lease, fresh, err
}

// publish notes the container's ports in its lease.
func (l *leases) publish(container string, ports []api.PortMapping) (lease Lease, err error) {
	err = l.update(func(t *leaseFile) (bool, error) {
		i := t.index(container)
		if i < 0 {
			return false, fmt.Errorf("container %s has no address: %w", container, errdefs.ErrNotFound)
		}
		t.Leases[i].Ports = ports
		lease = t.Leases[i]
		return true, nil
	})
	return lease, err
}

// release gives up the leases of all containers that drop selects.
func (l *leases) release(drop func(container string) bool) (released []Lease, err error) {
	err = l.update(func(t *leaseFile) (bool, error) {
		t.Leases = slices.DeleteFunc(t.Leases, func(lease Lease) bool {
			if !drop(lease.Container) {
				return false
			}
			released = append(released, lease)
			return true
		})
		return len(released) > 0, nil
	})
	return released, err
}

func (t *leaseFile) index(container string) int {
	return slices.IndexFunc(t.Leases, func(l Lease) bool { return l.Container == container })
}

// next finds the first free address behind the last one given out. The
// subnet's first address is the network's, the second the gateway's, the last
// the broadcast's.
func (t *leaseFile) next() (netip.Addr, error) {
	if !t.Subnet.IsValid() {
		return netip.Addr{}, fmt.Errorf("no subnet has been chosen: %w", errdefs.ErrFailedPrecondition)
	}
	taken := make(map[netip.Addr]bool, len(t.Leases))
	for _, l := range t.Leases {
		taken[l.Address] = true
	}
	first := gateway(t.Subnet).Next()
	address := first
	if t.Last.IsValid() && t.Subnet.Contains(t.Last) {
		address = t.Last.Next()
	}
	for range 1 << (32 - t.Subnet.Bits()) {
		if !t.Subnet.Contains(address) || !t.Subnet.Contains(address.Next()) {
			address = first // the end, or the broadcast address
		}
		if !taken[address] {
			return address, nil
		}
		address = address.Next()
	}
	return netip.Addr{}, fmt.Errorf("subnet %s has no free address: %w", t.Subnet, errdefs.ErrResourceExhausted)
}

// gateway is the host's address in a subnet, its first.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// names are all that a container answers to, in lower case, as DNS ignores it.
func names(cfg EndpointConfig) []string {
	var all []string
	for _, name := range append([]string{cfg.Name, shortID(cfg.ID)}, cfg.Aliases...) {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if name != "" && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

// shortID is the part of an ID that people see, and enough to tell containers
// apart.
func shortID(id string) string { return id[:min(12, len(id))] }
