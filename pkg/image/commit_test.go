package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"golang.org/x/sys/unix"
)

// A layer of everything that a process can leave behind.
func everything(t testing.TB, root string) {
	must(t, os.Chmod(root, 0o751))
	must(t, os.Chown(root, 3, 4))
	write(t, root+"/etc/new", "new")
	must(t, os.Chtimes(root+"/etc/new", time.Time{}, time.Unix(1_600_000_000, 123456789)))
	write(t, root+"/d/old", "changed") // was there
	must(t, os.Remove(root+"/gone"))
	must(t, os.RemoveAll(root+"/again"))
	write(t, root+"/again/new", "x") // a new directory hides the old one
	write(t, root+"/bin/a", "linked")
	must(t, os.Link(root+"/bin/a", root+"/bin/b"))
	must(t, os.Link(root+"/bin/a", root+"/0first"))
	must(t, os.Symlink("../nowhere", root+"/bin/link"))
	must(t, os.Link(root+"/bin/link", root+"/bin/link2"))
	must(t, os.Lchown(root+"/bin/link", 5, 6))
	must(t, unix.Mkfifo(root+"/fifo", 0o622))
	write(t, root+"/su", "x")
	must(t, os.Chown(root+"/su", 12, 1<<31))
	must(t, unix.Chmod(root+"/su", 0o6755))
	must(t, unix.Setxattr(root+"/su", "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	must(t, unix.Setxattr(root+"/su", "user.note", []byte("with\x00NUL=\n"), 0))
	must(t, unix.Setxattr(root+"/bin", "user.dir", nil, 0))
	must(t, unix.Setxattr(root+"/su", "trusted.other", []byte("of the host"), 0))
	write(t, root+"/"+strings.Repeat("long/", 60)+strings.Repeat("n", 200), "deep")
	write(t, root+"/new\nline \xff\xfe ünicode \"'\\", "odd")
	must(t, os.Chtimes(root+"/fifo", time.Time{}, time.Unix(-5, 0)))
	write(t, root+"/empty", "")
	sparse, err := os.Create(root + "/sparse")
	must(t, err)
	must(t, sparse.Truncate(3<<20))
	must(t, sparse.Close())
	socket, err := net.Listen("unix", root+"/sock")
	must(t, err)
	socket.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, socket.Close())
}

func baseLayer(t testing.TB) []byte {
	return tarOf(t, dir("./"), file("gone", "1"), dir("d"), file("d/old", "1"), file("d/kept", "1"), dir("again"), file("again/old", "1"))
}

// commitOver commits change as a layer over an image of baseLayer.
func commitOver(t testing.TB, s *Store, name string, change func(root string)) (Image, []PackedLayer, error) {
	t.Helper()
	base := importLayers(t, s, "base", baseLayer(t))
	lower, err := s.Unpack(t.Context(), base)
	must(t, err)
	return s.Commit(t.Context(), Commit{
		Names:  []string{name},
		Config: ispec.Image{Config: ispec.ImageConfig{Cmd: []string{"sh"}}},
		Epoch:  epoch,
		Source: SourceRecipe,
		Layers: []LayerSource{
			{Packed: &PackedLayer{base.Manifest.Layers[0], base.Config.RootFS.DiffIDs[0]}},
			{Upper: upperOf(t, lower, change)},
		},
	})
}

// The folder that becomes a layer is the tree that its tar unpacks to.
func TestCommitFolderIsTar(t *testing.T) {
	s := newStore(t)
	img, layers, err := commitOver(t, s, "app:v1", func(root string) { everything(t, root) })
	must(t, err)
	if img.Name != "app:v1" || img.Source != SourceRecipe || len(layers) != 2 || img.ChainIDs[1] == "" {
		t.Errorf("image %+v, layers %v", img, layers)
	}
	dir, ok := s.LayerDir(layers[1].DiffID)
	if !ok {
		t.Fatal("the folder is no layer")
	}
	adopted := tree(t, dir)

	other := newStore(t)
	data, err := os.ReadFile(s.blobPath(layers[1].Descriptor.Digest))
	must(t, err)
	a := newArchive(t, "app")
	a.manifest.Layers = []ispec.Descriptor{a.blob(ispec.MediaTypeImageLayerGzip, data)}
	a.config.RootFS.DiffIDs = []digest.Digest{layers[1].DiffID}
	images, err := other.Import(t.Context(), bytes.NewReader(a.seal(t).bytes(t)), ImportOptions{})
	must(t, err)
	dirs, err := other.Unpack(t.Context(), images[0])
	must(t, err)
	unpacked := tree(t, dirs[0])
	for i := range max(len(adopted), len(unpacked)) {
		a, b := "", ""
		if i < len(adopted) {
			a = adopted[i]
		}
		if i < len(unpacked) {
			b = unpacked[i]
		}
		if a != b {
			t.Fatalf("folder:   %s\nunpacked: %s", a, b)
		}
	}
	all := strings.Join(adopted, "\n")
	for _, want := range []string{
		`"." 40751 3:4 1700000000.0`, `"gone" whiteout`, `trusted.overlay.opaque="y"`, `"etc/new" 100644 0:0 1600000000.000000000`,
		`= "0first"`, `"bin/link2" 120777 5:6`, `"fifo" 10600 0:0 -5.0`, `"su" 106755 12:2147483648`,
		`user.note="with\x00NUL=\n"`, `security.capability=`, `"bin" 40755 0:0 1700000000.000000000 user.dir=""`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the layer lacks %s:\n%s", want, all)
		}
	}
	for _, bad := range []string{"trusted.other", "trusted.overlay.origin", `"sock"`} {
		if strings.Contains(all, bad) {
			t.Errorf("the layer has %s", bad)
		}
	}
	checkClean(t, s)
}

