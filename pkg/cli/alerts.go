package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) alertsCommand() *cli.Command {
	return &cli.Command{
		Name: "alerts", Category: groupStack,
		Usage: "show the alerts that Alertmanager has sent",
		Description: `
Prometheus decides that an alert fires, Alertmanager sends it here; the last
1000 are kept. Watchdog fires always: its coming shows that the way is open.

EXAMPLES
  sandbox alerts
  sandbox alerts --watch
  sandbox alerts --json | jq '.[] | select(.status == "firing") | .name'`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "go on, with a line for each as it comes", DisableDefaultText: true},
			&cli.BoolFlag{Name: "json", Usage: "print JSON: an array, or an object a line with --watch", DisableDefaultText: true},
		},
		Action: p.action(0, 0, func(ctx context.Context, c *cli.Context) error {
			if c.Bool("watch") {
				return p.watchAlerts(ctx, c.Bool("json"))
			}
			list, err := p.client().Alerts(ctx)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return ui.JSON(p.Term.Stdout(), list)
			}
			return alertTable(p.Term.OutStyle(), time.Now(), list).Write(p.Term.Stdout(), p.Term.OutStyle())
		}),
	}
}

func (p *program) watchAlerts(ctx context.Context, asJSON bool) error {
	return p.client().FollowAlerts(ctx, func(a api.Alert) error {
		if asJSON {
			return ui.JSONLine(p.Term.Stdout(), a)
		}
		_, err := fmt.Fprintln(p.Term.Stdout(), alertLine(p.Term.OutStyle(), a))
		return err
	})
}

// alertTable shows the newest first: what is of interest is at the top.
func alertTable(style ui.Style, now time.Time, list []api.Alert) *ui.Table {
	t := &ui.Table{Header: []string{"RECEIVED", "STATUS", "ALERT", "SEVERITY", "SINCE", "WHAT"}}
	for _, a := range slices.Backward(list) {
		t.Add(ui.Ago(now, a.LastReceived), alertStatus(style, a), ui.Plain(a.Name), ui.Plain(a.Labels["severity"]),
			a.StartsAt.Local().Format("15:04:05"), whatAlert(a))
	}
	return t
}

func alertLine(style ui.Style, a api.Alert) string {
	line := fmt.Sprintf("%s  %s%s  %s", style.Dim(a.Received.Local().Format("15:04:05")),
		alertStatus(style, a), strings.Repeat(" ", max(0, len(api.AlertResolved)-len(a.Status))), style.Bold(ui.Plain(a.Name)))
	for _, more := range []string{ui.Plain(a.Labels["severity"]), whatAlert(a)} {
		if more != "" {
			line += "  " + more
		}
	}
	return line
}

// whatAlert is the alert in a few words: its summary, or else its labels.
func whatAlert(a api.Alert) string {
	if s := a.Annotations["summary"]; s != "" {
		return ui.Plain(s)
	}
	var labels []string
	for name, value := range a.Labels {
		if name != "alertname" && name != "severity" {
			labels = append(labels, name+"="+value)
		}
	}
	slices.Sort(labels)
	return ui.Plain(strings.Join(labels, " "))
}

func alertStatus(style ui.Style, a api.Alert) string {
	switch {
	case a.Status == api.AlertResolved:
		return style.Green(a.Status)
	case a.Labels["severity"] == "none": // Watchdog
		return style.Dim(a.Status)
	case a.Status == api.AlertFiring:
		return style.Red(a.Status)
	}
	return ui.Plain(a.Status)
}
