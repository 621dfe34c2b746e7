package daemon

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// getAlerts lists what Alertmanager has sent, oldest first. With follow it
// streams that, and then what comes.
func (d *Daemon) getAlerts(w http.ResponseWriter, r *http.Request) error {
	follow, err := queryBool(r, "follow")
	if err != nil {
		return err
	}
	if d.Alerts == nil {
		return fmt.Errorf("this daemon receives no alerts: %w", errdefs.ErrNotImplemented)
	}
	if !follow {
		list := d.Alerts.List()
		if list == nil {
			list = []api.Alert{} // [] on the wire, not null
		}
		return respond(w, http.StatusOK, list)
	}
	out := newLines(w)
	if err := out.begin(); err != nil {
		return err
	}
	return d.Alerts.Follow(r.Context(), func(a api.Alert) error {
		return errors.Join(out.put(a), out.flush())
	})
}
