package image

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary run anew as a process that unpacks, to be killed.
const unpackEnv = "SBT_UNPACK_STORE"

func TestMain(m *testing.M) {
	if root := os.Getenv(unpackEnv); root != "" {
		os.Exit(unpackMain(root))
	}
	os.Exit(m.Run())
}

func unpackMain(root string) int {
	t := &testing.T{}
	s := openStore(t, root)
	img, err := s.Resolve("app")
	if err == nil {
		_, err = s.Unpack(t.Context(), img)
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}

// A process that unpacks is killed at ten moments; the next one clears up
// and comes to the same result.
func TestUnpackKilled(t *testing.T) {
	s := newStore(t)
	layer := bigLayer(t, 3)
	img := importLayers(t, s, "app", layer)
	dir := s.layerDir(img.Config.RootFS.DiffIDs[0])
	killed := 0
	for i := range 10 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), unpackEnv+"="+filepath.Dir(s.images))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(5+5*i) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil && !s.unpacked(dir) && len(listing(t, s.layers)) > 10 {
			killed++ // in the middle of it
		}
		dirs, err := s.Unpack(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(listing(t, dirs[0])); got != 1000+10 {
			t.Fatalf("after a kill the layer has %d entries, want 1010", got)
		}
		checkClean(t, s)
		lock, err := lockFile(t.Context(), filepath.Join(dir, layerLock))
		if err != nil {
			t.Fatal(err)
		}
		if err := removeLayer(dir); err != nil {
			t.Fatal(err)
		}
		lock.Close()
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
