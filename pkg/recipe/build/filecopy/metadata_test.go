package filecopy

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func isCause(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

func TestTimes(t *testing.T) {
	old, young := time.Unix(1e9, 123456789), time.Now().Add(-time.Hour)
	epoch := time.Unix(1.5e9, 0)
	for _, c := range []struct {
		name  string
		epoch time.Time
		want  func(time.Time) time.Time
	}{
		{"kept", time.Time{}, func(t time.Time) time.Time { return t }},
		{"clamped", epoch, func(t time.Time) time.Time {
			if t.After(epoch) {
				return epoch
			}
			return t
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, to := t.TempDir(), t.TempDir()
			makeTree(t, from, "d/old", "d/young", "d/e/f", "d/l -> old")
			for name, at := range map[string]time.Time{"d/old": old, "d/young": young, "d/e/f": young, "d/e": old} {
				if err := os.Chtimes(filepath.Join(from, name), at, at); err != nil {
					t.Fatal(err)
				}
			}
			opts := Options{Epoch: c.epoch, Files: []File{{Name: "here"}}}
			if err := Copy(t.Context(), Tree{Root: from}, []string{"d"}, to, "/x/y/", opts); err != nil {
				t.Fatal(err)
			}
			for name, at := range map[string]time.Time{"old": old, "young": young, "e": old, "e/f": young} {
				info, err := os.Lstat(filepath.Join(to, "x/y", name))
				if err != nil {
					t.Fatal(err)
				}
				if want := c.want(at); !info.ModTime().Equal(want) {
					t.Errorf("%s is of %s, want %s", name, info.ModTime(), want)
				}
			}
			if c.epoch.IsZero() {
				return
			}
			for _, name := range []string{"x", "x/y", "x/y/here", "x/y/l"} {
				info, err := os.Lstat(filepath.Join(to, name))
				if err != nil {
					t.Fatal(err)
				}
				if info.ModTime().After(epoch) {
					t.Errorf("%s is of %s, after the epoch", name, info.ModTime())
				}
			}
		})
	}
}

func TestXattrs(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	makeTree(t, from, "d/f mode=0755", "d/e/")
	// cap_net_bind_service+ep; see capabilities(7), "File capability extended attribute versioning".
	capability := []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	big := bytes.Repeat([]byte("x"), 3000)
	for file, attrs := range map[string]map[string][]byte{
		"d/f": {"user.a": []byte("1"), "user.empty": nil, "user.big": big, "security.capability": capability, "trusted.t": []byte("1")},
		"d/e": {"user.b": []byte("2"), "trusted.overlay.opaque": []byte("y"), "user.overlay.opaque": []byte("y")},
	} {
		for name, value := range attrs {
			if err := unix.Setxattr(filepath.Join(from, file), name, value, 0); err != nil {
				t.Fatal(name, err)
			}
		}
	}
	if err := Copy(t.Context(), Tree{Root: from}, []string{"d"}, to, "/", Options{Chown: "5"}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string][]xattr{
		"f": {{"security.capability", capability}, {"user.a", []byte("1")}, {"user.big", big}, {"user.empty", []byte{}}},
		"e": {{"user.b", []byte("2")}},
	} {
		fd, err := unix.Open(filepath.Join(to, file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		list := make([]byte, 1<<10)
		n, err := unix.Flistxattr(fd, list)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(list[:n]), "\x00"); got != len(want) {
			t.Errorf("%s has xattrs %q", file, list[:n])
		}
		got, err := xattrs(fd)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got, want, func(a, b xattr) bool { return a.name == b.name && bytes.Equal(a.value, b.value) }) {
			t.Errorf("%s has %q, want %q", file, got, want)
		}
	}
}

func TestMode(t *testing.T) {
	for _, c := range []struct {
		mode     string
		st, want uint32
	}{
		{"", unix.S_IFREG | 0o4711, 0o4711},
		{"640", unix.S_IFREG | 0o4711, 0o640},
		{"7777", unix.S_IFDIR, 0o7777},
		{"u+x", unix.S_IFREG | 0o644, 0o744},
		{"+x", unix.S_IFREG | 0o644, 0o755},
		{"a-w", unix.S_IFREG | 0o666, 0o444},
		{"go=", unix.S_IFREG | 0o777, 0o700},
		{"u=rwX,go=rX", unix.S_IFREG | 0o600, 0o644},
		{"u=rwX,go=rX", unix.S_IFREG | 0o700, 0o755},
		{"u=rwX,go=rX", unix.S_IFDIR | 0o600, 0o755},
		{"g=u", unix.S_IFREG | 0o640, 0o660},
		{"o=g-w", unix.S_IFREG | 0o660, 0o664},
		{"u+s,+t", unix.S_IFREG | 0o755, 0o5755},
		{"g+s", unix.S_IFREG | 0o755, 0o2755},
		{"u=rwx", unix.S_IFREG | 0o4644, 0o744},
		{"ugo=r", unix.S_IFREG | 0o7777, 0o444},
	} {
		m, err := parseMode(c.mode)
		if err != nil {
			t.Errorf("%q: %v", c.mode, err)
			continue
		}
		if got := m.apply(c.st); got != c.want {
			t.Errorf("%q of %04o is %04o, want %04o", c.mode, c.st&0o7777, got, c.want)
		}
	}
	for _, bad := range []string{"8", "10000", "-1x", "x", "u", "u+q", "u+x,", "u+rug", "0x1"} {
		if m, err := parseMode(bad); err == nil {
			t.Errorf("%q is %+v", bad, m)
		}
	}
}

// TestContent: whichever way the bytes go, they arrive.
func TestContent(t *testing.T) {
	random := make([]byte, 3<<20+17)
	for i := range random {
		random[i] = byte(rand.Int())
	}
	noRange, nothing := &copier{}, &copier{}
	noRange.noRange.Store(true)
	nothing.noRange.Store(true)
	nothing.noSend.Store(true)
	for name, c := range map[string]*copier{"copy_file_range": {}, "sendfile": noRange, "read and write": nothing} {
		for _, size := range []int{0, 1, len(random)} {
			from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
			if err := os.WriteFile(from, random[:size], 0o600); err != nil {
				t.Fatal(err)
			}
			in, err := os.Open(from)
			if err != nil {
				t.Fatal(err)
			}
			out, err := os.Create(to)
			if err != nil {
				t.Fatal(err)
			}
			// It may shrink or grow after its size was read.
			for _, claimed := range []int{size, size / 2, size + 99} {
				if _, err := in.Seek(0, 0); err != nil {
					t.Fatal(err)
				}
				if _, err := out.Seek(0, 0); err != nil {
					t.Fatal(err)
				}
				if err := c.copy(t.Context(), int(out.Fd()), int(in.Fd()), int64(claimed)); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, random[:size]) {
					t.Errorf("%s of %d bytes, said to be %d: %d bytes arrived, %v", name, size, claimed, len(got), err)
				}
			}
			in.Close()
			out.Close()
		}
	}
}

