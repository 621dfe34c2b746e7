package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Version returns the daemon's version.
func (c *Client) Version(ctx context.Context) (api.Version, error) {
	var out api.Version
	err := c.call(ctx, request{method: http.MethodGet, path: "/version"}, &out)
	return out, err
}

// Status returns what is up, by stage.
func (c *Client) Status(ctx context.Context) (api.StackStatus, error) {
	var out api.StackStatus
	err := c.call(ctx, request{method: http.MethodGet, path: "/status"}, &out)
	return out, err
}

// Up starts bringing the stack up, or joins the up that is under way.
func (c *Client) Up(ctx context.Context, opts api.UpOptions) (api.ChangeRef, error) {
	var out api.ChangeRef
	err := c.call(ctx, request{method: http.MethodPost, path: "/up", body: opts}, &out)
	return out, err
}

// Down starts taking the stack down, or joins the down that is under way.
// After a purge the daemon exits by itself.
func (c *Client) Down(ctx context.Context, opts api.DownOptions) (api.ChangeRef, error) {
	var out api.ChangeRef
	err := c.call(ctx, request{method: http.MethodPost, path: "/down", body: opts}, &out)
	return out, err
}

// Verify starts trying what the stack promises.
func (c *Client) Verify(ctx context.Context, opts api.VerifyOptions) (api.ChangeRef, error) {
	var out api.ChangeRef
	err := c.call(ctx, request{method: http.MethodPost, path: "/verify", body: opts}, &out)
	return out, err
}

// Changes lists the changes that are remembered, oldest first.
func (c *Client) Changes(ctx context.Context) ([]api.Change, error) {
	var out []api.Change
	err := c.call(ctx, request{method: http.MethodGet, path: "/changes"}, &out)
	return out, err
}

// Change returns one change as it is now.
func (c *Client) Change(ctx context.Context, id string) (api.Change, error) {
	var out api.Change
	err := c.call(ctx, request{method: http.MethodGet, path: "/changes/" + url.PathEscape(id)}, &out)
	return out, err
}

// FollowChange hands the change to onChange now and whenever it has moved on,
// and returns it when it has ended. A change that failed or was aborted is not
// an error of FollowChange: look at its Status and Error. Ending ctx stops the
// following, not the change.
func (c *Client) FollowChange(ctx context.Context, id string, onChange func(api.Change)) (api.Change, error) {
	var last api.Change
	err := stream(ctx, c, request{
		method: http.MethodGet, path: "/changes/" + url.PathEscape(id),
		query: url.Values{"follow": {"true"}},
	}, func(ch api.Change) error {
		last = ch
		if onChange != nil {
			onChange(ch)
		}
		return nil
	})
	if err == nil && !api.Ended(last.Status) {
		err = fmt.Errorf("follow change %s: the daemon went away: %w", id, io.ErrUnexpectedEOF)
	}
	return last, err
}

// AbortChange cancels a change and returns it as it is when its tasks have
// ended. With alone it does so only if nobody follows the change but the
// caller: otherwise it fails with api.ClassConflict.
func (c *Client) AbortChange(ctx context.Context, id string, alone bool) (api.Change, error) {
	var out api.Change
	req := request{method: http.MethodPost, path: "/changes/" + url.PathEscape(id) + "/abort"}
	if alone {
		req.query = url.Values{"alone": {"true"}}
	}
	err := c.call(ctx, req, &out)
	return out, err
}
