package runtime

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// This test binary, started again under strace with this variable set, creates,
// starts and deletes one container, and writes what it explains to the file named.
const explainTo = "SANDBOX_TEST_EXPLAIN"

func TestMain(m *testing.M) {
	if file := os.Getenv(explainTo); file != "" {
		if err := explainOne(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func explainOne(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	ctx := context.Background()
	r := &Runtime{Root: filepath.Join(filepath.Dir(file), "state")}
	r.Trace = explain.New("runtime", os.Getpid(), func(ev explain.Event) { fmt.Fprintf(f, "%s %s\n", ev.Op, ev.Error) })
	id := fmt.Sprintf("sbt-explain-%d", os.Getpid())
	p, err := r.Create(ctx, id, CreateOptions{Bundle: filepath.Dir(file)})
	if err != nil {
		return err
	}
	if err := r.Start(ctx, id); err != nil {
		return err
	}
	if _, err := p.Wait(); err != nil {
		return err
	}
	return r.Delete(ctx, id, false)
}

// explained are the classes of operation that are explained: whatever makes or
// changes a namespace, a mount, a device node, an identity, a filter, the
// program. By the system call's name, as strace spells it.
var explained = []string{
	"clone3", "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount",
	"open_tree", "mount_setattr", "move_mount", "mknodat", "sethostname", "setdomainname", "setsid",
	"prlimit64", "setgroups", "setresuid", "setresgid", "capset", "seccomp", "keyctl", "execve", "personality",
}

// What is reported was made, and what was made is reported: the same container,
// as the runtime tells of it and as strace saw it. Calls that failed count on
// neither side: some are only questions.
func TestExplainIsTheTruth(tt *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		tt.Skip("no strace on this host")
	}
	for name, change := range map[string]func(*specs.Spec){
		"plain": func(*specs.Spec) {},
		"rich": func(s *specs.Spec) {
			ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 65536}}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
			s.Root.Readonly = true
			s.Process.User = specs.User{UID: 5, GID: 5, AdditionalGids: []uint32{1, 2}}
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 100}}
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
			s.Linux.RootfsPropagation = "rprivate"
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/ro", Type: "bind", Source: "/usr", Options: []string{"rbind", "rro"}})
		},
	} {
		tt.Run(name, func(tt *testing.T) {
			t := newTestbed(tt)
			change(t.spec)
			t.writeSpec()
			reported, traced := filepath.Join(t.bundle, "explain"), filepath.Join(t.bundle, "strace")
			cmd := exec.Command(strace, "-f", "-qq", "-o", traced, "-e", "trace="+strings.Join(append(explained, "clone", "vfork"), ","), os.Args[0])
			cmd.Env = append(os.Environ(), explainTo+"="+reported)
			if out, err := cmd.CombinedOutput(); err != nil {
				if strings.Contains(string(out), "ptrace") || strings.Contains(string(out), "PTRACE") {
					tt.Skipf("strace can't trace here: %s", out)
				}
				tt.Fatalf("%v: %s", err, out)
			}
			made, told := countMade(tt, traced), countTold(tt, reported)
			for _, op := range explained {
				if made[op] != told[op] {
					tt.Errorf("%s: made %d, told %d", op, made[op], told[op])
				}
			}
			if told["move_mount"] < 8 || told["execve"] != 1 || told["clone3"] != 1 {
				tt.Errorf("told too little: %v", told)
			}
		})
	}
}

var straceCall = regexp.MustCompile(`^\d+ +([a-z0-9_]+)\((.*)`)

// countMade counts the calls of each kind in strace's output, leaving out the Go
// runtime's own: threads, its start, and its look at its limits.
func countMade(tt *testing.T, file string) map[string]int {
	f, err := os.Open(file)
	if err != nil {
		tt.Fatal(err)
	}
	defer f.Close()
	n := map[string]int{}
	begun := map[string]string{} // calls that strace tells of in two lines, by PID
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		pid, _, _ := strings.Cut(line, " ")
		if before, ok := strings.CutSuffix(line, " <unfinished ...>"); ok {
			begun[pid] = before
			continue
		}
		if _, after, ok := strings.Cut(line, " resumed>"); ok {
			line = begun[pid] + after
		}
		m := straceCall.FindStringSubmatch(line)
		if m == nil || strings.Contains(line, " = -1 ") {
			continue
		}
		op, args := m[1], m[2]
		switch {
		case strings.Contains(args, "CLONE_THREAD"):
			continue
		case op == "clone" || op == "vfork":
			op = "clone3" // without a cgroup to be born into
		case op == "mknodat" && strings.Contains(args, "S_IFIFO"):
			continue // files of the runtime's own state
		case op == "execve" && (strings.Contains(args, os.Args[0]) || strings.Contains(args, "/proc/self/fd/")):
			continue // the test itself, and the script's image
		case op == "prlimit64" && !strings.Contains(args, "rlim_cur=100,"):
			continue // Go's own looks and changes
		}
		n[op]++
	}
	return n
}

func countTold(tt *testing.T, file string) map[string]int {
	b, err := os.ReadFile(file)
	if err != nil {
		tt.Fatal(err)
	}
	n := map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		op, failed, _ := strings.Cut(line, " ")
		if failed != "" {
			continue
		}
		if op == "prlimit" {
			op = "prlimit64"
		}
		if op == "mknod" {
			op = "mknodat"
		}
		if slices.Contains(explained, op) {
			n[op]++
		}
	}
	return n
}
