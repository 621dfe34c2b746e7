package image

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Every connection breaks after 300 kB; no byte comes twice.
func TestPullResumesWithinOnePull(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	u.push(t, newArchive(t, "x", noiseLayer(t, 2<<20), noiseLayer(t, 1<<20)), "app", "latest")
	u.cut = func() int64 { return 300_000 }
	img, err := s.Pull(t.Context(), u.host+"/app", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	u.idle()
	for _, l := range img.Manifest.Layers {
		if got := u.sent[l.Digest.String()]; got != l.Size {
			t.Errorf("layer of %d bytes: %d were sent", l.Size, got)
		}
		if u.gets[l.Digest.String()] < 4 {
			t.Errorf("layer came in %d requests", u.gets[l.Digest.String()])
		}
	}
	checkCleanPull(t, s)
}

// checkCleanPull is checkClean for an image whose index blob is kept.
func checkCleanPull(t testing.TB, s *Store) {
	t.Helper()
	if left := listing(t, s.ingestDir()); len(left) > 0 {
		t.Errorf("left in ingest: %v", left)
	}
}

// A pull is interrupted ten times at random points; GC runs in between. The
// next one comes to the same result with what is missing.
func TestPullInterrupted(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	layer := noiseLayer(t, 8<<20)
	u.push(t, newArchive(t, "x", layer, noiseLayer(t, 2<<20)), "app", "latest")
	interrupted := 0
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		u.mu.Lock()
		u.cut = func() int64 {
			return 1 + mathrand.Int64N(800_000)
		}
		u.mu.Unlock()
		stop := 1 + mathrand.IntN(3)
		_, err := s.Pull(ctx, u.host+"/app", PullOptions{Progress: func(p PullProgress) {
			if p.Status == PullFetches {
				if stop--; stop == 0 {
					cancel()
				}
			}
		}})
		cancel()
		if err == nil {
			break
		}
		interrupted++
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if images, err := s.List(); err != nil || len(images) != 0 {
			t.Fatalf("an interrupted pull left %v, %v", images, err)
		}
		if _, err := s.GC(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		for _, name := range listing(t, s.ingestDir()) {
			if !strings.HasPrefix(name, partialDir) || strings.HasSuffix(name, stagingLock) {
				t.Errorf("left in ingest: %s", name)
			}
		}
	}
	if interrupted == 0 {
		t.Error("no pull was interrupted")
	}
	u.mend()
	have := map[string]int64{}
	for _, name := range listing(t, s.ingestDir()) {
		if info, err := os.Stat(filepath.Join(s.ingestDir(), name)); err == nil {
			have["sha256:"+filepath.Base(name)] = info.Size()
		}
	}
	img, err := s.Pull(t.Context(), u.host+"/app", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if img.Config.RootFS.DiffIDs[0] != digest.FromBytes(layer) {
		t.Error("another image")
	}
	if _, err := s.Unpack(t.Context(), img); err != nil {
		t.Error(err)
	}
	u.idle()
	for _, l := range img.Manifest.Layers {
		if got, want := u.sent[l.Digest.String()], l.Size-have[l.Digest.String()]; got != want {
			t.Errorf("layer of %d bytes, %d missing: %d were sent", l.Size, want, got)
		}
	}
	t.Logf("%d interruptions", interrupted)
	checkCleanPull(t, s)
}

const pullEnv = "SBT_PULL" // STORE REF

func TestPullProcess(t *testing.T) {
	root, ref, ok := strings.Cut(os.Getenv(pullEnv), " ")
	if !ok {
		t.Skip("run by TestPullTogether")
	}
	if _, err := openStore(t, root).Pull(t.Context(), ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
}

// A process that pulls is killed at ten moments. The next one takes what it
// has left, and clears up.
func TestPullKilled(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	u.push(t, newArchive(t, "x", noiseLayer(t, 8<<20), noiseLayer(t, 2<<20)), "app", "latest")
	u.mu.Lock()
	u.cut = func() int64 { return 1 + mathrand.Int64N(500_000) }
	u.mu.Unlock()
	killed := 0
	for i := range 10 {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestPullProcess$")
		cmd.Env = append(os.Environ(), pullEnv+"="+filepath.Dir(s.images)+" "+u.host+"/app")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(30+20*i) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if cmd.Wait() != nil {
			killed++
		}
	}
	u.mend()
	img, err := s.Pull(t.Context(), u.host+"/app", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Unpack(t.Context(), img); err != nil {
		t.Error(err)
	}
	if _, err := s.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	checkCleanPull(t, s)
	u.idle()
	t.Logf("%d kills; the last pull fetched %v", killed, u.sent)
}

// Three processes and three goroutines want the same: each blob comes once.
func TestPullTogether(t *testing.T) {
	s, u := newStore(t), newUpstream(t)
	u.push(t, newArchive(t, "x", noiseLayer(t, 4<<20), noiseLayer(t, 1<<20)), "app", "latest")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestPullProcess$")
			cmd.Env = append(os.Environ(), pullEnv+"="+filepath.Dir(s.images)+" "+u.host+"/app")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		wg.Go(func() {
			if _, err := s.Pull(t.Context(), u.host+"/app", PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	u.idle()
	for item, n := range u.gets {
		if n != 1 {
			t.Errorf("blob %s was fetched %d times", item, n)
		}
	}
	checkCleanPull(t, s)
}

// A full disk leaves what has come, and with room the pull goes on.
func TestPullDiskFull(t *testing.T) {
	s, u := openStore(t, smallDisk(t)), newUpstream(t)
	u.push(t, newArchive(t, "x", noiseLayer(t, 5<<20)), "app", "latest")
	filler := filepath.Join(filepath.Dir(s.images), "filler")
	if err := os.WriteFile(filler, make([]byte, 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.Pull(t.Context(), u.host+"/app", PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("full disk: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), u.host+"/app", PullOptions{}); err != nil {
		t.Error(err)
	}
	checkCleanPull(t, s)
}

func TestSweepPartials(t *testing.T) {
	s := newStore(t)
	now := time.Now()
	for name, age := range map[string]time.Duration{"new": time.Hour, "old": 8 * 24 * time.Hour, "busy": 8 * 24 * time.Hour} {
		path := s.partialPath(digest.FromString(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := lockFile(t.Context(), s.partialPath(digest.FromString("busy"))+stagingLock)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	exists := func(name string) bool {
		_, err := os.Stat(s.partialPath(digest.FromString(name)))
		return err == nil
	}
	if _, err := s.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if !exists("new") || exists("old") || !exists("busy") {
		t.Errorf("after GC: new %t, old %t, busy %t", exists("new"), exists("old"), exists("busy"))
	}
	if err := s.sweepPartials(t.Context(), true); err != nil || exists("new") || !exists("busy") {
		t.Errorf("after sweeping all: %v, new %t, busy %t", err, exists("new"), exists("busy"))
	}
}
