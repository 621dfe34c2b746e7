package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/state"
	"golang.org/x/sys/unix"
)

// The test binary run anew as a process that unpacks, or commits a folder, to
// be killed.
const (
	unpackEnv = "SBT_UNPACK_STORE"
	commitEnv = "SBT_COMMIT_FOLDER"
)

func TestMain(m *testing.M) {
	root, upper := os.Getenv(unpackEnv), os.Getenv(commitEnv)
	switch {
	case upper != "":
		os.Exit(commitMain(root, upper))
	case root != "":
		os.Exit(unpackMain(root))
	}
	os.Exit(m.Run())
}

// process runs do with the store below root, outside of any test.
func process(root string, do func(*Store) error) int {
	s, err := Open(state.Dirs{Root: root})
	if err == nil {
		err = do(s) // and does not wait for the disk: it is to be killed
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}

func commitMain(root, upper string) int {
	return process(root, func(s *Store) error {
		_, _, err := s.Commit(context.Background(), commitOf(upper))
		return err
	})
}

func commitOf(upper string) Commit {
	return Commit{Names: []string{"app"}, Epoch: epoch, Layers: []LayerSource{{Upper: upper}}}
}

// A process that commits is killed at ten moments. The folder is a layer, or
// it is still what it was: committed again it is the same image.
func TestCommitKilled(t *testing.T) {
	base := tempDir(t)
	folder := func() string {
		upper := filepath.Join(base, "upper")
		must(t, os.RemoveAll(upper))
		mkdir(t, upper)
		for i := range 300 {
			write(t, filepath.Join(upper, strconv.Itoa(i)), strings.Repeat(strconv.Itoa(i), 20_000))
		}
		return upper
	}
	s := openStore(t, filepath.Join(base, "state")) // on the folder's disk
	begin := func(upper string) *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), unpackEnv+"="+filepath.Dir(s.images), commitEnv+"="+upper)
		must(t, cmd.Start())
		return cmd
	}
	begun := time.Now()
	must(t, begin(folder()).Wait())
	whole := time.Since(begun)
	want, err := s.Resolve("app")
	must(t, err)
	killed, published := 0, 0
	for i := range 10 {
		must(t, s.Remove(t.Context(), "app"))
		_, err := s.GC(t.Context(), nil)
		must(t, err)
		upper := folder()
		cmd := begin(upper)
		time.Sleep(whole * time.Duration(i+1) / 10)
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		if cmd.Wait() != nil {
			killed++
		}
		img, err := s.Resolve("app")
		if err == nil {
			published++
			if img.Descriptor.Digest != want.Descriptor.Digest {
				t.Fatalf("published %s, want %s", img.Descriptor.Digest, want.Descriptor.Digest)
			}
		}
		if isDir(upper) {
			if got, _, err := s.Commit(t.Context(), commitOf(upper)); err != nil || got.Descriptor.Digest != want.Descriptor.Digest {
				t.Fatalf("again: %s, %v; want %s", got.Descriptor.Digest, err, want.Descriptor.Digest)
			}
		} else if err != nil {
			t.Fatalf("the folder is gone, and so is the image: %v", err)
		}
		dirs, err := s.Unpack(t.Context(), want)
		must(t, err)
		if got := len(listing(t, dirs[0])); got != 300 {
			t.Fatalf("the layer has %d files, want 300", got)
		}
		_, err = s.GC(t.Context(), nil)
		must(t, err)
		checkClean(t, s)
	}
	t.Logf("%d of 10 were killed, %d had published", killed, published)
}

func unpackMain(root string) int {
	return process(root, func(s *Store) error {
		img, err := s.Resolve("app")
		if err == nil {
			_, err = s.Unpack(context.Background(), img)
		}
		return err
	})
}

