package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
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

func (p *program) doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Category: groupStack,
		Usage: "look at this machine: what containers need, and what is missing",
		Description: `
Each line says what was found; where something is amiss, also what it is needed
for, and the fix. --fix makes those that are safe: kernel parameters (kept in
/etc/sysctl.d/60-sandbox.conf), kernel modules, the group sandbox.
The exit code is 4 when a check fails that nothing works without.

EXAMPLES
  sandbox doctor
  sudo sandbox doctor --fix
  sandbox doctor --json | jq '.[] | select(.status != "ok")'`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "fix", Usage: "make the fixes that are safe", DisableDefaultText: true},
			jsonFlag(),
		},
		Action: p.action(0, 0, p.doctor),
	}
}

func (p *program) doctor(ctx context.Context, c *cli.Context) error {
	if c.Bool("fix") && !p.host.IsRoot() {
		return &exitError{code: exitNotReady, err: errors.New("--fix needs root"), hint: "sudo sandbox doctor --fix"}
	}
	findings, err := p.host.Check(ctx)
	if err != nil {
		return err
	}
	if c.Bool("fix") {
		did, err := p.host.Fix(ctx, findings)
		for _, line := range did {
			fmt.Fprintln(p.Term.Stderr(), p.Term.Style().Green("fixed:"), ui.Plain(line))
		}
		if err != nil {
			return err
		}
		if len(did) == 0 {
			fmt.Fprintln(p.Term.Stderr(), "there is nothing that --fix can repair")
		} else if findings, err = p.host.Check(ctx); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		err = ui.JSON(p.Term.Stdout(), findings)
	} else {
		printFindings(p.Term.Stdout(), p.Term.OutStyle(), findings)
	}
	if err != nil {
		return err
	}
	if len(failing(findings)) > 0 {
		return exit(exitNotReady)
	}
	return nil
}

func failing(findings []api.Finding) []api.Finding {
	var out []api.Finding
	for _, f := range findings {
		if f.Status == "fail" {
			out = append(out, f)
		}
	}
	return out
}

func notReady(failed []api.Finding) error {
	return &exitError{
		code: exitNotReady,
		err:  fmt.Errorf("this machine is not ready: %d check(s) failed", len(failed)),
		hint: "sandbox doctor shows them all; sudo sandbox doctor --fix makes the fixes that are safe",
	}
}

// printFindings prints a line for each, and for those that are not ok why they
// matter and what to do.
func printFindings(w io.Writer, style ui.Style, findings []api.Finding) {
	width, fixable := 0, 0
	count := map[string]int{}
	for _, f := range findings {
		width = max(width, ui.Width(f.Check))
		count[f.Status]++
		if f.Fixable && f.Status != "ok" {
			fixable++
		}
	}
	pad := strings.Repeat(" ", width+8)
	for _, f := range findings {
		mark := style.Green("  ok")
		switch f.Status {
		case "warn":
			mark = style.Yellow("warn")
		case "fail":
			mark = style.Red("fail")
		}
		fmt.Fprintf(w, "%s  %s%s  %s\n", mark, f.Check, strings.Repeat(" ", width-ui.Width(f.Check)), ui.Plain(f.Found))
		if f.Status == "ok" {
			continue
		}
		if f.Why != "" {
			fmt.Fprintf(w, "%s%s %s\n", pad, style.Dim("why:"), ui.Plain(f.Why))
		}
		if f.Fix != "" {
			fmt.Fprintf(w, "%s%s %s\n", pad, style.Cyan("fix:"), ui.Plain(f.Fix))
		}
	}
	fmt.Fprintf(w, "\n%d ok, %d warnings, %d failed", count["ok"], count["warn"], count["fail"])
	if fixable > 0 {
		fmt.Fprintf(w, "; sudo sandbox doctor --fix repairs %d", fixable)
	}
	fmt.Fprintln(w)
}
