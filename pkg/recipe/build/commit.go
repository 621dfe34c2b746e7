package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image"
)

// commit makes an image of the target's layers.
func (x *execution) commit(target *stage, layers []*layer) (_ image.Image, err error) {
	own, err := x.packLocks(layers)
	defer own.close()
	if err != nil {
		return image.Image{}, err
	}
	c := image.Commit{
		Names: x.o.Names, Config: target.config.Image, Docker: target.config.Config.DockerOCIImageConfigExt,
		Epoch: x.o.Epoch, Source: x.o.Source, Annotations: x.annotations(target),
		Progress: func(p api.ImageProgress) {
			if p.Status == image.CommitDone {
				x.tell(api.BuildEvent{Stage: target.name, Instruction: p.Item, Status: "packed"})
			}
		},
	}
	c.Config.Config = target.config.Config.ImageConfig
	for k, v := range x.o.Labels {
		if c.Config.Config.Labels == nil {
			c.Config.Config.Labels = map[string]string{}
		}
		c.Config.Config.Labels[k] = v
	}
	if c.Epoch.IsZero() {
		c.Epoch = time.Now()
	}
	created := c.Epoch.UTC()
	c.Config.Created = &created
	var sources []*layer // of c.Layers
	for _, l := range layers {
		rec := l.record()
		switch {
		case l.image != nil:
			c.Layers = append(c.Layers, image.LayerSource{Packed: l.packed})
		case rec.Empty:
			continue
		case rec.Packed != nil:
			c.Layers = append(c.Layers, image.LayerSource{Packed: rec.Packed})
		case rec.Device != "":
			return image.Image{}, at(l.step.stage.name, l.step.line, l.step.instruction,
				fmt.Errorf("it has made the device node %s, which images here do not have: remove it in the same instruction: %w", rec.Device, errdefs.ErrInvalidArgument))
		default:
			c.Layers = append(c.Layers, image.LayerSource{Upper: filepath.Join(l.dir, layerFS)})
		}
		sources = append(sources, l)
	}
	c.Config.History = history(target, layers)
	if len(c.Layers) == 0 {
		dir, err := x.emptyLayer(&c)
		if err != nil {
			return image.Image{}, err
		}
		defer func() { err = errors.Join(err, removeLayer(dir)) }()
	}
	img, packed, err := x.b.Store.Commit(x.parent, c)
	if err != nil {
		return img, err
	}
	var errs []error
	for i, l := range sources {
		if l.image != nil || c.Layers[i].Packed != nil {
			continue
		}
		l.mu.Lock()
		l.rec.Packed = &packed[i]
		l.rec.Change.Size = packed[i].Descriptor.Size
		errs = append(errs, x.cache.write(l))
		l.mu.Unlock()
	}
	return img, errors.Join(errs...)
}

// locks are open lock files.
type locks []*os.File

func (l locks) close() {
	for _, f := range l {
		_ = f.Close()
	}
}

// packLocks locks the layers that no image has yet, in order, and learns of
// those that another build has packed meanwhile.
func (x *execution) packLocks(layers []*layer) (own locks, err error) {
	for _, l := range inOrder(layers) {
		if rec := l.record(); rec.Empty || rec.Packed != nil {
			continue
		}
		pack, err := lock(x.parent, filepath.Join(l.dir, layerPack), exclusive)
		if err != nil {
			return own, err
		}
		own = append(own, pack)
		if err := l.refresh(); err != nil {
			return own, err
		}
	}
	return own, nil
}

// history is that of the base image, and of every step since; those whose layer
// is empty say so.
func history(target *stage, layers []*layer) []ispec.History {
	var chain []*stage
	for s := target; s != nil; s = s.base.stage {
		chain = append(chain, s)
	}
	all := slices.Clone(target.config.History)
	built := layers[len(layers):]
	for i, l := range layers { // the base image's come first
		if l.image == nil {
			built = layers[i:]
			break
		}
	}
	for _, s := range slices.Backward(chain) {
		for _, st := range s.steps {
			h := st.history
			if h.EmptyLayer = st.work == nil; !h.EmptyLayer {
				h.EmptyLayer = built[0].record().Empty
				built = built[1:]
			}
			all = append(all, h)
		}
	}
	return all
}

// emptyLayer gives an image without files a layer: it needs one.
func (x *execution) emptyLayer(c *image.Commit) (dir string, err error) {
	dir, use, err := x.cache.begin(x.parent)
	if err != nil {
		return "", err
	}
	x.keep(use)
	upper := filepath.Join(dir, layerFS)
	if err := os.Mkdir(upper, 0o755); err != nil {
		return "", errors.Join(err, removeLayer(dir))
	}
	c.Layers = []image.LayerSource{{Upper: upper}}
	c.Config.History = append(c.Config.History, ispec.History{Created: c.Config.Created, CreatedBy: "an empty root", Comment: historyComment})
	return dir, nil
}

// annotations are the caller's, and what the image is based on.
func (x *execution) annotations(target *stage) map[string]string {
	all := map[string]string{}
	base := target.base
	for base.stage != nil {
		base = base.stage.base
	}
	if base.image != nil {
		all[ispec.AnnotationBaseImageName] = base.image.Name
		all[ispec.AnnotationBaseImageDigest] = base.image.Descriptor.Digest.String()
	}
	for k, v := range x.o.Annotations {
		all[k] = v
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// tell is emit for what is no step.
func (x *execution) tell(ev api.BuildEvent) {
	if x.o.Emit == nil {
		return
	}
	x.emitting.Lock()
	defer x.emitting.Unlock()
	x.o.Emit(ev)
}

// settle brings layers that are pending onto the disk, in the background: one
// syncfs(2) for all of them. When it fails, or the process ends before, the
// marks stay, and the next build tries again.
func (b *Builder) settle(c *cache) {
	b.background.Go(func() {
		entries, err := os.ReadDir(c.layers())
		if err != nil {
			return
		}
		var marks []string
		for _, e := range entries {
			mark := filepath.Join(c.layers(), e.Name(), layerPending)
			// One of an unfinished layer is about what is to come.
			boot, err := os.ReadFile(mark)
			if err == nil && string(boot) == c.boot && c.alive(filepath.Dir(mark)) {
				marks = append(marks, mark)
			}
		}
		root, err := os.Open(c.root)
		if err != nil {
			return
		}
		defer root.Close()
		if len(marks) == 0 || unix.Syncfs(int(root.Fd())) != nil {
			return
		}
		for _, mark := range marks {
			_ = os.Remove(mark)
		}
	})
}
