package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// framed makes a call whose answer is one value, alone or as the last of a
// stream of frames. When ctx ends first, the daemon undoes what the call has
// begun, and framed returns when that is done.
func framed[T any](ctx context.Context, c *Client, r request, onFrame func(api.Frame)) (out T, err error) {
	asked := ctx
	ctx, stop := definite(ctx)
	r.last = true // half a connection must not be used again
	defer stop()
	defer func() {
		e, ok := errors.AsType[*api.Error](err)
		switch {
		case err == nil || asked.Err() == nil:
		case ok && e.Class != api.ClassCanceled:
			err = errors.Join(asked.Err(), err) // such as what could not be undone
		default:
			err = asked.Err()
		}
	}()
	if onFrame == nil {
		err = c.call(ctx, r, &out)
		return out, err
	}
	ended := false
	err = stream(ctx, c, r, func(f api.Frame) error {
		switch {
		case f.Error != nil:
			return f.Error
		case f.Result != nil:
			ended = true
			return json.Unmarshal(f.Result, &out)
		}
		onFrame(f)
		return nil
	})
	if err == nil && !ended {
		err = fmt.Errorf("%s %s: the daemon's stream: %w", r.method, r.path, io.ErrUnexpectedEOF)
	}
	return out, err
}
