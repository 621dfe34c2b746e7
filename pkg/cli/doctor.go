package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

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
