package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/jsonmessage"

	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// Pull has Docker take an image from the store's endpoint, unless it has it.
func (e *Engine) Pull(ctx context.Context, img stack.Image, p stack.Progress) error {
	c, err := e.Client()
	if err != nil {
		return err
	}
	return e.explain(pull(ctx, c, img, p))
}

func pull(ctx context.Context, c *client.Client, img stack.Image, p stack.Progress) error {
	have, err := c.ImageInspect(ctx, img.Ref)
	if err == nil && slices.ContainsFunc(have.RepoDigests, func(d string) bool { return strings.HasSuffix(d, "@"+img.Digest) }) {
		return nil
	}
	p.Note("image %s, from %s", img.Name, img.From)
	stream, err := c.ImagePull(ctx, img.Ref, image.PullOptions{})
	if err != nil {
		return fmt.Errorf("docker pull %s: %w", img.Ref, err)
	}
	defer stream.Close()
	if err := follow(stream, p.Bytes); err != nil {
		return fmt.Errorf("docker pull %s: %w", img.Ref, err)
	}
	return nil
}

// follow reads the progress of a pull to its end: an error is in the stream,
// not in the status of the answer. The bytes are those of all layers that have
// begun, so the total grows at first.
func follow(stream io.Reader, report func(done, total int64)) error {
	type layer struct{ done, total int64 }
	layers := map[string]layer{}
	for d := json.NewDecoder(stream); ; {
		var m jsonmessage.JSONMessage
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if m.Error != nil {
			return m.Error
		}
		l := layers[m.ID]
		switch {
		case m.Status == "Downloading" && m.Progress != nil:
			l = layer{m.Progress.Current, m.Progress.Total}
		case m.Status == "Download complete":
			l.done = l.total
		default:
			continue
		}
		layers[m.ID] = l
		var done, total int64
		for _, l := range layers {
			done, total = done+l.done, total+l.total
		}
		report(done, total)
	}
}

// removeImages forgets what was pulled from the endpoint. Layers that other
// images have stay.
func removeImages(ctx context.Context, c *client.Client, address string) error {
	list, err := c.ImageList(ctx, image.ListOptions{})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	var errs []error
	for _, img := range list {
		for _, name := range slices.Concat(img.RepoTags, img.RepoDigests) {
			if !strings.HasPrefix(name, address+"/") {
				continue
			}
			if _, err := c.ImageRemove(ctx, name, image.RemoveOptions{PruneChildren: true}); err != nil && !errdefs.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("remove image %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (e *Engine) removeVolumes(ctx context.Context, c *client.Client, stage string) error {
	list, err := c.VolumeList(ctx, volume.ListOptions{Filters: e.ofStage(stage)})
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	var errs []error
	for _, v := range list.Volumes {
		if err := c.VolumeRemove(ctx, v.Name, true); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove volume %s: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}
