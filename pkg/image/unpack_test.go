package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// unpackOne imports and unpacks an image of one layer.
func unpackOne(t testing.TB, s *Store, layer []byte) (string, error) {
	t.Helper()
	dirs, err := s.Unpack(t.Context(), importLayers(t, s, "app", layer))
	if err != nil {
		return "", err
	}
	return dirs[0], nil
}

func TestUnpackMetadata(t *testing.T) {
	at := time.Unix(1_600_000_000, 123_456_789)
	old := time.Unix(86_400, 0)
	setuid := file("bin/su", "x")
	setuid.Mode, setuid.Uid, setuid.Gid, setuid.ModTime = 0o4755, 12, 34, at
	caps := file("bin/ping", "x")
	// security.capability, version 2: cap_net_raw, effective.
	value := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	caps.PAXRecords["SCHILY.xattr.security.capability"] = value
	caps.PAXRecords["SCHILY.xattr.user.note"] = "hello"
	caps.PAXRecords["SCHILY.xattr.trusted.overlay.opaque"] = "y"
	caps.PAXRecords["SCHILY.xattr.security.selinux"] = "label"
	caps.PAXRecords["SCHILY.xattr.user.overlay.opaque"] = "y"
	tmp := dir("tmp")
	tmp.Mode, tmp.ModTime = 0o1777, old
	rootDir := dir("./")
	rootDir.Mode, rootDir.ModTime = 0o711, old
	link := symlink("link", "/etc/passwd")
	link.Uid, link.ModTime = 99, old
	fifo := tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o622, Gid: 7, ModTime: old}
	root, err := unpackOne(t, newStore(t), tarOf(t, rootDir, tmp, file("tmp/f", "1"), setuid, caps, hardlink("bin/ping6", "bin/ping"), link,
		hardlink("link2", "link"), fifo, file("made/up/parents/f", "1")))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]unix.Stat_t{
		".":               {Mode: unix.S_IFDIR | 0o711, Mtim: unix.Timespec{Sec: old.Unix()}},
		"tmp":             {Mode: unix.S_IFDIR | 0o1777, Mtim: unix.Timespec{Sec: old.Unix()}},
		"bin/su":          {Mode: unix.S_IFREG | 0o4755, Uid: 12, Gid: 34, Mtim: unix.Timespec{Sec: at.Unix(), Nsec: 123_456_789}},
		"link":            {Mode: unix.S_IFLNK | 0o777, Uid: 99, Mtim: unix.Timespec{Sec: old.Unix()}},
		"fifo":            {Mode: unix.S_IFIFO | 0o622, Gid: 7, Mtim: unix.Timespec{Sec: old.Unix()}},
		"made/up/parents": {Mode: unix.S_IFDIR | 0o755},
		"made":            {Mode: unix.S_IFDIR | 0o755},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Error(err)
			continue
		}
		if st.Mode != want.Mode || st.Uid != want.Uid || st.Gid != want.Gid || want.Mtim.Sec != 0 && st.Mtim != want.Mtim {
			t.Errorf("%s: mode %o owner %d:%d time %v; want %o %d:%d %v", name, st.Mode, st.Uid, st.Gid, st.Mtim, want.Mode, want.Uid, want.Gid, want.Mtim)
		}
	}
	for name, want := range map[string]string{"security.capability": value, "user.note": "hello", "trusted.overlay.opaque": "", "security.selinux": "", "user.overlay.opaque": ""} {
		buf := make([]byte, 64)
		n, err := unix.Lgetxattr(filepath.Join(root, "bin/ping"), name, buf)
		if got := string(buf[:max(n, 0)]); got != want || (err == nil) != (want != "") {
			t.Errorf("xattr %s: %q, %v; want %q", name, got, err, want)
		}
	}
	for _, pair := range [][2]string{{"bin/ping", "bin/ping6"}, {"link", "link2"}} {
		a, errA := os.Lstat(filepath.Join(root, pair[0]))
		b, errB := os.Lstat(filepath.Join(root, pair[1]))
		if errA != nil || errB != nil || !os.SameFile(a, b) {
			t.Errorf("%v are not one file", pair)
		}
	}
}

