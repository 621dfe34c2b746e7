package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
)

// fakeImages is a store with one image, toolbox. What its names do:
//
//	unknown  is not there
//	used     cannot be removed without force
//	endless  speaks until it is cancelled, as a pull, an export or a build
//	broken   ends in an error, half way
type fakeImages struct {
	removed, tagged []string
	imported        int64
	emitted         atomic.Int64 // frames of endless
	cancelled       atomic.Bool  // and its end
	build           api.ImageBuild
}

func (f *fakeImages) find(ref string) error {
	if ref == "unknown" {
		return fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
	}
	return nil
}

func (f *fakeImages) List(context.Context) ([]api.Image, error) {
	return []api.Image{{Name: "toolbox"}}, nil
}

func (f *fakeImages) Inspect(_ context.Context, ref string) (api.ImageDetail, error) {
	return api.ImageDetail{Names: []string{ref}}, f.find(ref)
}

func (f *fakeImages) Layers(_ context.Context, ref string, tree bool) ([]api.ImageLayer, error) {
	layer := api.ImageLayer{Instruction: "FROM " + ref}
	if tree {
		layer.Tree = []api.ImageFile{{Path: "etc"}}
	}
	return []api.ImageLayer{layer}, f.find(ref)
}

func (f *fakeImages) SBOM(_ context.Context, ref string) (api.ImageSBOM, error) {
	return api.ImageSBOM{Document: []byte(`{"spdxVersion":"SPDX-2.3"}`)}, f.find(ref)
}

func (f *fakeImages) Files(context.Context, string, string) ([]api.ImageEntry, error) {
	return nil, nil
}

func (f *fakeImages) OpenFile(context.Context, string, string) (*os.File, error) {
	return nil, errdefs.ErrNotFound
}

func (f *fakeImages) Tag(_ context.Context, ref, name string) error {
	f.tagged = append(f.tagged, ref+" "+name)
	return f.find(ref)
}

func (f *fakeImages) Remove(_ context.Context, ref string, force bool) error {
	if ref == "used" && !force {
		return fmt.Errorf("image used: container web uses it: %w", errdefs.ErrConflict)
	}
	f.removed = append(f.removed, ref)
	return f.find(ref)
}

func (f *fakeImages) Prune(_ context.Context, opts api.ImagePrune) (api.Pruned, error) {
	return api.Pruned{Blobs: 1, Bytes: 4096}, nil
}

func (f *fakeImages) Recipes(_ context.Context, folder string) ([]api.Recipe, error) {
	return []api.Recipe{{Name: "prometheus", Description: folder}}, nil
}

func (f *fakeImages) ImportMissing(ctx context.Context, r io.Reader, progress func(int64)) ([]api.Image, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	progress(int64(len(b)))
	if string(b) == "broken" {
		return nil, fmt.Errorf("this is no archive: %w", errdefs.ErrInvalidArgument)
	}
	var images []api.Image
	for _, name := range strings.Fields(string(b)) {
		images = append(images, api.Image{Name: name})
	}
	return images, nil
}

func (f *fakeImages) Import(_ context.Context, r io.Reader, name string) ([]api.Image, error) {
	if name == "broken" {
		// An archive that is refused by its first bytes.
		if _, err := io.CopyN(io.Discard, r, 10); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("this is no archive: %w", errdefs.ErrInvalidArgument)
	}
	n, err := io.Copy(io.Discard, r)
	f.imported += n
	if err != nil {
		return nil, err
	}
	return []api.Image{{Name: name, Size: n}}, nil
}

func (f *fakeImages) Export(ctx context.Context, w io.Writer, refs []string, format string) error {
	if err := f.find(refs[0]); err != nil {
		return err
	}
	for i := 0; i < 1000 || refs[0] == "endless"; i++ {
		if err := ctx.Err(); err != nil {
			f.cancelled.Store(true)
			return err
		}
		if _, err := io.WriteString(w, strings.Repeat(format, 100)); err != nil {
			f.cancelled.Store(true)
			return err
		}
	}
	if refs[0] == "broken" {
		return fmt.Errorf("blob sha256:12 is missing: %w", errdefs.ErrDataLoss)
	}
	return nil
}

func (f *fakeImages) Pull(ctx context.Context, opts api.ImagePull, emit func(api.Frame)) (api.Pulled, error) {
	emit(api.Frame{Progress: &api.ImageProgress{Item: "sha256:12", Status: "downloading", Total: 10}})
	if opts.Name == "endless" {
		for ctx.Err() == nil {
			n := f.emitted.Add(1)
			emit(api.Frame{Progress: &api.ImageProgress{Item: "sha256:12", Done: n}})
		}
		f.cancelled.Store(true)
		return api.Pulled{}, ctx.Err()
	}
	return api.Pulled{Image: api.Image{Name: opts.Name}, From: "registry"}, f.find(opts.Name)
}

func (f *fakeImages) Build(_ context.Context, opts api.ImageBuild, emit func(api.Frame)) (api.BuildReport, error) {
	f.build = opts
	emit(api.Frame{Build: &api.BuildEvent{Instruction: "RUN true", Status: api.BuildDone}})
	emit(api.Frame{Explain: &api.Explain{Op: "mount"}})
	return api.BuildReport{Images: []api.BuildResult{{Recipe: "x", Error: WireError(f.find("unknown"))}}}, nil
}
