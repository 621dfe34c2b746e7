package images

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image"
)

// cacheAge is how long the build cache keeps what no build has used.
const cacheAge = 14 * 24 * time.Hour

// Prune removes images without a name, with All those that no container uses,
// and everything that then is of no use. The images that are part of sandbox
// stay.
func (s *Service) Prune(ctx context.Context, opts api.ImagePrune) (api.Pruned, error) {
	out := api.Pruned{Images: []string{}}
	list, err := s.Store.List()
	if err != nil {
		return out, err
	}
	users, err := s.users(ctx)
	if err != nil {
		return out, err
	}
	for _, img := range list {
		ref := img.Name
		if ref == "" {
			ref = img.Descriptor.Digest.String()
		} else if !opts.All || img.Source == image.SourceBuiltin {
			continue
		}
		if len(users[img.ID.String()]) > 0 {
			continue
		}
		if !opts.DryRun {
			if err := s.Store.Remove(ctx, ref); err != nil {
				return out, err
			}
		}
		out.Images = append(out.Images, ref)
	}
	if opts.DryRun {
		return out, nil
	}
	age := cacheAge
	if opts.BuildCache {
		age = 0
	}
	cache, err := s.Builder.Prune(ctx, age, opts.BuildCache)
	if err != nil {
		return out, err
	}
	got, err := s.Collect(ctx)
	if err != nil {
		return out, err
	}
	out.Cache = cache.Bytes
	got.Add(cache)
	out.Blobs, out.Layers, out.Bytes = got.Blobs, got.Layers, got.Bytes
	s.Log.Info("images pruned", zap.Strings("images", out.Images), zap.Int64("bytes", out.Bytes))
	return out, nil
}
