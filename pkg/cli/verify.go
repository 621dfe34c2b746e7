package cli

import (
	"context"
	"fmt"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) verifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Category: groupStack,
		Usage: "try what the stack promises, from end to end",
		Description: `
Takes the demo app the whole way, as you would: into a container made by hand,
under Docker, into the cluster, behind an Ingress, under a NetworkPolicy: three
times the same image. A line for each promise says whether it holds, and how that was seen. What this machine cannot
do is skipped, with the reason. Afterwards all that was made is gone again.

The exit code is 0 when every promise that could be tried holds, and 3 when one
does not.

EXAMPLES
  sudo sandbox verify
  sudo sandbox verify --only dns,policy
  sudo sandbox verify --only memory --offline
  sudo sandbox verify --json`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "only", Usage: "try these `PROMISES`, separated by commas, and what they need"},
			&cli.BoolFlag{Name: "offline", Usage: "ask no registry for the demo app, and do not build it", DisableDefaultText: true},
			jsonFlag(),
		},
		Action: p.action(0, 0, p.verify),
	}
}

func (p *program) verify(ctx context.Context, c *cli.Context) error {
	ref, err := p.client().Verify(ctx, api.VerifyOptions{Only: splitList(c.StringSlice("only")), Offline: c.Bool("offline")})
	if err != nil {
		return err
	}
	change, err := p.follow(ctx, ref)
	if c.Bool("json") {
		if e := ui.JSON(p.Term.Stdout(), change); e != nil {
			return e
		}
	}
	if err != nil || change.Status == api.Aborted {
		return p.changeEnded(ctx, change, err)
	}
	held, broken, skipped := 0, 0, 0
	for _, t := range change.Tasks {
		switch t.Status {
		case api.Done:
			held++
		case api.Skipped:
			skipped++
		default:
			broken++
		}
	}
	summary := fmt.Sprintf("%d of %d promises hold", held, held+broken)
	if skipped > 0 {
		summary += fmt.Sprintf("; %d could not be tried", skipped)
	}
	if broken > 0 {
		return &exitError{code: exitCheckFailed, err: fmt.Errorf("%s", summary), hint: "sudo sandbox status shows what is up; sudo sandbox up repairs"}
	}
	if !c.Bool("json") {
		_, err = fmt.Fprintln(p.Term.Stdout(), summary)
	}
	return err
}
