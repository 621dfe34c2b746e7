package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/monitoring"
)

// Monitoring is the stage of that name.
type Monitoring interface {
	Query(ctx context.Context, expr string) ([]monitoring.Sample, error)
	AlertState(ctx context.Context, name string) (string, error)
	SetRules(ctx context.Context, name string, rules []byte) error
	Panels() (map[string][]string, error)
}

// scrapeTimeout is for what Prometheus is to find, scrape and rate first: it
// does so every 15 s.
const scrapeTimeout = 2 * time.Minute

const (
	// alert is the walk's own, of rules by the same name.
	alert      = "SandboxVerify"
	alertRules = "sandbox-verify"
)

// rules fire within seconds, unlike those for people.
const rules = `groups:
  - name: sandbox-verify
    interval: 2s
    rules:
      - alert: ` + alert + `
        expr: sum(rate(http_requests_total{namespace="` + namespace + `", status=~"5.."}[45s])) > 0
        for: 5s
        labels: {severity: info}
        annotations:
          summary: sandbox verify makes the demo app fail, to see this alert
`

// asked keeps asking the app, as its users would, until ctx ends.
func (w *Walk) asked(ctx context.Context) {
	at, err := w.Cluster.Ingress(ctx)
	for err == nil && ctx.Err() == nil {
		_ = get(ctx, at+"/", ingressHost, nil) // errors are what some of it is about
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// whileAsked does something while the app has visitors.
func (w *Walk) whileAsked(ctx context.Context, do func() error) error {
	visits, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.asked(visits)
	}()
	defer func() {
		stop()
		<-done
	}()
	return do()
}

func (w *Walk) measures(ctx context.Context, p stack.Progress) error {
	const expr = `sum(rate(http_requests_total{namespace="` + namespace + `"}[1m])) > 0`
	var got []monitoring.Sample
	err := w.whileAsked(ctx, func() error {
		return poll(ctx, scrapeTimeout, func(ctx context.Context) (err error) {
			if got, err = w.Monitoring.Query(ctx, expr); err == nil && len(got) == 0 {
				err = fmt.Errorf("no data for %s", expr)
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	return kept(p, "%.4s requests per second", got[0].Value)
}

// shows asks every query of every panel, while there is something to see: a
// container by hand, and an app with visitors.
func (w *Walk) shows(ctx context.Context, p stack.Progress) error {
	panels, err := w.Monitoring.Panels()
	if err != nil {
		return err
	}
	limits := w.NoMemoryLimit()
	resources := api.Resources{}
	if limits == "" {
		resources = api.Resources{Memory: memoryLimit, NanoCPUs: 2e8}
	}
	c, err := w.startApp(ctx, api.ContainerSpec{Name: "sandbox-verify-shows", Command: []string{"-cpu", "0.3"}, Resources: resources}, p)
	if err != nil {
		return err
	}
	queries, impossible := 0, 0
	err = w.whileAsked(ctx, func() error {
		return poll(ctx, scrapeTimeout, func(ctx context.Context) error {
			queries, impossible = 0, 0
			for _, title := range slices.Sorted(maps.Keys(panels)) {
				for _, expr := range panels[title] {
					got, err := w.Monitoring.Query(ctx, expr)
					switch {
					case err != nil:
						return fmt.Errorf("panel %q: %w", title, err)
					case len(got) == 0 && limits != "" && strings.Contains(expr, `job="containers"`):
						impossible++
					case len(got) == 0:
						return fmt.Errorf("panel %q: no data for %s", title, expr)
					default:
						queries++
					}
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if err := w.Engine.Remove(ctx, c.ID, true); err != nil {
		return err
	}
	if impossible > 0 {
		return kept(p, "%d queries of %d panels have data; %d cannot here: %s", queries, len(panels), impossible, limits)
	}
	return kept(p, "%d queries of %d panels", queries, len(panels))
}

// alerts makes the app fail, and follows the alert to its end.
func (w *Walk) alerts(ctx context.Context, p stack.Progress) error {
	if err := w.Monitoring.SetRules(ctx, alertRules, []byte(rules)); err != nil {
		return err
	}
	begun := time.Now()
	var steps []string
	step := func(name string) {
		steps = append(steps, fmt.Sprintf("%s %.0f s", name, time.Since(begun).Seconds()))
		p.Note("%s", strings.Join(steps, ", "))
	}
	fails := func(rate string) error {
		_, err := w.kubectl(ctx, "set", "env", "deployment/demo-app", "ERROR_RATE="+rate)
		return err
	}
	inState := func(states ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			got, err := w.Monitoring.AlertState(ctx, alert)
			if err == nil && !slices.Contains(states, got) {
				err = fmt.Errorf("the alert is %q, not %s", got, strings.Join(states, " or "))
			}
			return err
		}
	}
	received := func(status string) func(context.Context) error {
		return func(context.Context) error {
			for _, a := range w.Alerts() {
				if a.Name == alert && a.Status == status && a.LastReceived.After(begun) {
					return nil
				}
			}
			return fmt.Errorf("no alert %s with the status %s has been received", alert, status)
		}
	}
	if err := fails("0.5"); err != nil {
		return err
	}
	err := w.whileAsked(ctx, func() error {
		if err := poll(ctx, scrapeTimeout, inState("pending", "firing")); err != nil {
			return err
		}
		step("pending after")
		if err := poll(ctx, scrapeTimeout, inState("firing")); err != nil {
			return err
		}
		step("firing")
		if err := poll(ctx, time.Minute, received(api.AlertFiring)); err != nil {
			return err
		}
		step("received")
		return fails("0")
	})
	if err != nil {
		return err
	}
	if err := poll(ctx, 2*scrapeTimeout, received(api.AlertResolved)); err != nil {
		return err
	}
	step("resolved")
	return w.Monitoring.SetRules(ctx, alertRules, nil)
}

// removeRules takes the walk's rules away, if monitoring is up.
func (w *Walk) removeRules(ctx context.Context) error {
	err := w.Monitoring.SetRules(ctx, alertRules, nil)
	if errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}

// quiet is whether nothing but Watchdog fires.
func (w *Walk) quiet(ctx context.Context, p stack.Progress) error {
	got, err := w.Monitoring.Query(ctx, `ALERTS{alertstate="firing", alertname!~"Watchdog|`+alert+`"}`)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range got {
		names = append(names, s.Labels["alertname"])
	}
	if len(names) > 0 {
		return errors.New("there fire: " + strings.Join(names, ", "))
	}
	return kept(p, "nothing but Watchdog fires")
}
