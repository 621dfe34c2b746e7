package api

import "time"

// Alert is one line of GET /v1/alerts: that an alert began to fire, or was
// resolved, as Alertmanager has told it.
type Alert struct {
	Status      string            `json:"status"` // firing, resolved
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels"` // with the name as alertname
	Annotations map[string]string `json:"annotations,omitempty"`
	StartsAt    time.Time         `json:"starts_at"`
	EndsAt      time.Time         `json:"ends_at,omitzero"` // of one that is resolved
	// Received is when it was told first, and Repeated how often after that,
	// LastReceived being the last time: Alertmanager reminds of what goes on.
	Received     time.Time `json:"received"`
	LastReceived time.Time `json:"last_received"`
	Repeated     int       `json:"repeated,omitempty"`
	// Fingerprint is the same for all of one alert: of its labels.
	Fingerprint string `json:"fingerprint"`
	// Source is the page of Prometheus that shows the alert's expression.
	Source string `json:"source,omitempty"`
}

// Status words of [Alert].
const (
	AlertFiring   = "firing"
	AlertResolved = "resolved"
)
