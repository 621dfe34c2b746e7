package build

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build/filecopy"
)

// run is one instruction under way.
type run struct {
	ctx   context.Context //nolint:containedctx // of the step
	step  *step
	lower []string          // folders of the layers below, top first
	dir   string            // of the new layer
	upper string            // what is changed goes here
	where map[*layer]string // folders of all layers that the step needs
	cache map[string]string // where its cache mounts' folders are; see mount.cacheFolder
	after []func() error
}

// later adds what is to be done when the instruction has run, or has failed;
// the last comes first.
func (r *run) later(do func() error) { r.after = append(r.after, do) }

func (r *run) close() error {
	var errs []error
	for _, do := range slices.Backward(r.after) {
		errs = append(errs, do())
	}
	r.after = nil
	return errors.Join(errs...)
}

// temp makes a folder for the time of the instruction.
func (r *run) temp(name string) (string, error) {
	dir, err := os.MkdirTemp(r.dir, name+"-")
	if err == nil {
		r.later(func() error { return os.RemoveAll(dir) })
	}
	return dir, err
}

// run executes a step over the layers below and makes the layer of its key.
func (x *execution) run(st *step, below []*layer) (l *layer, err error) {
	x.mu.Lock()
	x.fresh = true
	x.mu.Unlock()
	dir, use, err := x.cache.begin(x.ctx)
	if err != nil {
		return nil, err
	}
	x.keep(use)
	defer func() {
		if err != nil {
			err = errors.Join(err, removeLayer(dir))
		}
	}()
	r := &run{ctx: x.ctx, step: st, dir: dir, upper: filepath.Join(dir, layerFS), where: map[*layer]string{}, cache: map[string]string{}}
	if err = x.pin(r, below); err == nil {
		if r.lower, err = x.dirs(r, below); err == nil {
			err = st.work.run(x, r)
		}
	}
	if err = errors.Join(err, r.close()); err != nil {
		return nil, err
	}
	l = &layer{dir: dir, rec: record{
		Key: st.key, Stage: st.stage.name, Instruction: st.instruction, Created: time.Now().UTC(),
	}}
	if err := l.rec.settle(r.upper, x.o.Epoch); err != nil {
		return nil, err
	}
	l.rec.Change.Instruction = st.history.CreatedBy
	if l.rec.Empty {
		if err := os.RemoveAll(r.upper); err != nil {
			return nil, err
		}
	}
	return l, x.cache.finish(l)
}

// pin finds the folders of all layers that the step needs, those below it and
// those that it takes files from, and keeps them where they are until it ends.
func (x *execution) pin(r *run, below []*layer) error {
	layers := slices.Clone(below)
	for _, from := range r.step.work.sources() {
		more, err := x.below(from)
		if err != nil {
			return err
		}
		layers = append(layers, more...)
	}
	for _, l := range inOrder(layers) {
		if l.record().Empty {
			continue
		}
		if l.record().Packed == nil {
			pack, err := lock(x.ctx, filepath.Join(l.dir, layerPack), shared)
			if err != nil {
				return err
			}
			r.later(pack.Close)
			if err := l.refresh(); err != nil {
				return err
			}
		}
		r.where[l] = filepath.Join(l.dir, layerFS)
		if packed := l.record().Packed; packed != nil {
			var err error
			if r.where[l], err = x.b.Store.UnpackLayer(x.ctx, *packed); err != nil {
				return err
			}
		}
	}
	return nil
}

// inOrder are the layers that were built, each once, in the order in which they
// are locked.
func inOrder(layers []*layer) []*layer {
	built := slices.DeleteFunc(slices.Clone(layers), func(l *layer) bool { return l.image != nil })
	slices.SortFunc(built, func(a, b *layer) int { return strings.Compare(a.dir, b.dir) })
	return slices.CompactFunc(built, func(a, b *layer) bool { return a == b })
}

// dirs are the folders of layers, top first.
func (x *execution) dirs(r *run, layers []*layer) ([]string, error) {
	var dirs []string
	for _, l := range slices.Backward(layers) {
		more := []string{r.where[l]}
		if l.image != nil { // it is the bottom of the stack, with all its layers
			var err error
			if more, err = x.unpacked(l.image); err != nil {
				return nil, err
			}
		}
		for _, dir := range more {
			// overlayfs takes no folder twice, and the upper one hides the other.
			if dir != "" && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs, nil
}

// unpacked are the folders of an image, top first, unpacked once per build.
func (x *execution) unpacked(img *image.Image) ([]string, error) {
	x.mu.Lock()
	do := x.unpack[img]
	if do == nil {
		do = sync.OnceValues(func() ([]string, error) { return x.b.Store.Unpack(x.ctx, *img) })
		x.unpack[img] = do
	}
	x.mu.Unlock()
	return do()
}

// view mounts layers for the time of the run.
func (x *execution) view(r *run, lower []string, upper string) (string, error) {
	v, err := x.b.Engine.MountLayers(r.ctx, lower, upper, x.o.Trace)
	if err != nil {
		return "", err
	}
	r.later(v.Close)
	return v.Path(), nil
}

// open shows an origin's files for the time of the run. What is written to a
// writable one is lost at its end.
func (x *execution) open(r *run, o origin, writable bool) (filecopy.Tree, error) {
	if o.folder != nil && !writable {
		return o.folder.tree, nil
	}
	var lower []string
	if o.folder != nil {
		lower = []string{o.folder.tree.Root}
	} else {
		layers, err := x.below(o)
		if err == nil {
			lower, err = x.dirs(r, layers)
		}
		if err != nil {
			return filecopy.Tree{}, err
		}
	}
	upper := ""
	if writable {
		dir, err := r.temp("written")
		if err != nil {
			return filecopy.Tree{}, err
		}
		upper = filepath.Join(dir, "fs")
	}
	root, err := x.view(r, lower, upper)
	return filecopy.Tree{Root: root}, err
}

// settle makes nothing in a new layer newer than epoch, so that the next
// instruction sees the same times in every build, and notes what is there.
func (rec *record) settle(upper string, epoch time.Time) error {
	rec.Empty = true
	err := filepath.WalkDir(upper, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: p, Err: err}
		}
		if !epoch.IsZero() && time.Unix(st.Mtim.Unix()).After(epoch) {
			ts := unix.NsecToTimespec(epoch.UnixNano())
			if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return &fs.PathError{Op: "utimensat", Path: p, Err: err}
			}
		}
		if p == upper {
			return nil
		}
		rec.Empty = false
		switch kind := st.Mode & unix.S_IFMT; {
		case kind == unix.S_IFCHR && st.Rdev == 0: // overlayfs' whiteout
			rec.Change.Removed++
			return nil
		case kind == unix.S_IFCHR || kind == unix.S_IFBLK:
			rec.Device = strings.TrimPrefix(p, upper)
		case kind == unix.S_IFREG:
			rec.Change.Unpacked += st.Size
		}
		rec.Change.Added++
		return nil
	})
	rec.Change.Empty = rec.Empty
	return err
}
