package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Category: groupStack,
		Usage: "show what is up, where to find it, and how to get in",
		Description: `
Times and images are those of the last "sandbox up".

EXAMPLES
  sandbox status
  sandbox status --watch
  sandbox status --json | jq -r '.stages[].items[]? | select(.state != "up") | .what'
  sandbox status --watch --json | jq -r 'select(.state == "down") | .what'`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "go on: redraw the table, or print a line for each change if this is no terminal", DisableDefaultText: true},
			&cli.BoolFlag{Name: "json", Usage: "print JSON: an object, or one for each change with --watch", DisableDefaultText: true},
		},
		Action: p.action(0, 0, func(ctx context.Context, c *cli.Context) error {
			if c.Bool("watch") {
				return p.watchStatus(ctx, c.Bool("json"))
			}
			status, err := p.client().Status(ctx)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return ui.JSON(p.Term.Stdout(), status)
			}
			return p.printStatus(status)
		}),
	}
}

// printStatus shows a status as a table, cut to the terminal that it is for.
func (p *program) printStatus(status api.StackStatus) error {
	style := p.Term.OutStyle()
	table := statusTable(style, status)
	if _, terminal := p.Term.Interactive(); terminal {
		_, table.Width = p.Term.Size()
	}
	if err := table.Write(p.Term.Stdout(), style); err != nil {
		return err
	}
	ui.Lines(p.Term.Stdout(), statusFooter(status)...)
	return nil
}

// watchPause is the time between two looks.
const watchPause = time.Second

// watchStatus looks again and again, until it is interrupted: the table stays in
// its place on a live terminal; elsewhere only what has changed is news.
func (p *program) watchStatus(ctx context.Context, asJSON bool) error {
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	defer p.Term.Status()
	seen := &statusNews{}
	looked := false // then a daemon that ends is news, which may come back
	for {
		status, err := p.client().Status(ctx)
		if err != nil && (!looked || !daemonLost(err)) {
			return err
		}
		looked = true
		if err != nil {
			status = api.StackStatus{}
		}
		switch {
		case !asJSON && p.Term.Live():
			p.drawStatus(status, err == nil)
		default:
			for _, news := range seen.of(status, err == nil, time.Now()) {
				if asJSON {
					err = ui.JSONLine(p.Term.Stdout(), news)
				} else {
					_, err = fmt.Fprintln(p.Term.Stdout(), news.line(p.Term.OutStyle()))
				}
				if err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return exit(exitInterrupted)
		case <-tick.C:
		}
	}
}

func (p *program) drawStatus(status api.StackStatus, running bool) {
	if !running {
		p.Term.Status("the daemon is not running")
		return
	}
	style := p.Term.Style()
	table := statusTable(style, status)
	_, table.Width = p.Term.Size()
	p.Term.Status(append(table.Lines(style), statusFooter(status)...)...)
}
