package images

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// Export writes an archive.
func (s *Service) Export(ctx context.Context, w io.Writer, refs []string, format string) error {
	return fmt.Errorf("export images: %w", errdefs.ErrNotImplemented)
}
