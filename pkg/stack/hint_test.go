package stack

import (
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
)

func TestWithHint(t *testing.T) {
	err := WithHint(fmt.Errorf("a: %w", errdefs.ErrConflict), "b")
	hint, ok := errors.AsType[interface {
		error
		Hint() string
	}](err)
	if !errdefs.IsConflict(err) || !ok || hint.Hint() != "b" || err.Error() != "a: conflict" {
		t.Errorf("%v", err)
	}
}