// TestSwaps: while somebody keeps replacing what is copied and where it goes by
// symlinks to the outside, nothing of the outside is read or written.
func TestSwaps(t *testing.T) {
	outside := t.TempDir()
	makeTree(t, outside, "secret=secret", "d/secret=secret")
	from, to := t.TempDir(), t.TempDir()
	makeTree(t, from, "s/f=f", "s/d/g=g", "s/d/h=h")
	makeTree(t, to, "x/d/", "x/e/")
	stop := make(chan struct{})
	var swappers sync.WaitGroup
	for _, s := range [][2]string{
		{from + "/s/d", outside + "/d"}, {from + "/s/f", outside + "/secret"},
		{to + "/x/d", outside}, {to + "/x", outside}, {to + "/x/f", outside + "/secret"},
	} {
		if err := os.Symlink(s[1], s[0]+".link"); err != nil {
			t.Fatal(err)
		}
		// Not by path: that would lead outside itself.
		dir, err := os.Open(filepath.Dir(s[0]))
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(s[0])
		swappers.Go(func() {
			defer dir.Close()
			for {
				select {
				case <-stop:
					return
				default:
					_ = unix.Renameat2(int(dir.Fd()), name, int(dir.Fd()), name+".link", unix.RENAME_EXCHANGE)
				}
			}
		})
	}
	deadline, done, total := time.Now().Add(2*time.Second), 0, 0
	for ; time.Now().Before(deadline); total++ {
		// Errors are as they come: what matters is what did not happen.
		for _, pattern := range []string{"s", "s/d*", "s/d/g", "s/f"} {
			err := Copy(t.Context(), Tree{Root: from}, []string{pattern}, to, "/x/", Options{KeepOwner: true})
			if err == nil {
				done++
			}
		}
	}
	close(stop)
	swappers.Wait()
	if t.Logf("%d of %d copies were not disturbed", done, 4*total); done == 0 {
		t.Error("no copy came through")
	}
	want := []string{"d 0755 0:0 d", "f 0644 0:0 d/secret secret", "f 0644 0:0 secret secret"}
	if got := listTree(t, outside); !slices.Equal(got, want) {
		t.Errorf("outside is now\n%s", strings.Join(got, "\n"))
	}
	for _, line := range listTree(t, to) {
		if strings.HasPrefix(line, "f") && strings.Contains(line, "secret") {
			t.Errorf("copied from outside: %s", line)
		}
	}
}

