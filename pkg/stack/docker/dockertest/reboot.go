package dockertest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Reboot does to the namespaces what the loss of power does to a machine, and
// then starts Docker as its boot would: every process but the test is killed,
// and links, rules, mounts and /run are gone; what is on the disk is left.
func Reboot(t testing.TB) {
	t.Helper()
	Host(t)
	if os.Getpid() != 1 {
		t.Fatal("this process is not the first of its namespace: it would kill others")
	}
	if err := reboot(); err != nil {
		t.Fatal(err)
	}
}

func reboot() error {
	_ = unix.Kill(-1, unix.SIGKILL) // everybody but process 1, which is this
	_ = engine.stop()               // collects dockerd
	if err := allGone(); err != nil {
		return err
	}
	errs := []error{removeMounts(engine.dir+"/", "/run/"), removeLinks(), removeRules()}
	for _, name := range []string{"exec", "pid", "docker.sock"} { // a machine has them in /run
		errs = append(errs, os.RemoveAll(filepath.Join(engine.dir, name)))
	}
	if err := errors.Join(append(errs, mountRun())...); err != nil {
		return err
	}
	var err error
	engine.stop, err = start(engine.dir, engine.args)
	return err
}

// allGone waits until the other processes are only zombies. One that waits for a
// busy disk dies only when it has been served.
func allGone() error {
	left := ""
	for i := range 6000 {
		if i%100 == 0 {
			thaw()
		}
		left = ""
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range stats {
			b, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			pid, rest, _ := strings.Cut(string(b), " ")
			_, state, _ := strings.Cut(rest, ") ")
			if pid != "1" && !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X") {
				left = string(b)
			}
		}
		if left == "" {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("a process does not die: %s", left)
}

// thaw wakes what is frozen, by a pause or by a runtime that was killed while it
// changed a container: of cgroup v1 it would not even die.
func thaw() {
	for _, root := range Cgroups(filepath.Base(engine.dir)) {
		_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Name() == "freezer.state" {
				_ = os.WriteFile(path, []byte("THAWED"), 0)
			}
			return nil
		})
	}
}

// removeMounts takes away what was mounted below folders, the latest first.
func removeMounts(folders ...string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) < 5 {
			continue
		}
		at := fields[4]
		if slices.ContainsFunc(folders, func(dir string) bool { return strings.HasPrefix(at+"/", dir) }) {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", at, err)
			}
		}
	}
	return nil
}

func removeLinks() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Type() == "device" {
			continue // lo, and what the kernel makes with a namespace
		}
		if err := netlink.LinkDel(l); err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("remove link %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// removeRules leaves iptables and nftables as a kernel has them that has just
// been booted.
func removeRules() error {
	for _, table := range []string{"filter", "nat", "mangle", "raw"} {
		for _, argv := range [][]string{{"-F"}, {"-X"}} {
			// A table that is not there has no rules.
			_ = exec.Command("iptables", append([]string{"-t", table}, argv...)...).Run()
		}
	}
	for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
		if out, err := exec.Command("iptables", "-P", chain, "ACCEPT").CombinedOutput(); err != nil {
			return fmt.Errorf("iptables -P %s ACCEPT: %w: %s", chain, err, out)
		}
	}
	if nft, err := exec.LookPath("nft"); err == nil {
		_ = exec.Command(nft, "flush", "ruleset").Run()
	}
	return nil
}
