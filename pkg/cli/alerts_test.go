package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

func TestAlerts(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.Local)
	firing := api.Alert{
		Status: api.AlertFiring, Name: "HighErrorRate", Labels: map[string]string{"alertname": "HighErrorRate", "severity": "critical"},
		Annotations: map[string]string{"summary": "High error rate detected\x1b[31m"},
		StartsAt:    now.Add(-3 * time.Minute), Received: now.Add(-2 * time.Minute), LastReceived: now.Add(-2 * time.Minute),
	}
	resolved := firing
	resolved.Status, resolved.Received, resolved.LastReceived = api.AlertResolved, now, now
	bare := api.Alert{
		Status: api.AlertFiring, Name: "Other", Labels: map[string]string{"alertname": "Other", "job": "x", "instance": "y"},
		StartsAt: now, Received: now, LastReceived: now,
	}
	lines := alertTable(ui.Style{}, now, []api.Alert{firing, bare, resolved}).Lines(ui.Style{})
	if len(lines) != 4 || !strings.Contains(lines[1], "resolved") || !strings.Contains(lines[2], "instance=y job=x") ||
		!strings.Contains(lines[3], "firing") || !strings.Contains(lines[3], "11:57:00") || strings.Contains(lines[3], "\x1b") {
		t.Errorf("the newest is to be first, and plain:\n%s", strings.Join(lines, "\n"))
	}
	got := []string{alertLine(ui.Style{}, firing), alertLine(ui.Style{}, resolved)}
	if !strings.HasPrefix(got[0], "11:58:00  firing    HighErrorRate  critical  High error") || !strings.HasPrefix(got[1], "12:00:00  resolved  HighErrorRate") {
		t.Errorf("lines: %q", got)
	}
	firing.Labels["severity"] = "none"
	if s := alertStatus(ui.Colour(), firing); s != ui.Colour().Dim("firing") {
		t.Errorf("Watchdog is %q", s)
	}
}