// A process that unpacks is killed at ten moments; the next one clears up
// and comes to the same result.
func TestUnpackKilled(t *testing.T) {
	s := newStore(t)
	layer := bigLayer(t, 3)
	img := importLayers(t, s, "app", layer)
	dir := s.layerDir(img.Config.RootFS.DiffIDs[0])
	begin := func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), unpackEnv+"="+filepath.Dir(s.images))
		must(t, cmd.Start())
		return cmd
	}
	remove := func() {
		lock, err := lockFile(t.Context(), filepath.Join(dir, layerLock))
		must(t, err)
		must(t, removeLayer(dir))
		lock.Close()
	}
	begun := time.Now()
	must(t, begin().Wait())
	whole := time.Since(begun)
	if !s.unpacked(dir) {
		t.Fatal("a process that is not killed unpacks nothing")
	}
	remove()
	killed := 0
	for i := range 10 {
		cmd := begin()
		time.Sleep(whole * time.Duration(i+1) / 11)
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil && !s.unpacked(dir) && len(listing(t, s.layers)) > 10 {
			killed++ // in the middle of it
		}
		dirs, err := s.Unpack(t.Context(), img)
		must(t, err)
		if got := len(listing(t, dirs[0])); got != 1000+10 {
			t.Fatalf("after a kill the layer has %d entries, want 1010", got)
		}
		checkClean(t, s)
		remove()
	}
	t.Logf("%d of 10 kills came in the middle of the unpacking", killed)
}

// smallDisk returns a folder with room for 8 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	disk := t.TempDir()
	if err := unix.Mount("sbt-disk", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	return disk
}

func TestDiskFull(t *testing.T) {
	noise := make([]byte, 5<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	small := tarOf(t, file("f", "1"))
	large := tarOf(t, file("noise", string(noise)))

	s := openStore(t, smallDisk(t))
	importLayers(t, s, "small", small)
	// 5 MiB fit, as a blob, but not twice, and not unpacked beside it.
	img := importLayers(t, s, "app", large)
	if _, err := s.Unpack(t.Context(), img); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), `entry "noise"`) {
		t.Errorf("unpack: %v, want no space left, and the entry's name", err)
	}
	noise[0]++
	other := newArchive(t, "other", tarOf(t, file("noise", string(noise)))).seal(t).bytes(t)
	if _, err := s.Import(t.Context(), bytes.NewReader(other), ImportOptions{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("import: %v, want no space left", err)
	}
	checkClean(t, s)
	if list, err := s.List(); err != nil || len(list) != 2 {
		t.Errorf("images after the failure: %v, %v", list, err)
	}
	// With room it goes on where it stood.
	if err := s.Remove(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	images, err := s.Import(t.Context(), bytes.NewReader(other), ImportOptions{})
	if err != nil || len(images) != 1 {
		t.Errorf("import after GC: %v", err)
	}
}

// After a power failure a layer that the disk may not have is unpacked anew.
func TestUnpackedBeforePowerFailure(t *testing.T) {
	s := newStore(t)
	img := importLayers(t, s, "app", tarOf(t, file("f", "content")))
	dirs, err := s.Unpack(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	layer := filepath.Dir(dirs[0])
	if got := strings.Join(listing(t, layer), " "); got != "fs fs/f lock" {
		t.Errorf("settled layer holds %s", got)
	}
	damaged := filepath.Join(dirs[0], "f")
	for _, c := range []struct{ boot, want string }{
		{s.boot, ""}, // this boot: what was written is there
		{"another boot", "content"},
	} {
		if err := os.WriteFile(damaged, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(layer, layerPending), []byte(c.boot), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Unpack(t.Context(), img); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if b, err := os.ReadFile(damaged); string(b) != c.want {
			t.Errorf("pending since %q: file is %q, %v; want %q", c.boot, b, err, c.want)
		}
		if s.unpacked(layer) != true || len(listing(t, layer)) != 3 {
			t.Errorf("layer holds %v", listing(t, layer))
		}
	}
}
