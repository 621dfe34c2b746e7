package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// meaning of a controller: what a container cannot have without it.
var controllerMeaning = []struct{ name, flags string }{
	{"cpu", "--cpus and --cpu-weight"},
	{"cpuset", "--cpuset-cpus"},
	{"io", "--device-read-bps and its kin"},
	{"memory", "-m, and with it the OOM kill"},
	{"pids", "--pids-limit, the guard against fork bombs"},
}

func cgroupChecks() []check {
	return []check{
		{
			name: "cgroup version", why: "limits and accounting are cgroup v2's: one tree, with a file for each limit",
			look: func(_ context.Context, h *Host) finding {
				g := h.cgroups()
				switch {
				case g.v2 == "" && len(g.v1) == 0:
					return failf("no cgroup file system is mounted")
				case g.v2 == "":
					return finding{status: Fail, found: "version 1 only", fix: unifiedFix}
				case len(g.v1) > 0:
					return finding{
						status: Warn, found: fmt.Sprintf("hybrid: version 2 at %s, and version 1 beside it", g.v2), fix: unifiedFix,
						why: "a controller that version 1 has taken cannot be used in version 2: containers run, and the limits that need it do not hold",
					}
				}
				return okf("version 2 at %s", g.v2)
			},
			fix: "mount -t cgroup2 none /sys/fs/cgroup",
		},
		{
			name: "cgroup controllers", why: "each controller enforces one kind of limit",
			look: lookControllers, fix: unifiedFix,
		},
		{
			name: "swap accounting", why: "without it --memory-swap has no effect, and a container over its memory limit goes on in swap",
			look: lookSwap, fix: "boot with swapaccount=1 on the kernel's command line",
		},
	}
}

const unifiedFix = "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line (/etc/default/grub, then update-grub)"

// cgroups is what is mounted where.
type cgroups struct {
	v2          string            // mount point of version 2
	v1          map[string]string // controller -> mount point of version 1
	controllers []string          // of version 2
}

func (h *Host) cgroups() cgroups {
	g := cgroups{v1: map[string]string{}}
	known := map[string]bool{}
	for line := range strings.Lines(read(h.Proc, "cgroups") + "\n") {
		if fields := strings.Fields(line); len(fields) == 4 && !strings.HasPrefix(line, "#") {
			known[fields[0]] = true
		}
	}
	// proc_pid_mountinfo(5): … mount point is the fifth field; type, source and
	// the superblock's options follow " - ".
	for line := range strings.Lines(read(h.Proc, "self/mountinfo") + "\n") {
		mount, super, ok := strings.Cut(strings.TrimSpace(line), " - ")
		fields, last := strings.Fields(mount), strings.Fields(super)
		if !ok || len(fields) < 5 || len(last) < 3 {
			continue
		}
		switch last[0] {
		case "cgroup2":
			if g.v2 == "" {
				g.v2 = fields[4]
			}
		case "cgroup":
			for option := range strings.SplitSeq(last[2], ",") {
				if known[option] {
					g.v1[option] = fields[4]
				}
			}
		}
	}
	if g.v2 != "" {
		g.controllers = strings.Fields(read(h.below(g.v2), "cgroup.controllers"))
	}
	return g
}

// below translates a path of the host to one below the Sys root.
func (h *Host) below(path string) string {
	if rest, ok := strings.CutPrefix(path, "/sys/"); ok {
		return filepath.Join(h.Sys, rest)
	}
	return path
}

func lookControllers(_ context.Context, h *Host) finding {
	g := h.cgroups()
	if g.v2 == "" {
		return failf("there is no version 2 to have any")
	}
	var lost []string
	bound := map[string][]string{}
	for _, c := range controllerMeaning {
		if slices.Contains(g.controllers, c.name) {
			continue
		}
		name := c.name
		if name == "io" && g.v1["blkio"] != "" {
			name = "blkio" // its name in version 1
		}
		if g.v1[name] != "" {
			bound["bound to version 1"] = append(bound["bound to version 1"], c.name)
		} else {
			bound["not in this kernel, or not delegated"] = append(bound["not in this kernel, or not delegated"], c.name)
		}
		lost = append(lost, c.flags)
	}
	have := strings.Join(g.controllers, " ")
	if have == "" {
		have = "none"
	}
	if len(lost) == 0 {
		return okf("%s", have)
	}
	var parts []string
	for _, how := range []string{"bound to version 1", "not in this kernel, or not delegated"} {
		if names := bound[how]; len(names) > 0 {
			parts = append(parts, join(names)+" "+how)
		}
	}
	return finding{
		status: Warn, found: fmt.Sprintf("%s in version 2; %s", have, strings.Join(parts, "; ")),
		why: "without effect here: " + strings.Join(lost, "; "),
	}
}

// lookSwap looks for memory.swap.max, which only a cgroup below the root has.
func lookSwap(_ context.Context, h *Host) finding {
	g := h.cgroups()
	if !slices.Contains(g.controllers, "memory") {
		return finding{status: Warn, found: "the memory controller is missing in version 2", fix: "see cgroup controllers"}
	}
	root := h.below(g.v2)
	if exists(root, "memory.swap.max") {
		return okf("yes")
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return warnf("%v", err)
	}
	children := false
	for _, e := range entries {
		if e.IsDir() && exists(root, e.Name(), "memory.max") {
			children = true
			if exists(root, e.Name(), "memory.swap.max") {
				return okf("yes")
			}
		}
	}
	if !children {
		return okf("the memory controller is there; no cgroup uses it yet")
	}
	return warnf("memory.swap.max is missing")
}

// Lacks says why containers of this host cannot be limited by a controller of
// cgroup version 2; "" when they can.
func (h *Host) Lacks(controller string) string {
	g := h.cgroups()
	switch {
	case slices.Contains(g.controllers, controller):
		return ""
	case g.v1[controller] != "":
		return fmt.Sprintf("cgroup version 1 has the controller %s on this host", controller)
	}
	return fmt.Sprintf("cgroup version 2 has no controller %s on this host", controller)
}