// Same input, same digest: whatever the machine and the order of its work.
func TestCommitReproducible(t *testing.T) {
	noise := strings.Repeat("0123456789abcdefghij", 200_000) // several blocks of gzip
	var first Image
	for i := range 3 {
		if i == 1 {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
		}
		img, _, err := commitOver(t, newStore(t), "app", func(root string) {
			everything(t, root)
			names := []string{"x", "y", "z"}
			if i == 2 {
				slices.Reverse(names)
			}
			for _, n := range names {
				write(t, root+"/many/"+n, noise)
			}
		})
		must(t, err)
		if i > 0 && img.Descriptor.Digest != first.Descriptor.Digest {
			t.Errorf("run %d: manifest %s, layers %v; want %s, %v", i, img.Descriptor.Digest, img.Manifest.Layers, first.Descriptor.Digest, first.Manifest.Layers)
		}
		first = img
	}
}

func TestCommitConfig(t *testing.T) {
	s := newStore(t)
	created := time.Unix(1000, 0).UTC()
	c := Commit{
		Names: []string{"app:v1", "example.org/app:v2"},
		Config: ispec.Image{
			Created: &created,
			Config:  ispec.ImageConfig{Env: []string{"A=b"}, Labels: map[string]string{"x": "y"}},
			History: []ispec.History{{CreatedBy: "COPY . .", Created: &created}, {CreatedBy: "CMD sh", EmptyLayer: true}},
		},
		Docker:      DockerConfig{Healthcheck: &dockerspec.HealthcheckConfig{Test: []string{"CMD", "true"}, Interval: time.Second}, Shell: []string{"/bin/ash", "-c"}, OnBuild: []string{"RUN x"}},
		Annotations: map[string]string{"note": "this"},
		Layers:      []LayerSource{{Upper: upperOf(t, nil, func(root string) { write(t, root+"/f", "1") })}},
		Epoch:       epoch,
	}
	var last api.ImageProgress
	c.Progress = func(p api.ImageProgress) { last = p }
	img, layers, err := s.Commit(t.Context(), c)
	must(t, err)
	if last.Item != "layer 1 of 1" || last.Status != CommitDone || last.Done != last.Total || last.Done == 0 {
		t.Errorf("progress ends with %+v", last)
	}
	for _, name := range c.Names {
		got, err := s.Resolve(name)
		if err != nil || got.ID != img.ID || got.Name != name {
			t.Errorf("Resolve(%s): %s %s, %v", name, got.Name, got.ID, err)
		}
		if got.Docker.Healthcheck == nil || got.Docker.Healthcheck.Interval != time.Second || got.Docker.Shell[0] != "/bin/ash" || got.Docker.OnBuild[0] != "RUN x" ||
			got.Config.Config.Env[0] != "A=b" || len(got.Config.History) != 2 || got.Manifest.Annotations["note"] != "this" || got.Config.Architecture != runtime.GOARCH {
			t.Errorf("config: %+v %+v", got.Config, got.Docker)
		}
	}
	must(t, s.Tag(t.Context(), "app:v1", "again"))
	if got, err := s.Resolve("again:latest"); err != nil || got.ID != img.ID {
		t.Errorf("tagged: %v, %v", got.ID, err)
	}
	if err := s.Tag(t.Context(), "nothing", "x"); !errdefs.IsNotFound(err) {
		t.Errorf("tag of nothing: %v", err)
	}
	if err := s.Tag(t.Context(), "app:v1", "x@"+img.Descriptor.Digest.String()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("tag as digest: %v", err)
	}
	// The same folder anew: it goes, since the store has the layer.
	upper := upperOf(t, nil, func(root string) { write(t, root+"/f", "1") })
	c.Layers = []LayerSource{{Packed: &layers[0]}, {Upper: upper}}
	c.Config.History = nil
	if _, again, err := s.Commit(t.Context(), c); err != nil || again[1].DiffID != again[0].DiffID {
		t.Errorf("again: %v, %v", again, err)
	}
	if _, err := os.Lstat(upper); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	upper = upperOf(t, nil, func(root string) { write(t, root+"/f", "twice") })
	c.Layers = []LayerSource{{Upper: upper}, {Packed: &layers[0]}, {Upper: upper}}
	if _, twice, err := s.Commit(t.Context(), c); err != nil || twice[0].DiffID != twice[2].DiffID || twice[0].DiffID == twice[1].DiffID {
		t.Errorf("one folder twice: %v, %v", twice, err)
	}
	_, err = s.GC(t.Context(), nil) // of the images that lost their names
	must(t, err)
	checkClean(t, s)
}

