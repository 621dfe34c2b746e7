package host

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/sandboxlabs/sandbox/pkg/linux/network"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// What the raw engine makes outside its folders, beside the cgroup: the bridge,
// and a link for each container, of the prefix and the ID's first 12 digits.
const (
	bridgeName = "sandbox0"
	linkPrefix = "sbx"
)

// CgroupParent is the name of the cgroup, below the root, that the containers
// of a sandbox with these folders are in. One with other folders than the usual
// has another: it must not take the cgroups of the first for leftovers.
func CgroupParent(dirs state.Dirs) string {
	if dirs == state.Default() {
		return "sandbox"
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(dirs.Root)) // never fails; hash.Hash
	return fmt.Sprintf("sandbox-%08x", h.Sum32())
}

// Leftovers lists all that sandbox has made on this machine and that is still
// there: processes, mounts, links, packet filter rules, cgroups, files. The
// error is that of a place that could not be looked at.
func (s *Service) Leftovers(ctx context.Context) ([]string, error) {
	var left []string
	var errs []error
	for _, look := range []func(context.Context) ([]string, error){s.processes, s.mounts, s.links, s.rules, s.cgroups, s.files} {
		found, err := look(ctx)
		left, errs = append(left, found...), append(errs, err)
	}
	return sorted(left), errors.Join(errs...)
}

// processes looks for the daemon and for shims, by an argument that is one of
// our folders, or in them.
func (s *Service) processes(context.Context) ([]string, error) {
	entries, err := os.ReadDir(s.Host.Proc)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || pid == os.Getppid() {
			continue
		}
		argv := strings.Split(strings.TrimRight(read(s.Host.Proc, e.Name(), "cmdline"), "\x00"), "\x00")
		if !strings.HasPrefix(filepath.Base(argv[0]), "sandbox") {
			continue
		}
		for _, arg := range argv[1:] {
			_, value, ok := strings.Cut(arg, "=")
			if !ok {
				value = arg
			}
			if within(value, s.Dirs.Root) || within(value, s.Dirs.Run) {
				out = append(out, fmt.Sprintf("process %d: %s", pid, strings.Join(argv, " ")))
				break
			}
		}
	}
	return out, nil
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

func (s *Service) mounts(context.Context) ([]string, error) {
	var out []string
	for line := range strings.Lines(read(s.Host.Proc, "self/mountinfo") + "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && (within(fields[4], s.Dirs.Root) || within(fields[4], s.Dirs.Run)) {
			// The folders themselves may be mounts: a test's tmpfs, a disk of its own.
			if fields[4] != s.Dirs.Root && fields[4] != s.Dirs.Run {
				out = append(out, "mount "+fields[4])
			}
		}
	}
	return out, nil
}

func (s *Service) mountpoint(dir string) bool {
	for line := range strings.Lines(read(s.Host.Proc, "self/mountinfo") + "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == dir {
			return true
		}
	}
	return false
}

func (s *Service) links(context.Context) ([]string, error) {
	var out []string
	if exists(s.Host.Sys, "class/net", bridgeName) {
		out = append(out, "link "+bridgeName)
	}
	entries, err := os.ReadDir(filepath.Join(s.Host.Sys, "class/net"))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), linkPrefix) && len(e.Name()) == 15 {
			out = append(out, "link "+e.Name())
		}
	}
	return out, err
}

// rules looks in nftables and in both flavours of iptables, as far as they are
// there.
func (s *Service) rules(ctx context.Context) ([]string, error) {
	var out []string
	if conn, err := nftables.New(); err == nil {
		tables, err := conn.ListTables()
		for _, t := range tables {
			if err == nil && t.Name == network.Label {
				out = append(out, "nft table "+t.Name)
			}
		}
	}
	for _, name := range []string{"iptables-nft-save", "iptables-legacy-save"} {
		tool, err := findTool(name)
		if err != nil {
			continue
		}
		// A flavour that the kernel lacks has no rules.
		text, _ := exec.CommandContext(ctx, tool).Output()
		for line := range strings.Lines(string(text)) {
			if strings.Contains(strings.ToLower(line), network.Label) && (strings.HasPrefix(line, ":") || strings.HasPrefix(line, "-A")) {
				out = append(out, name+": "+strings.TrimSpace(line))
			}
		}
	}
	return out, nil
}

func (s *Service) cgroups(context.Context) ([]string, error) {
	g := s.Host.cgroups()
	name := CgroupParent(s.Dirs)
	if g.v2 == "" || !exists(s.Host.below(g.v2), name) {
		return nil, nil
	}
	return []string{"cgroup " + filepath.Join(g.v2, name)}, nil
}

func (s *Service) files(context.Context) ([]string, error) {
	var out []string
	paths := []string{s.Dirs.Root, s.Dirs.Run}
	if s.Dirs == state.Default() {
		paths = append(paths, s.unitFile())
	}
	for _, path := range paths {
		if entries, err := os.ReadDir(path); err == nil && len(entries) == 0 && s.mountpoint(path) {
			continue // an empty disk of its own: somebody else's mount
		}
		if _, err := os.Lstat(path); err == nil {
			out = append(out, "file "+path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return out, err
		}
	}
	return out, nil
}