func TestDeepTree(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	makeTree(t, from, "d/"+strings.Repeat("e/", maxDepth+10)+"f")
	err := Copy(t.Context(), Tree{Root: from}, []string{"d"}, to, "/", Options{})
	if err == nil || !strings.Contains(err.Error(), "nest deeper than") {
		t.Errorf("error is %v", err)
	}
}

// TestRootInContext: "COPY . /" of a context that holds what is being built ends.
func TestRootInContext(t *testing.T) {
	from := t.TempDir()
	makeTree(t, from, "a", "state/layer/")
	err := Copy(t.Context(), Tree{Root: from}, []string{"."}, from+"/state/layer", "/", Options{})
	if err == nil || !strings.Contains(err.Error(), "state/layer is the root file system that is copied to") {
		t.Errorf("error is %v", err)
	}
}

func TestDevices(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	makeTree(t, from, "d/")
	if err := unix.Mknod(from+"/d/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"d", "d/null"} {
		err := Copy(t.Context(), Tree{Root: from}, []string{pattern}, to, "/", Options{})
		if err == nil || !strings.Contains(err.Error(), "device node 1:3") {
			t.Errorf("copy of %s: %v", pattern, err)
		}
		if _, err := (Tree{Root: from}).Digest(t.Context(), []string{pattern}, Options{}); err == nil || !strings.Contains(err.Error(), "device node 1:3") {
			t.Errorf("digest of %s: %v", pattern, err)
		}
	}
}

func TestLoadIgnore(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	makeTree(t, dir, ".dockerignore=a", "sub/Dockerfile.dockerignore=b", "x.dockerignore -> /etc/ignore", "etc/ignore=c")
	makeTree(t, other, "Dockerfile.dockerignore=d")
	for dockerfile, want := range map[string]string{
		"": "a", "Dockerfile": "a", "sub/Dockerfile": "b", "x": "c", "missing/Dockerfile": "a", other + "/Dockerfile": "d", other + "/sub/D": "a",
	} {
		i, err := LoadIgnore(dir, dockerfile)
		if err != nil {
			t.Errorf("%s: %v", dockerfile, err)
			continue
		}
		if !slices.Equal(i.patterns, []string{want}) {
			t.Errorf("%s: %q, want %s", dockerfile, i.patterns, want)
		}
	}
	if i, err := LoadIgnore(other, ""); err != nil || i == nil {
		t.Errorf("beside the Dockerfile: %v, %v", i, err)
	}
	if i, err := LoadIgnore(dir+"/sub", ""); err != nil || i == nil || i.name != "Dockerfile.dockerignore" {
		t.Errorf("of the Dockerfile's name: %v, %v", i, err)
	}
	if i, err := LoadIgnore(dir+"/etc", ""); err != nil || i != nil {
		t.Errorf("without a file: %v, %v", i, err)
	}
	for _, bad := range []string{"[", "!", "a\n!\n"} {
		if _, err := ParseIgnore(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(), "parse .dockerignore") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
