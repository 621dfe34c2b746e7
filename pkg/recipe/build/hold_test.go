package build

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sandboxlabs/sandbox/pkg/state"
)

// TestHoldWhilePacked: a build that comes when another packs the layer into an
// image waits for that, and does not take the layer for one that is not whole.
func TestHoldWhilePacked(t *testing.T) {
	c, err := (&Builder{Dirs: state.Dirs{Root: t.TempDir()}}).cache()
	if err != nil {
		t.Fatal(err)
	}
	key := digest.FromString("a step")
	dir, use, err := c.begin(t.Context())
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, layerFS), 0o755)
	}
	if err == nil {
		err = c.finish(&layer{dir: dir, rec: record{Key: key}})
	}
	if err == nil {
		err = use.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	pack, err := lock(t.Context(), filepath.Join(dir, layerPack), exclusive)
	if err == nil {
		err = os.Rename(filepath.Join(dir, layerFS), filepath.Join(dir, "taken"))
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(100 * time.Millisecond)
		if err := os.Rename(filepath.Join(dir, "taken"), filepath.Join(dir, layerFS)); err != nil {
			t.Error(err)
		}
		pack.Close()
	}()
	l, use, err := c.hold(t.Context(), key)
	if err != nil || l == nil || l.dir != dir {
		t.Fatalf("%+v, %v", l, err)
	}
	use.Close()

	// What nobody packs, and is not whole, is none.
	if err := os.RemoveAll(filepath.Join(dir, layerFS)); err != nil {
		t.Fatal(err)
	}
	if l, _, err := c.hold(t.Context(), key); l != nil || err != nil {
		t.Errorf("%+v, %v", l, err)
	}
	if l, _, err := c.hold(t.Context(), digest.FromString("another")); l != nil || err != nil {
		t.Errorf("%+v, %v", l, err)
	}
}
