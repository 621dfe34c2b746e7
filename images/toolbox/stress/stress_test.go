package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// With this set the test binary is the tool.
const mainEnv = "SBT_STRESS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// tool returns the command, and folder for its files.
func tool(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), mainEnv+"=1")
	return cmd
}

func output(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tool(t, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("stress %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestCPU(t *testing.T) {
	out := output(t, "--cpu", "1", "--timeout", "500ms", "--interval", "100ms")
	if !regexp.MustCompile(`cpu: used 0\.\d+ s of CPU in 0\.\d+ s: 0\.\d+ CPUs|1\.0\d CPUs`).MatchString(out) {
		t.Error(out)
	}
}

// The kernel must see the memory, page by page.
func TestMemory(t *testing.T) {
	cmd := tool(t, "--memory", "40m", "--step", "16m", "--timeout", "30s")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(text.String(), "holding 40.0 MiB") {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("%v after\n%s", err, text.String())
		}
		text.Write(buf[:n])
	}
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "smaps_rollup"))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`Anonymous: +(4[0-9]|[5-9]\d)\d{3} kB`).Match(status) {
		t.Errorf("40 MiB should be resident:\n%s", status)
	}
	for _, step := range []string{"16.0 MiB of 40.0 MiB touched", "32.0 MiB of", "40.0 MiB of 40.0 MiB touched"} {
		if !strings.Contains(text.String(), step) {
			t.Errorf("%q is not in\n%s", step, text.String())
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended by SIGTERM: %v", err)
	}
}

func TestPIDs(t *testing.T) {
	if out := output(t, "--pids", "20", "--timeout", "300ms"); !strings.Contains(out, "holding 20 of 20 processes") {
		t.Error(out)
	}
}

// With a limit it says where it was stopped, and lives on.
func TestPIDsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a user whose processes can be limited")
	}
	const uid = 65123 // nobody else's
	cmd := tool(t, "--pids", "200", "--cpu", "2", "--memory", "1m", "--timeout", "500ms")
	// exe is not readable for that user: hand it over by fd.
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	cmd.Path, cmd.Args = "/bin/bash", append([]string{"bash", "-c", `ulimit -u 60; exec /proc/self/fd/3 "$@"`, "stress"}, cmd.Args[1:]...)
	cmd.ExtraFiles = []*os.File{exe}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !regexp.MustCompile(`pids: fork (4|5)\d refused: resource temporarily unavailable \(EAGAIN\)`).Match(out) ||
		!regexp.MustCompile(`holding (4|5)\d of 200 processes`).Match(out) || !strings.Contains(string(out), "cpu: used") {
		t.Errorf("%s", out)
	}
}

// When the tool is killed its children go too.
func TestPIDsKilled(t *testing.T) {
	cmd := tool(t, "--pids", "10")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for text := ""; !strings.Contains(text, "holding 10"); {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		text += string(buf[:n])
	}
	children := func() []string {
		found, _ := filepath.Glob("/proc/[0-9]*/environ")
		var pids []string
		for _, f := range found {
			stat, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "stat"))
			if strings.Contains(string(stat), " "+strconv.Itoa(cmd.Process.Pid)+" ") {
				pids = append(pids, filepath.Base(filepath.Dir(f)))
			}
		}
		return pids
	}()
	if len(children) < 10 {
		t.Fatalf("%d children, want 10", len(children))
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	time.Sleep(200 * time.Millisecond) // for the kernel, and their new parent, to clear them up
	for _, pid := range children {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("child %s lives on: %s", pid, stat)
		}
	}
}

func TestIO(t *testing.T) {
	dir := t.TempDir()
	out := output(t, "--io", dir, "--io-size", "1m", "--timeout", "400ms", "--interval", "100ms")
	if !regexp.MustCompile(`io: write \d+\.\d \w+/s, read \d+\.\d \w+/s`).MatchString(out) || !strings.Contains(out, "io: wrote") {
		t.Error(out)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"nothing to do":       {},
		"is no size":          {"--memory", "12x"},
		"not defined":         {"--gpu", "1"},
		"unexpected argument": {"--cpu", "1", "fast"},
		"cannot be negative":  {"--cpu", "-1"},
		"must be more than 0": {"--cpu", "1", "--interval", "0s"},
		"mine exists":         {"--io", file},
		"no such file":        {"--io", "/none/such"},
		"map 8388608.0 GiB":   {"--memory", "8388608g"},
	} {
		out, err := tool(t, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) || !strings.HasPrefix(strings.TrimPrefix(lastLines(string(out)), "\n"), "stress: ") {
			t.Errorf("stress %v: %v, %q; want %q", args, err, out, want)
		}
	}
	if data, err := os.ReadFile(file); string(data) != "precious" {
		t.Errorf("a file that was there: %q, %v", data, err)
	}
	if out := output(t, "--help"); !strings.Contains(out, "examples:") {
		t.Error(out)
	}
}

// lastLines leaves out the lines of progress.
func lastLines(out string) string {
	_, after, found := strings.Cut(out, "stress: ")
	if !found {
		return out
	}
	return "stress: " + after
}

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "4096": 4096, "1k": 1 << 10, "64m": 64 << 20, "64M": 64 << 20, "64MiB": 64 << 20, "2g": 2 << 30} {
		var s size
		if err := s.Set(text); err != nil || int64(s) != want {
			t.Errorf("%s: %d, %v; want %d", text, s, err, want)
		}
	}
	for _, text := range []string{"", "m", "-1", "1.5g", "99999999999g", "1t"} {
		var s size
		if err := s.Set(text); err == nil {
			t.Errorf("%q is taken for %d", text, s)
		}
	}
}
