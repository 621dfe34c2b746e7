package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestReadHost(t *testing.T) {
	h, err := ReadHost("/proc", "/sys")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", h)
	if h.Hostname == "" || h.CPUs.count() == 0 {
		t.Errorf("%+v", h)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if h.Seccomp != strings.Contains(string(status), "\nSeccomp_filters:") {
		t.Errorf("seccomp %v, /proc/self/status says otherwise", h.Seccomp)
	}
}

func TestReadHostElsewhere(t *testing.T) {
	root := t.TempDir()
	for file, content := range map[string]string{
		"proc/self/oom_score_adj":                            "-500\n",
		"sys/module/apparmor/parameters/enabled":             "Y\n",
		"sys/devices/system/cpu/online":                      "0-2,4\n",
		"sys/devices/system/cpu/cpu1/thermal_throttle/count": "0\n",
	} {
		file = filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h, err := ReadHost(filepath.Join(root, "proc"), filepath.Join(root, "sys"))
	if err != nil {
		t.Fatal(err)
	}
	if !h.AppArmor || h.OOMScoreAdj != -500 || h.CPUs.String() != "0-2,4" || h.CPUs.count() != 4 || h.MemoryNodes != nil ||
		!slices.Equal(h.MaskedPaths, []string{"/sys/devices/system/cpu/cpu1/thermal_throttle"}) {
		t.Errorf("%+v", h)
	}
}

func TestParseIDSet(t *testing.T) {
	for list, want := range map[string]string{"0": "0", "3,0-1,2": "0-3", "5,0-7": "0-7", "1,3-4,8": "1,3-4,8"} {
		set, err := ParseIDSet(list)
		if err != nil || set.String() != want {
			t.Errorf("%s: %v %v, want %s", list, set, err, want)
		}
	}
	for _, list := range []string{"", ",", "1-", "-1", "2-1", "x", "0-65536", "1,,2", "+1"} {
		if set, err := ParseIDSet(list); err == nil {
			t.Errorf("%q: %v", list, set)
		}
	}
}

func TestStatDevice(t *testing.T) {
	d, err := StatDevice("/dev/null")
	if err != nil || d.Type != "c" || d.Major != 1 || d.Minor != 3 {
		t.Errorf("%+v %v", d, err)
	}
	if _, err := StatDevice("/etc"); !errors.Is(err, ErrNotDevice) {
		t.Error(err)
	}
	if _, err := StatDevice("/dev/none-such"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestHostDevices(t *testing.T) {
	devices, err := HostDevices("/dev")
	if err != nil {
		t.Fatal(err)
	}
	null := false
	for _, d := range devices {
		null = null || d.Path == "/dev/null" && d.Type == "c" && d.Major == 1 && d.Minor == 3 && d.FileMode.Perm() == 0o666
		if strings.HasPrefix(d.Path, "/dev/pts/") {
			t.Errorf("%s is a terminal of the host's", d.Path)
		}
	}
	if !null {
		t.Error("no /dev/null")
	}
}

const passwd = `root:x:0:0:root:/root:/bin/sh
# a comment

daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
www:x:33:33:www:/var/www:/bin/sh
nohome:x:40:40
1234:x:50:50::/numeric:
broken:x:many:0::/:
`

const group = `root:x:0:
daemon:x:1:www
www:x:33:www,other
adm:x:4:other,www,root
`

func TestLookupUser(t *testing.T) {
	root := t.TempDir()
	write(t, root, "etc/passwd", passwd)
	write(t, root, "etc/group", group)
	dir := open(t, root)
	for spec, want := range map[string]User{
		"":          {0, 0, []uint32{0, 4}, "/root"},
		"root":      {0, 0, []uint32{0, 4}, "/root"},
		"0":         {0, 0, []uint32{0, 4}, "/root"},
		"www":       {33, 33, []uint32{33, 1, 4}, "/var/www"},
		"33":        {33, 33, []uint32{33, 1, 4}, "/var/www"},
		"www:adm":   {33, 4, []uint32{4}, "/var/www"},
		"33:4":      {33, 4, []uint32{4}, "/var/www"},
		"www:77":    {33, 77, []uint32{77}, "/var/www"},
		"77":        {77, 0, []uint32{0}, "/"},
		"77:78":     {77, 78, []uint32{78}, "/"},
		"nohome":    {40, 40, []uint32{40}, "/"},
		"1234":      {50, 50, []uint32{50}, "/numeric"},
		"www:":      {33, 33, []uint32{33, 1, 4}, "/var/www"},
		":www":      {0, 33, []uint32{33}, "/root"},
		":":         {0, 0, []uint32{0, 4}, "/root"},
		"daemon:33": {1, 33, []uint32{33}, "/usr/sbin"},
	} {
		got, err := LookupUser(dir, spec)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v %v, want %+v", spec, got, err, want)
		}
	}
	for spec, want := range map[string]string{
		"nobody":         `user "nobody" is not in the image's /etc/passwd`,
		"www:staff":      `group "staff" is not in the image's /etc/group`,
		"broken":         `user "broken" is not in the image's /etc/passwd`,
		"-1":             `user "-1" is not in the image's /etc/passwd`,
		"4294967295":     `user "4294967295" is not in the image's /etc/passwd`,
		"www:4294967295": `group "4294967295" is not in the image's /etc/group`,
		":staff":         `group "staff" is not in the image's /etc/group`,
	} {
		if _, err := LookupUser(dir, spec); err == nil || err.Error() != want || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, want %s", spec, err, want)
		}
	}
}

func TestLookupUserWithoutDatabases(t *testing.T) {
	dir := open(t, t.TempDir())
	for spec, want := range map[string]User{"": {0, 0, []uint32{0}, "/"}, "5:6": {5, 6, []uint32{6}, "/"}} {
		if got, err := LookupUser(dir, spec); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v %v, want %+v", spec, got, err, want)
		}
	}
}

// TestLookupUserStaysInside: an image's /etc/passwd may be anything.
func TestLookupUserStaysInside(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, "passwd", "spy:x:7:7::/:\n")
	for name, make := range map[string]func(root string) error{
		"absolute link": func(root string) error { return os.Symlink(filepath.Join(outside, "passwd"), root+"/etc/passwd") },
		"relative link": func(root string) error {
			return os.Symlink("../../../../../../../.."+filepath.Join(outside, "passwd"), root+"/etc/passwd")
		},
		"linked folder": func(root string) error {
			if err := os.Remove(root + "/etc"); err != nil {
				return err
			}
			return os.Symlink(outside, root+"/etc")
		},
	} {
		root := t.TempDir()
		if err := os.Mkdir(root+"/etc", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := make(root); err != nil {
			t.Fatal(err)
		}
		if u, err := LookupUser(open(t, root), "spy"); err == nil || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %+v %v", name, u, err)
		}
	}
	root := t.TempDir()
	write(t, root, "etc/real", "inside:x:8:8::/:\n")
	if err := os.Symlink("/etc/real", root+"/etc/passwd"); err != nil {
		t.Fatal(err)
	}
	if u, err := LookupUser(open(t, root), "inside"); err != nil || u.UID != 8 {
		t.Errorf("a link that stays inside: %+v %v", u, err)
	}
}

func TestLookupUserRefusesWhatIsNoFile(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(root+"/etc/passwd", 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := LookupUser(open(t, root), "")
	if err == nil || err.Error() != "open the image's /etc/passwd: it is not a regular file" || !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestLookupUserRefusesHugeFiles(t *testing.T) {
	root := t.TempDir()
	write(t, root, "etc/passwd", strings.Repeat("x:x:1:1:::\n", maxDatabase/10))
	if _, err := LookupUser(open(t, root), "y"); err == nil || err.Error() != "the image's /etc/passwd is larger than 4194304 bytes" {
		t.Error(err)
	}
}

func write(t *testing.T, root, name, content string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
