package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Alerts lists what Alertmanager has sent to the daemon, oldest first.
func (c *Client) Alerts(ctx context.Context) ([]api.Alert, error) {
	var out []api.Alert
	err := c.call(ctx, request{method: http.MethodGet, path: "/alerts"}, &out)
	return out, err
}

// FollowAlerts hands what Alertmanager has sent, and then what it sends, to fn
// until ctx ends or fn fails.
func (c *Client) FollowAlerts(ctx context.Context, fn func(api.Alert) error) error {
	return stream(ctx, c, request{
		method: http.MethodGet, path: "/alerts",
		query: url.Values{"follow": {"true"}},
	}, fn)
}
