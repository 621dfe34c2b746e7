package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/client"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) logsCommand() *cli.Command {
	return &cli.Command{
		Name: "logs", Category: groupLook,
		Usage:     "print what a container's process has written",
		ArgsUsage: "CONTAINER",
		Description: `
EXAMPLES
  sandbox logs web
  sandbox logs -f --tail 20 web
  sandbox logs -t --since 10m web`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until the container has exited", DisableDefaultText: true},
			&cli.StringFlag{Name: "tail", Aliases: []string{"n"}, Usage: "only the last `N` lines (all)"},
			&cli.StringFlag{Name: "since", Usage: "only after `TIME`: 10m, 2026-01-02T15:04:05Z, or seconds since 1970"},
			&cli.StringFlag{Name: "until", Usage: "only before `TIME`"},
			&cli.BoolFlag{Name: "timestamps", Aliases: []string{"t"}, Usage: "begin each line with its time", DisableDefaultText: true},
			&cli.BoolFlag{Name: "json", Usage: "print JSON, one object a line", DisableDefaultText: true},
		},
		Action: p.action(1, 1, p.logs),
	}
}

func (p *program) logs(ctx context.Context, c *cli.Context) error {
	opts := client.LogOptions{Follow: c.Bool("follow"), Tail: -1}
	if s := c.String("tail"); s != "" && s != "all" {
		n, err := parseInt(-1, math.MaxInt32)(s)
		if err != nil {
			return usagef("invalid value %q for --tail: not a number of lines, nor all; for example: --tail 20", s)
		}
		opts.Tail = int(n)
	}
	var err error
	if opts.Since, err = timeFlag(c, "since"); err != nil {
		return err
	}
	if opts.Until, err = timeFlag(c, "until"); err != nil {
		return err
	}
	err = p.client().Logs(ctx, c.Args().First(), opts, func(line api.LogLine) error {
		if c.Bool("json") {
			return ui.JSONLine(p.Term.Stdout(), line)
		}
		w := p.Term.Stdout()
		if line.Stream == "stderr" {
			w = p.Term.Stderr()
		}
		if c.Bool("timestamps") {
			if _, err := io.WriteString(w, line.Time.UTC().Format(time.RFC3339Nano)+" "); err != nil {
				return err
			}
		}
		_, err := io.WriteString(w, line.Data)
		return err
	})
	if opts.Follow && errors.Is(err, context.Canceled) {
		return exit(exitInterrupted)
	}
	return err
}

func timeFlag(c *cli.Context, name string) (time.Time, error) {
	s := c.String(name)
	if s == "" {
		return time.Time{}, nil
	}
	t, err := parseTime(s, time.Now())
	if err != nil {
		return t, usagef("invalid value %q for --%s: %v; for example: --%s 10m", s, name, err, name)
	}
	return t, nil
}

// parseTime reads a moment: how long ago (10m), RFC 3339 with or without zone
// and time of day, or seconds since 1970.
func parseTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f >= 0 && f < 1e12 {
		whole, part := math.Modf(f)
		return time.Unix(int64(whole), int64(part*1e9)), nil
	}
	return time.Time{}, errors.New("not a time")
}

func (p *program) eventsCommand() *cli.Command {
	return &cli.Command{
		Name: "events", Category: groupLook,
		Usage: "print what happens to containers, as it happens",
		Description: `
EXAMPLES
  sandbox events
  sandbox events --json | jq .action`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print JSON, one object a line", DisableDefaultText: true}},
		Action: p.action(0, 0, func(ctx context.Context, c *cli.Context) error {
			return p.client().Events(ctx, func(e api.Event) error {
				if c.Bool("json") {
					return ui.JSONLine(p.Term.Stdout(), e)
				}
				_, err := fmt.Fprintln(p.Term.Stdout(), eventLine(p.Term.OutStyle(), e))
				return err
			})
		}),
	}
}

func eventLine(style ui.Style, e api.Event) string {
	s := fmt.Sprintf("%s  %-8s %s  %s  %s", style.Dim(e.Time.Local().Format("15:04:05.000")), e.Action, shortID(e.ID, false), ui.Plain(e.Name), style.Dim(ui.Plain(e.Image)))
	if e.Signal != "" {
		s += "  signal " + ui.Plain(e.Signal)
	}
	if e.Exit != nil {
		s += fmt.Sprintf("  exit code %d", e.Exit.Code)
		if e.Exit.OOMKilled {
			s += ", OOM kill"
		}
	}
	return s
}