func TestCommitRefuses(t *testing.T) {
	s := newStore(t)
	f := func(name string) func(string) {
		return func(root string) { write(t, root+"/"+name, "x") }
	}
	for name, c := range map[string]struct {
		change func(root string)
		edit   func(*Commit)
		want   string
	}{
		"no name":    {f("f"), func(c *Commit) { c.Names = nil }, "needs a name"},
		"bad name":   {f("f"), func(c *Commit) { c.Names = []string{"A B"} }, `image name "A B"`},
		"no source":  {f("f"), func(c *Commit) { c.Layers = append(c.Layers, LayerSource{}) }, "layer 1: want a packed layer or a folder"},
		"history":    {f("f"), func(c *Commit) { c.Config.History = make([]ispec.History, 3) }, "tells of 3 layers, it has 1"},
		"no layers":  {f("f"), func(c *Commit) { c.Layers = nil }, "0 layers"},
		"other arch": {f("f"), func(c *Commit) { c.Config.Platform = ispec.Platform{OS: "linux", Architecture: "s390x"} }, "linux/s390x"},
		"whiteout":   {f("d/.wh.f"), nil, `entry "d/.wh.f": names that start with ".wh."`},
		"device":     {func(root string) { must(t, unix.Mknod(root+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))) }, nil, `entry "null": device node 1:3`},
		"xattr name": {func(root string) { write(t, root+"/f", ""); must(t, unix.Setxattr(root+"/f", "user.a=b", nil, 0)) }, nil, `xattr "user.a=b"`},
		"no folder":  {f("f"), func(c *Commit) { c.Layers[0].Upper += "/none" }, "no such file"},
		"no blob": {f("f"), func(c *Commit) {
			c.Layers[0] = LayerSource{Packed: &PackedLayer{ispec.Descriptor{Digest: emptyDigest}, emptyDigest}}
		}, "is missing"},
		"deep folder": {func(root string) { deepFolder(t, root, 900) }, nil, "at most 4095 can be unpacked"},
	} {
		t.Run(name, func(t *testing.T) {
			upper := upperOf(t, nil, c.change)
			commit := Commit{Names: []string{"app"}, Epoch: epoch, Layers: []LayerSource{{Upper: upper}}}
			if c.edit != nil {
				c.edit(&commit)
			}
			_, _, err := s.Commit(t.Context(), commit)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "commit image ") {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if !isDir(upper) {
				t.Error("the folder is gone")
			}
			if list, err := s.List(); err != nil || len(list) > 0 {
				t.Errorf("the store lists %v, %v", list, err)
			}
			checkClean(t, s)
		})
	}
}

