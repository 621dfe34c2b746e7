package images

import (
	"context"
	"io"

	"github.com/sandboxlabs/sandbox/pkg/image"
)

// Export writes an archive of images. All are found before its first byte.
func (s *Service) Export(ctx context.Context, w io.Writer, refs []string, format string) error {
	return s.Store.Export(ctx, w, refs, image.ExportOptions{Format: format})
}
