package alerts

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Bounds of one notification: whoever is in Docker's network can send one.
const (
	maxBody   = 1 << 20  // bytes
	maxAlert  = 16 << 10 // bytes of an alert's JSON
	maxAlerts = 500      // in one notification
	// webhookVersion is that of the only format that Alertmanager has.
	webhookVersion = "4"
)

// notification is the body that Alertmanager posts, as far as it is of use;
// see "webhook_config" in its configuration's documentation.
type notification struct {
	Version string `json:"version"`
	Alerts  []struct {
		Status       string            `json:"status"`
		Labels       map[string]string `json:"labels"`
		Annotations  map[string]string `json:"annotations"`
		StartsAt     time.Time         `json:"startsAt"`
		EndsAt       time.Time         `json:"endsAt"`
		GeneratorURL string            `json:"generatorURL"`
		Fingerprint  string            `json:"fingerprint"`
	} `json:"alerts"`
	Truncated int `json:"truncatedAlerts"`
}

// ServeHTTP is the receiver. Alertmanager repeats what is answered with 5xx, and
// gives up after 4xx.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "alerts are posted here", http.StatusMethodNotAllowed)
		return
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		http.Error(w, "the body must be application/json", http.StatusUnsupportedMediaType)
		return
	}
	var n notification
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&n); err != nil {
		status := http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "notification: "+err.Error(), status)
		return
	}
	received, err := n.read(time.Now().UTC())
	if err != nil {
		http.Error(w, "notification: "+err.Error(), http.StatusBadRequest)
		return
	}
	if err := s.Add(received); err != nil {
		s.Log.Error("alerts are not received", zap.Error(err))
		http.Error(w, "they cannot be kept", http.StatusInternalServerError)
		return
	}
	if n.Truncated > 0 {
		s.Log.Warn("Alertmanager left alerts out of a notification", zap.Int("count", n.Truncated))
	}
	w.WriteHeader(http.StatusOK)
}

// read checks a notification and takes the alerts out of it.
func (n *notification) read(now time.Time) ([]api.Alert, error) {
	if n.Version != webhookVersion {
		return nil, fmt.Errorf("version %q is not %s", n.Version, webhookVersion)
	}
	if len(n.Alerts) > maxAlerts {
		return nil, fmt.Errorf("%d alerts are more than %d", len(n.Alerts), maxAlerts)
	}
	out := make([]api.Alert, 0, len(n.Alerts))
	for i, from := range n.Alerts {
		a := api.Alert{
			Status: from.Status, Name: from.Labels["alertname"], Labels: from.Labels, Annotations: from.Annotations,
			StartsAt: from.StartsAt, Received: now, Fingerprint: from.Fingerprint, Source: from.GeneratorURL,
		}
		switch a.Status {
		case api.AlertFiring: // its end is only when Prometheus must have said it again
		case api.AlertResolved:
			a.EndsAt = from.EndsAt
		default:
			return nil, fmt.Errorf("alert %d has status %q, neither firing nor resolved", i, a.Status)
		}
		if a.Name == "" || a.Fingerprint == "" || a.StartsAt.IsZero() {
			return nil, fmt.Errorf("alert %d lacks its name, fingerprint or start", i)
		}
		if b, err := json.Marshal(a); err != nil || len(b) > maxAlert {
			return nil, fmt.Errorf("alert %d has %d bytes, more than %d", i, len(b), maxAlert)
		}
		out = append(out, a)
	}
	return out, nil
}