// deepFolder makes a path that is longer than the kernel takes at once.
func deepFolder(t *testing.T, root string, depth int) {
	fd, err := unix.Open(root, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for range depth {
		must(t, unix.Mkdirat(fd, "deep", 0o755))
		next, err := unix.Openat(fd, "deep", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
}

// What is cut off or finds no room leaves the folder, to be committed again.
func TestCommitInterrupted(t *testing.T) {
	s := newStore(t)
	upper := upperOf(t, nil, func(root string) {
		for i := range 200 {
			write(t, fmt.Sprintf("%s/f%d", root, i), strings.Repeat(fmt.Sprint(i), 30_000))
		}
	})
	c := Commit{Names: []string{"app"}, Epoch: epoch, Layers: []LayerSource{{Upper: upper}}}
	var layers []PackedLayer
	for i := 0; ; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*5*time.Millisecond)
		_, done, err := s.Commit(ctx, c)
		cancel()
		if err == nil && i > 0 {
			layers = done
			break
		}
		if !errors.Is(err, context.DeadlineExceeded) || !isDir(upper) {
			t.Fatalf("interrupted after %d ms: %v", i*5, err)
		}
		checkClean(t, s)
	}
	if dir, ok := s.LayerDir(layers[0].DiffID); !ok || len(listing(t, dir)) != 200 {
		t.Errorf("layer %s, %v", dir, ok)
	}
}

func TestCommitDiskFull(t *testing.T) {
	disk := smallDisk(t)
	s := openStore(t, disk)
	data := noise(t, 5<<20)
	upper := upperOf(t, nil, func(root string) { write(t, root+"/noise", data) })
	own := filepath.Join(disk, "upper") // on the store's disk, which is full then
	must(t, os.CopyFS(own, os.DirFS(upper)))
	small := upperOf(t, nil, func(root string) { write(t, root+"/f", "1") })
	c := Commit{Names: []string{"app"}, Epoch: epoch, Layers: []LayerSource{{Upper: small}, {Upper: own}}}
	if _, _, err := s.Commit(t.Context(), c); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want no space left", err)
	}
	if !isDir(own) || !isDir(small) {
		t.Error("a folder is gone")
	}
	checkClean(t, s)
	if list, err := s.List(); err != nil || len(list) > 0 {
		t.Errorf("the store lists %v, %v", list, err)
	}
	// Folders of another file system are packed, and unpacked again.
	c.Layers = c.Layers[:1]
	_, layers, err := s.Commit(t.Context(), c)
	must(t, err)
	if dir, ok := s.LayerDir(layers[0].DiffID); !ok || isDir(small) || strings.Join(listing(t, dir), " ") != "f" {
		t.Errorf("layer %s, %v; its folder is there: %v", dir, ok, isDir(small))
	}
}