// Later entries of a layer replace earlier ones.
func TestUnpackReplaces(t *testing.T) {
	root, err := unpackOne(t, newStore(t), tarOf(t,
		file("a", "1"), file("a", "22"),
		symlink("b", "a"), file("b", "b"),
		dir("c"), file("c", "c"),
		file("d", "1"), dir("d"), file("d/f", "1"),
		dir("e"), file("e/f", "1"), dir("e"),
		dir("real"), symlink("via", "real"), file("via/f", "1"), file("via", "x"),
	))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(listing(t, root), " "), "a b c d d/f e e/f real real/f via"; got != want {
		t.Errorf("layer holds %s, want %s", got, want)
	}
	if b, err := os.ReadFile(root + "/a"); string(b) != "22" {
		t.Errorf("a is %q, %v", b, err)
	}
}

func TestUnpackRefusesHostileLayers(t *testing.T) {
	device := func(flag byte, major int64) tar.Header {
		return tar.Header{Typeflag: flag, Name: "dev/sda", Mode: 0o666, Devmajor: major, Devminor: 1}
	}
	owned := file("f", "1")
	owned.Uid = 1<<32 - 1
	negative := file("f", "1")
	negative.Uid = -5
	deep := file(strings.Repeat("d/", 2500)+"f", "1")
	for _, c := range []struct {
		name    string
		entries []tar.Header
		want    string
	}{
		{"absolute path", []tar.Header{file("/etc/passwd", "x")}, `entry "/etc/passwd": absolute path`},
		{"path out", []tar.Header{file("../../etc/passwd", "x")}, `entry "../../etc/passwd": path with ".."`},
		{"path out and in", []tar.Header{file("a/../b", "x")}, `path with ".."`},
		{"absolute symlink", []tar.Header{symlink("out", "/etc"), file("out/passwd", "x")}, `entry "out/passwd": a symlink leads out`},
		{"relative symlink", []tar.Header{symlink("out", "../../../../../.."), file("out/sbt", "x")}, `entry "out/sbt": a symlink leads out`},
		{"symlinks in steps", []tar.Header{dir("d"), symlink("d/a", ".."), symlink("b", "d/a/.."), file("b/sbt", "x")}, `entry "b/sbt": a symlink leads out`},
		{"symlink to magic link", []tar.Header{symlink("out", "/proc/self/root"), file("out/sbt", "x")}, "a symlink leads out"},
		{"mkdir through symlink", []tar.Header{symlink("out", "/tmp"), dir("out/sbt-evil/x")}, "a symlink leads out"},
		{"whiteout through symlink", []tar.Header{symlink("out", "/etc"), file("out/.wh.passwd", "")}, "a symlink leads out"},
		{"opaque through symlink", []tar.Header{symlink("out", "/tmp"), file("out/.wh..wh..opq", "")}, "a symlink leads out"},
		{"symlink circle", []tar.Header{symlink("a", "b"), symlink("b", "a"), file("a/f", "x")}, "in a circle"},
		{"file as directory", []tar.Header{file("f", "x"), file("f/g", "x")}, "not a directory"},
		{"whiteout of parent", []tar.Header{dir("d"), file("d/.wh...", "")}, `whiteout of ".."`},
		{"whiteout of itself", []tar.Header{dir("d"), file("d/.wh..", "")}, `whiteout of "."`},
		{"whiteout of nothing", []tar.Header{dir("d"), file("d/.wh.", "")}, `whiteout of ""`},
		{"hard link out", []tar.Header{hardlink("f", "../../../etc/passwd")}, `entry "f": hard link to "../../../etc/passwd": path with ".."`},
		{"absolute hard link", []tar.Header{hardlink("f", "/etc/passwd")}, "absolute path"},
		{"hard link through symlink", []tar.Header{symlink("out", "/etc"), hardlink("f", "out/passwd")}, "a symlink leads out"},
		{"hard link to nothing", []tar.Header{hardlink("f", "g")}, "no such file in this layer"},
		{"hard link to directory", []tar.Header{dir("d"), hardlink("f", "d")}, "no such file in this layer"},
		{"hard link to itself", []tar.Header{file("f", "x"), hardlink("f", "f")}, "no such file in this layer"},
		{"block device", []tar.Header{device(tar.TypeBlock, 8)}, `entry "dev/sda": device node 8:1`},
		{"character device", []tar.Header{device(tar.TypeChar, 1)}, "device node 1:1"},
		{"owner -1", []tar.Header{owned}, "is no valid ID"},
		{"negative owner", []tar.Header{negative}, "is no valid ID"},
		{"root is a file", []tar.Header{file(".", "x")}, "the root is no directory"},
		{"root is a link", []tar.Header{symlink("./", "/etc")}, "the root is no directory"},
		{"path too long", []tar.Header{deep}, "name too long"},
		{"unknown type", []tar.Header{{Typeflag: 'Z', Name: "z"}}, "unknown tar entry type"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			root, err := unpackOne(t, s, tarOf(t, c.entries...))
			if err == nil {
				t.Fatalf("unpacked: %v", listing(t, root))
			}
			if !strings.Contains(err.Error(), c.want) || !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %q, want it to say %q", err, c.want)
			}
			checkClean(t, s)
		})
	}
	for _, path := range []string{"/etc/sbt", "/sbt", "/tmp/sbt-evil"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s was written", path)
		}
	}
}

