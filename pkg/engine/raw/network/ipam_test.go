package network

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

func newLeases(t testing.TB, subnet string) *leases {
	t.Helper()
	l := &leases{path: filepath.Join(t.TempDir(), "network", "leases.json")}
	if _, _, err := l.subnet([]netip.Prefix{netip.MustParsePrefix(subnet)}, nil); err != nil {
		t.Fatal(err)
	}
	return l
}

func reserve(t testing.TB, l *leases, container string) string {
	t.Helper()
	lease, _, err := l.reserve(container, nil)
	if err != nil {
		t.Fatal(err)
	}
	return lease.Address.String()
}

func release(t testing.TB, l *leases, container string) int {
	t.Helper()
	released, err := l.release(func(c string) bool { return c == container })
	if err != nil {
		t.Fatal(err)
	}
	return len(released)
}

func TestLeases(t *testing.T) {
	l := newLeases(t, "10.1.0.0/29") // .2 to .6 for containers
	if got := reserve(t, l, "a"); got != "10.1.0.2" {
		t.Errorf("first address %s; want 10.1.0.2, behind the gateway's", got)
	}
	if got := reserve(t, l, "a"); got != "10.1.0.2" {
		t.Errorf("asked again: %s; want the same address", got)
	}
	if release(t, l, "a") != 1 || release(t, l, "a") != 0 {
		t.Error("the second release of an address must do nothing")
	}
	// A released address rests until all others have had their turn, and the
	// table outlives its process.
	l = &leases{path: l.path}
	for i, want := range []string{"10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.2"} {
		if got := reserve(t, l, strconv.Itoa(i)); got != want {
			t.Errorf("address %d is %s; want %s", i, got, want)
		}
	}
	if _, _, err := l.reserve("one too many", nil); !errdefs.IsResourceExhausted(err) {
		t.Errorf("full subnet: %v; want resource exhausted", err)
	}
	release(t, l, "3")
	if got := reserve(t, l, "again"); got != "10.1.0.6" {
		t.Errorf("got %s; want the only free address 10.1.0.6", got)
	}
}

func TestLeasesNamesAndPorts(t *testing.T) {
	l := newLeases(t, "10.1.0.0/24")
	reserve(t, l, "a")
	ports := []api.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}
	if _, err := l.publish("a", ports); err != nil {
		t.Fatal(err)
	}
	lease, fresh, err := l.reserve("a", []string{"web"})
	if err != nil || fresh || !slices.Equal(lease.Ports, ports) || !slices.Equal(lease.Names, []string{"web"}) {
		t.Errorf("reserve = %+v, %t, %v; want the old ports and the new name", lease, fresh, err)
	}
	if _, err := l.publish("b", ports); !errdefs.IsNotFound(err) {
		t.Errorf("publish without a lease: %v; want not found", err)
	}
}

func TestSubnet(t *testing.T) {
	l := &leases{path: filepath.Join(t.TempDir(), "leases.json")}
	prefixes := func(list ...string) (all []netip.Prefix) {
		for _, s := range list {
			all = append(all, netip.MustParsePrefix(s))
		}
		return all
	}
	candidates := prefixes("10.89.0.0/16", "10.90.0.0/16")
	check := func(used []netip.Prefix, want string, wantClash bool) {
		t.Helper()
		got, clash, err := l.subnet(candidates, used)
		if err != nil || got.String() != want || clash != wantClash {
			t.Errorf("subnet beside %v = %s, %t, %v; want %s, %t", used, got, clash, err, want, wantClash)
		}
	}
	check(prefixes("10.89.7.0/24"), "10.90.0.0/16", false)
	check(nil, "10.90.0.0/16", false) // it stays, although the first is free now
	check(prefixes("10.90.0.0/24"), "10.89.0.0/16", false)
	reserve(t, l, "a")
	check(prefixes("10.0.0.0/8"), "10.89.0.0/16", true) // addresses in use cannot move
	release(t, l, "a")
	if _, _, err := l.subnet(candidates, prefixes("10.0.0.0/8")); !errdefs.IsResourceExhausted(err) {
		t.Errorf("no subnet is free: %v; want resource exhausted", err)
	}
}

// TestLeasesConcurrently takes and gives back addresses in many goroutines of
// two tables, as of two processes.
func TestLeasesConcurrently(t *testing.T) {
	one := newLeases(t, "10.1.0.0/20")
	two := &leases{path: one.path}
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			l := []*leases{one, two}[i%2]
			container := fmt.Sprint("c", i)
			for range 5 {
				first := reserve(t, l, container)
				if again := reserve(t, l, container); again != first {
					t.Errorf("%s had %s, then %s", container, first, again)
				}
				if i%3 == 0 {
					release(t, l, container)
				}
			}
		})
	}
	wg.Wait()
	checkUnique(t, one, 40)
}

func checkUnique(t *testing.T, l *leases, want int) {
	t.Helper()
	table, err := l.read()
	if err != nil {
		t.Fatal(err)
	}
	taken := map[netip.Addr]string{}
	for _, lease := range table.Leases {
		if other, ok := taken[lease.Address]; ok {
			t.Errorf("%s belongs to %s and %s", lease.Address, other, lease.Container)
		}
		taken[lease.Address] = lease.Container
	}
	if len(table.Leases) != want {
		t.Errorf("%d leases; want %d", len(table.Leases), want)
	}
}

// TestLeasesProcesses has two processes take addresses from one table, and a
// third killed time and again while it does.
func TestLeasesProcesses(t *testing.T) {
	l := newLeases(t, "10.1.0.0/16")
	start := func(name string, count int) *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), leasesVar+"="+fmt.Sprintf("%s:%s:%d", l.path, name, count))
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	const each = 150
	one, two := start("one", each), start("two", each)
	for i := range 10 {
		victim := start(fmt.Sprint("victim", i), 1<<20)
		time.Sleep(time.Duration(10+i) * time.Millisecond)
		_ = victim.Process.Kill()
		_ = victim.Wait()
	}
	for _, cmd := range []*exec.Cmd{one, two} {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.release(func(c string) bool { return strings.HasPrefix(c, "victim") }); err != nil {
		t.Fatal(err)
	}
	checkUnique(t, l, 2*each)
}

// otherProcess takes addresses for TestLeasesProcesses: PATH:NAME:COUNT.
func otherProcess(order string) {
	f := strings.Split(order, ":")
	count, _ := strconv.Atoi(f[2])
	l := &leases{path: f[0]}
	for i := range count {
		if _, _, err := l.reserve(fmt.Sprint(f[1], "-", i), nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func BenchmarkLease(b *testing.B) {
	l := newLeases(b, "10.1.0.0/16")
	for i := range 50 {
		reserve(b, l, fmt.Sprint("other", i))
	}
	for b.Loop() {
		reserve(b, l, "a")
		release(b, l, "a")
	}
}
