package raw

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
)

// inventory is all that a container could leave behind, by kind.
type inventory map[string][]string

// takeInventory lists what the machine has. Its network part is that of the
// private namespace that the tests run in; of processes, the shims and what is
// in the engine's cgroups.
func takeInventory(t *testing.T, h testHost) inventory {
	t.Helper()
	v := inventory{}
	command := func(name string, args ...string) []string {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			return nil // not on this host
		}
		return lines(string(out))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines(string(mounts)) {
		v["mounts"] = append(v["mounts"], strings.Fields(l)[4])
	}
	for _, l := range command("ip", "-o", "link") {
		v["links"] = append(v["links"], strings.Fields(l)[1])
	}
	for _, l := range command("ip", "route") {
		v["routes"] = append(v["routes"], strings.TrimSuffix(strings.TrimSpace(l), " linkdown"))
	}
	v["nft rules"] = command("nft", "list", "ruleset")
	for _, save := range []string{"iptables-save", "iptables-legacy-save"} {
		v["iptables rules"] = append(v["iptables rules"], slices.DeleteFunc(command(save), func(l string) bool {
			return strings.HasPrefix(l, "#") || strings.HasPrefix(l, ":") // dates, counters
		})...)
	}
	namespaces := map[string]bool{}
	links, err := filepath.Glob("/proc/[0-9]*/ns/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		pid, _ := strconv.Atoi(strings.Split(l, "/")[2])
		if kind := filepath.Base(l); (kind == "net" || kind == "mnt" || kind == "pid") && ours(pid, h) {
			ns, _ := os.Readlink(l)
			namespaces[ns] = true
		}
	}
	for ns := range namespaces {
		v["namespaces"] = append(v["namespaces"], ns)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && ours(pid, h) {
			v["processes"] = append(v["processes"], e.Name())
		}
	}
	root, err := cgroup.Mount()
	if err != nil {
		t.Fatal(err)
	}
	for kind, dir := range map[string]string{"cgroups": filepath.Join(root, h.parent), "files": h.dirs.Root, "run files": h.dirs.Run} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			// The images stay, as they are.
			if path == h.dirs.Layers() || path == h.dirs.Images() {
				return fs.SkipDir
			}
			if err == nil && (kind != "cgroups" || d.IsDir()) {
				v[kind] = append(v[kind], path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for kind := range v {
		slices.Sort(v[kind])
	}
	return v
}

// ours reports whether a process that lives belongs to the engine under test:
// as a shim, or as one of its containers'.
func ours(pid int, h testHost) bool {
	if !alive(pid) {
		return false
	}
	if isShim(pid, func(run string) bool { return strings.HasPrefix(run, h.dirs.Run) }) {
		return true
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && bytes.Contains(b, []byte(h.parent+"/"))
}

func lines(s string) (out []string) {
	for sc := bufio.NewScanner(strings.NewReader(s)); sc.Scan(); {
		out = append(out, sc.Text())
	}
	return out
}

func (v inventory) String() string {
	var b strings.Builder
	kinds := make([]string, 0, len(v))
	for kind := range v {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		fmt.Fprintf(&b, "  %-14s %3d", kind, len(v[kind]))
		if n := len(v[kind]); n > 0 && n <= 6 {
			fmt.Fprintf(&b, "  %s", strings.Join(v[kind], ", "))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestNoLeaks: 200 containers are created, run and deleted. In every tenth, the
// shim, the container's first process or both are killed with -9 at a random
// moment, be it in the middle of create; half of those are then left lying by
// a daemon that is killed itself. After the next daemon's sweep nothing is left.
func TestNoLeaks(t *testing.T) {
	cycles := 200
	if testing.Short() || os.Getenv("SANDBOX_VM") != "" { // where all takes ten times as long
		cycles = 40
	}
	h := newHost(t)
	e := h.open(t)
	defer func() { purge(t, e) }()
	// The first container makes what stays: bridge, rules, unpacked layers.
	if err := e.Remove(within(t, time.Minute), launch(t, e, api.ContainerSpec{Network: api.Network{Mode: "bridge"}}).ID, true); err != nil {
		t.Fatal(err)
	}
	settle(t, e)
	before := takeInventory(t, h)

	var killed, left int
	for i := range cycles {
		var kills sync.WaitGroup
		violent := i%10 == 5
		if violent {
			killed++
			after := time.Duration(rand.IntN(20_000)) * time.Microsecond
			kills.Go(func() {
				time.Sleep(after)
				killSomething(h, killed)
			})
		}
		spec := api.ContainerSpec{
			Image: testImage, Network: api.Network{Mode: "bridge", Publish: []api.PortMapping{{ContainerPort: 80, Protocol: "tcp"}}},
			Command: shell("echo x >/file; exit 3"),
		}
		if violent {
			spec.Command = []string{"sleep", "0.05"}
		}
		c, err := e.Create(within(t, time.Minute), spec, nil)
		if err == nil {
			err = e.Start(within(t, time.Minute), c.ID, nil)
		}
		if err != nil && !violent {
			t.Fatalf("cycle %d: %v", i, err)
		}
		kills.Wait()
		if violent && killed%2 == 0 {
			left++
			abandon(t, e)
			e = h.open(t)
			continue // whatever there is stays for the last sweep or Remove below
		}
		if c.ID == "" {
			continue
		}
		exit, err := e.Wait(within(t, time.Minute), c.ID)
		if err != nil || !violent && exit.Code != 3 {
			t.Fatalf("cycle %d: %+v, %v", i, exit, err)
		}
		if err := e.Remove(within(t, time.Minute), c.ID, false); err != nil {
			t.Fatalf("cycle %d: %v", i, err)
		}
	}
	abandon(t, e)
	e = h.open(t)
	list, err := e.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if err := e.Remove(within(t, time.Minute), c.ID, true); err != nil {
			t.Errorf("remove what a killed daemon has left: %v", err)
		}
	}
	settle(t, e)
	after := takeInventory(t, h)
	t.Logf("before %d cycles:\n%s", cycles, before)
	t.Logf("after, with %d killed with -9, %d of them together with the daemon:\n%s", killed, left, after)
	kinds := maps.Clone(before)
	maps.Copy(kinds, after)
	for kind := range kinds {
		if d := difference(after[kind], before[kind]); len(d) > 0 {
			t.Errorf("%s that were not there before: %q", kind, d)
		}
		if d := difference(before[kind], after[kind]); len(d) > 0 {
			t.Errorf("%s that are gone: %q", kind, d)
		}
	}
}

// difference is what a has more often than b.
func difference(a, b []string) []string {
	count := map[string]int{}
	for _, s := range b {
		count[s]++
	}
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool {
		count[s]--
		return count[s] >= 0
	})
}

// settle waits for what the kernel does a moment later: links go with their
// namespace.
func settle(t *testing.T, e *Engine) {
	t.Helper()
	eventually(t, "no container's link is left", func() bool {
		out, err := exec.Command("ip", "-o", "link", "show", "type", "veth").Output()
		if err != nil {
			t.Skip(err)
		}
		return len(bytes.TrimSpace(out)) == 0
	})
}

// killSomething kills a shim, a first process, or both.
func killSomething(h testHost, n int) {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !ours(pid, h) {
			continue
		}
		shim := isShim(pid, func(string) bool { return true })
		if n%3 == 0 || shim == (n%3 == 1) {
			pids = append(pids, pid)
		}
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}