func TestUnpackFollowsSymlinksInside(t *testing.T) {
	root, err := unpackOne(t, newStore(t), tarOf(t, dir("usr/lib"), symlink("lib", "usr/lib"), file("lib/f", "1"), dir("a"), symlink("a/up", "../usr"), file("a/up/g", "1")))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(listing(t, root), " "), "a a/up lib usr usr/g usr/lib usr/lib/f"; got != want {
		t.Errorf("layer holds %s, want %s", got, want)
	}
}

func TestUnpackRefusesBombs(t *testing.T) {
	zeros := tarOf(t, file("zeros", string(make([]byte, 32<<20))))
	// GNU sparse, PAX format 1.0: a file of 1 TiB whose tar holds one block.
	sparse := tarOf(t, file("f", "x"))
	many := make([]tar.Header, 300)
	for i := range many {
		many[i] = dir(strconv.Itoa(i))
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		layer  []byte
		zstd   bool
		limits func(*Limits)
		want   string
	}{
		{"size", zeros, false, func(l *Limits) { l.Layer = 16 << 20 }, `entry "zeros": layer unpacks to more than 16777216 bytes`},
		{"ratio", zeros, false, func(l *Limits) { l.RatioFrom = 1 << 20 }, "times its compressed size"},
		{"ratio of zstd", zeros, true, func(l *Limits) { l.RatioFrom = 1 << 20 }, "times its compressed size"},
		{"count", tarOf(t, many...), false, func(l *Limits) { l.Files = 200 }, `entry "200": layer has more than 200 entries`},
		{"count of parents", tarOf(t, file(strings.Repeat("d/", 300)+"f", "x")), false, func(l *Limits) { l.Files = 200 }, "more than 200 entries"},
		// Everything after the end marker counts too.
		{"tail", append(sparse, make([]byte, 32<<20)...), false, func(l *Limits) { l.Layer = 16 << 20 }, "unpacks to more than 16777216 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			c.limits(&s.limits)
			a := newArchive(t, "app", c.layer)
			if c.zstd {
				a = newArchive(t, "app")
				a.manifest.Layers = []ispec.Descriptor{a.blob(ispec.MediaTypeImageLayerZstd, enc.EncodeAll(c.layer, nil))}
				a.config.RootFS.DiffIDs = []digest.Digest{digest.FromBytes(c.layer)}
			}
			images, err := s.Import(t.Context(), bytes.NewReader(a.seal(t).bytes(t)), ImportOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Unpack(t.Context(), images[0])
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
			checkClean(t, s)
		})
	}
}

