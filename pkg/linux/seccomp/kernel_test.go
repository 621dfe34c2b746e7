package seccomp

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// childProfile is the environment variable that makes the test binary a child
// which puts itself under the profile in it.
const childProfile = "SECCOMP_TEST_PROFILE"

func TestMain(m *testing.M) {
	if profile := os.Getenv(childProfile); profile != "" {
		fmt.Println(strings.Join(child(profile), "\n"))
		return
	}
	os.Exit(m.Run())
}

// child loads the profile and reports what some system calls then return.
func child(profile string) []string {
	s := &specs.LinuxSeccomp{}
	if err := json.Unmarshal([]byte(profile), s); err != nil {
		return []string{err.Error()}
	}
	f, _, err := Compile(s)
	if err != nil {
		return []string{err.Error()}
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return []string{err.Error()}
	}
	prog := unix.SockFprog{Len: uint16(len(f.Program)), Filter: &f.Program[0]}
	flags := f.Flags | unix.SECCOMP_FILTER_FLAG_TSYNC // all of Go's threads
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return []string{"seccomp: " + errno.Error()}
	}
	var results []string
	try := func(what string, nr uintptr, args ...uintptr) {
		args = append(args, 0, 0, 0)
		_, _, errno := unix.Syscall(nr, args[0], args[1], args[2])
		results = append(results, fmt.Sprintf("%s: %s", what, unix.ErrnoName(errno)))
	}
	try("getppid", unix.SYS_GETPPID)
	try("mount", unix.SYS_MOUNT)
	try("unshare user", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	try("clone3", unix.SYS_CLONE3)
	try("socket alg", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET)
	try("socket inet", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM)
	try("personality 0xffffffff", unix.SYS_PERSONALITY, 0xffffffff)
	try("personality no randomize", unix.SYS_PERSONALITY, 0x0040000)
	try("above the profile", 500)
	return results
}

func startChild(t *testing.T, s *specs.LinuxSeccomp) ([]string, error) {
	t.Helper()
	profile, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childProfile+"="+string(profile))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.Split(strings.TrimSpace(string(out)), "\n"), err
}

func TestKernelAppliesDockerProfile(t *testing.T) {
	got, err := startChild(t, docker(t))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"getppid: ",
		"mount: EPERM",
		"unshare user: EPERM",
		"clone3: ENOSYS",
		"socket alg: EPERM",
		"socket inet: ",
		"personality 0xffffffff: ",
		"personality no randomize: EPERM",
		"above the profile: ENOSYS",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestKernelKills(t *testing.T) {
	_, err := startChild(t, &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"getppid"}, Action: specs.ActKillProcess}},
	})
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGSYS {
		t.Errorf("%v, want death by SIGSYS", err)
	}
}
