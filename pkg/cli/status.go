package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Category: groupStack,
		Usage: "show what is up, and where to find it",
		Description: `
EXAMPLES
  sandbox status
  sandbox status --watch
  sandbox status --json`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "look again every second", DisableDefaultText: true},
			jsonFlag(),
		},
		Action: p.action(0, 0, func(ctx context.Context, c *cli.Context) error {
			if !c.Bool("watch") {
				status, err := p.client().Status(ctx)
				if err != nil {
					return err
				}
				return p.printStatus(status, c.Bool("json"))
			}
			return p.watchStatus(ctx, c.Bool("json"))
		}),
	}
}

func (p *program) printStatus(status api.StackStatus, asJSON bool) error {
	out := p.Term.Stdout()
	if asJSON {
		return ui.JSON(out, status)
	}
	if err := statusTable(p.Term.OutStyle(), status).Write(out, p.Term.OutStyle()); err != nil {
		return err
	}
	if status.Change != "" {
		fmt.Fprintf(out, "\nchange %s is under way\n", status.Change)
	}
	return nil
}

func (p *program) watchStatus(ctx context.Context, asJSON bool) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	defer p.Term.Status()
	last := ""
	for {
		status, err := p.client().Status(ctx)
		if err != nil && !daemonLost(err) {
			return err
		}
		switch {
		case asJSON && err == nil:
			if err := ui.JSONLine(p.Term.Stdout(), status); err != nil {
				return err
			}
		case !asJSON:
			lines := []string{"the daemon is not running"}
			if err == nil {
				lines = statusTable(p.Term.Style(), status).Lines(p.Term.Style())
			}
			if p.Term.Live() {
				p.Term.Status(lines...)
			} else if text := strings.Join(lines, "\n"); text != last {
				// Only what has changed is news in a file.
				fmt.Fprintln(p.Term.Stdout(), text)
				last = text
			}
		}
		select {
		case <-ctx.Done():
			return exit(exitInterrupted)
		case <-tick.C:
		}
	}
}

func statusTable(style ui.Style, status api.StackStatus) *ui.Table {
	t := &ui.Table{Header: []string{"WHAT", "WHERE", "STATE", "NOTE"}}
	t.Add("daemon", fmt.Sprintf("process %d", status.PID), state(style, "up"), "version "+ui.Plain(status.Daemon.Version))
	for _, item := range status.Services {
		t.Add("  "+ui.Plain(item.What), ui.Plain(item.Where), state(style, item.State), ui.Plain(item.Note))
	}
	for _, s := range status.Stages {
		t.Add(ui.Plain(s.Name), "", state(style, s.Status), ui.Plain(s.Error))
		for _, item := range s.Items {
			t.Add("  "+ui.Plain(item.What), ui.Plain(item.Where), state(style, item.State), ui.Plain(item.Note))
		}
	}
	return t
}

func state(style ui.Style, s string) string {
	switch s {
	case "up":
		return style.Green(s)
	case "degraded":
		return style.Yellow(s)
	case "down", "absent":
		return style.Dim(s)
	}
	return ui.Plain(s)
}