func TestUnpackChecksContent(t *testing.T) {
	layer := tarOf(t, file("f", "1"))
	wrong := newArchive(t, "app", layer)
	wrong.config.RootFS.DiffIDs[0] = digest.FromString("something else")
	packed, err := compress(layer)
	if err != nil {
		t.Fatal(err)
	}
	truncated := newArchive(t, "app", layer)
	truncated.manifest.Layers[0] = truncated.blob(ispec.MediaTypeImageLayerGzip, packed[:len(packed)-6])
	for want, a := range map[string]*archive{"is not that of diff ID": wrong, "unexpected EOF": truncated} {
		s := newStore(t)
		images, err := s.Import(t.Context(), bytes.NewReader(a.seal(t).bytes(t)), ImportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Unpack(t.Context(), images[0]); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "app:latest") {
			t.Errorf("got %v, want %q and the image's name", err, want)
		}
		checkClean(t, s)
	}
}

func TestUnpackTogether(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "app", bigLayer(t, 1), bigLayer(t, 2), bigLayer(t, 1))
	root := filepath.Dir(s.images)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			dirs, err := openStore(t, root).Unpack(t.Context(), img)
			if err != nil {
				t.Error(err)
				return
			}
			if len(dirs) != 2 || dirs[0] == dirs[1] || !isDir(dirs[0]) || !isDir(dirs[1]) {
				t.Errorf("got %v", dirs)
			}
		})
	}
	group.Wait()
	checkClean(t, s)
}

// An image may have one layer twice; overlayfs takes it only once.
func TestUnpackLayerTwice(t *testing.T) {
	s := newStore(t)
	twice := tarOf(t, file("f", "twice"), file(".wh.g", ""))
	img := importLayers(t, s, "app", twice, tarOf(t, file("f", "once"), file("g", "once")), twice)
	lower, err := s.Unpack(t.Context(), img)
	must(t, err)
	merged := mountLower(t, lower)
	if data, err := os.ReadFile(merged + "/f"); string(data) != "twice" || len(listing(t, merged)) != 1 {
		t.Errorf("f is %q, %v; all: %v", data, err, listing(t, merged))
	}
}

// An opaque root hides all the layers below.
func TestUnpackOpaqueRoot(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "app",
		tarOf(t, file("a", "1"), dir("d"), file("d/old", "1")),
		tarOf(t, file(".wh.a", ""), file("b", "2"), file(".wh..wh..opq", ""), dir("d")),
		tarOf(t, file("c", "3")))
	lower, err := s.Unpack(t.Context(), img)
	must(t, err)
	merged := mountLower(t, lower)
	if got, want := strings.Join(listing(t, merged), " "), "b c d"; got != want {
		t.Errorf("image holds %s, want %s", got, want)
	}
}

func TestUnpackCancelled(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "app", bigLayer(t, 1))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := s.Unpack(ctx, img); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want deadline exceeded", err)
	}
	checkClean(t, s)
}

// A wait for somebody else's lock ends with ctx.
func TestUnpackWaitCancelled(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "app", tarOf(t, file("f", "1")))
	lock, err := lockFile(t.Context(), filepath.Join(s.layerDir(img.Config.RootFS.DiffIDs[0]), layerLock))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Unpack(ctx, img); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want deadline exceeded", err)
	}
	lock.Close()
	if _, err := s.Unpack(t.Context(), img); err != nil {
		t.Errorf("after the lock is free: %v", err)
	}
}

// bigLayer has a thousand files, so that it can be interrupted.
func bigLayer(t testing.TB, seed int) []byte {
	t.Helper()
	var entries []tar.Header
	for i := range 1000 {
		entries = append(entries, file("d"+strconv.Itoa(i/100)+"/f"+strconv.Itoa(i), strings.Repeat(strconv.Itoa(i*seed), 1000)))
	}
	return tarOf(t, entries...)
}
