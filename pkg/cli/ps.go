package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) psCommand() *cli.Command {
	return &cli.Command{
		Name: "ps", Category: groupLook,
		Usage: "list containers",
		Description: `
A filter is status=created|running|paused|exited, name=TEXT or id=PREFIX; those
of one kind are alternatives, different kinds must all hold.

EXAMPLES
  sandbox ps
  sandbox ps -a --filter status=exited
  sandbox ps --json`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "also those that do not run", DisableDefaultText: true},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print only the IDs", DisableDefaultText: true},
			&cli.StringSliceFlag{Name: "filter", Aliases: []string{"f"}, Usage: "show those that match `KEY=VALUE`"},
			&cli.BoolFlag{Name: "no-trunc", Usage: "print everything in full", DisableDefaultText: true},
			jsonFlag(),
		},
		Action: p.action(0, 0, p.ps),
	}
}

func (p *program) ps(ctx context.Context, c *cli.Context) error {
	keep, err := parseFilters(c.StringSlice("filter"))
	if err != nil {
		return err
	}
	all, err := p.client().ListContainers(ctx)
	if err != nil {
		return err
	}
	list := []api.Container{}
	for _, item := range all {
		shown := c.Bool("all") || keep.status != nil || item.Status == api.StatusRunning || item.Status == api.StatusPaused
		if shown && keep.match(item) {
			list = append(list, item)
		}
	}
	// The newest first, as docker.
	slices.SortStableFunc(list, func(a, b api.Container) int { return b.Created.Compare(a.Created) })
	out, full := p.Term.Stdout(), c.Bool("no-trunc")
	switch {
	case c.Bool("json"):
		return ui.JSON(out, list)
	case c.Bool("quiet"):
		for _, item := range list {
			fmt.Fprintln(out, shortID(item.ID, full))
		}
		return nil
	}
	now := time.Now()
	t := ui.Table{Header: []string{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAME"}}
	for _, item := range list {
		t.Add(shortID(item.ID, full), ui.Plain(item.Image), commandCell(item.Command, full), ui.Ago(now, item.Created),
			statusCell(now, item), formatPorts(item.Ports), ui.Plain(item.Name))
	}
	return t.Write(out, p.Term.OutStyle())
}

// shortID is the form of an ID that docker prints: 12 digits.
func shortID(id string, full bool) string {
	id = strings.TrimPrefix(id, "sha256:")
	if full || len(id) <= shortIDLen {
		return id
	}
	return id[:shortIDLen]
}

// commandCell quotes the command, cut at 20 characters as docker's.
func commandCell(argv []string, full bool) string {
	s := ui.Plain(strings.Join(argv, " "))
	if !full {
		s = ui.Truncate(s, 20)
	}
	return strconv.Quote(s)
}

func statusCell(now time.Time, c api.Container) string {
	switch c.Status {
	case api.StatusRunning:
		return "Up " + ui.Age(now.Sub(c.Started))
	case api.StatusPaused:
		return "Up " + ui.Age(now.Sub(c.Started)) + " (Paused)"
	case api.StatusExited:
		code, oom := 0, ""
		if c.Exit != nil {
			code = c.Exit.Code
			if c.Exit.OOMKilled {
				oom = ", OOM"
			}
		}
		return fmt.Sprintf("Exited (%d%s) %s", code, oom, ui.Ago(now, c.Finished))
	}
	return strings.ToUpper(c.Status[:min(1, len(c.Status))]) + c.Status[min(1, len(c.Status)):]
}

// filters are --filter's, by kind; nil: not given.
type filters struct{ status, name, id []string }

func parseFilters(given []string) (filters, error) {
	var f filters
	for _, s := range given {
		key, value, err := parseKeyValue(s)
		if err != nil {
			return f, usagef("invalid value %q for --filter: %v; for example: --filter status=exited", s, err)
		}
		switch key {
		case "status":
			if !slices.Contains([]string{api.StatusCreating, api.StatusCreated, api.StatusRunning, api.StatusPaused, api.StatusExited}, value) {
				return f, usagef("invalid value %q for --filter: there is no such status; for example: --filter status=exited", s)
			}
			f.status = append(f.status, value)
		case "name":
			f.name = append(f.name, value)
		case "id":
			f.id = append(f.id, value)
		default:
			return f, usagef("invalid value %q for --filter: the kinds are status, name and id; for example: --filter name=web", s)
		}
	}
	return f, nil
}

func (f filters) match(c api.Container) bool {
	any := func(values []string, ok func(string) bool) bool {
		return values == nil || slices.ContainsFunc(values, ok)
	}
	return any(f.status, func(s string) bool { return s == c.Status }) &&
		any(f.name, func(s string) bool { return strings.Contains(c.Name, s) }) &&
		any(f.id, func(s string) bool { return strings.HasPrefix(c.ID, s) })
}

func (p *program) inspectCommand() *cli.Command {
	return &cli.Command{
		Name: "inspect", Category: groupLook,
		Usage:     "print all about containers, as JSON",
		ArgsUsage: "CONTAINER...",
		Description: `
EXAMPLES
  sandbox inspect web
  sandbox inspect web | jq -r '.[0].cgroup'
  sandbox inspect web db`,
		// It is JSON anyway.
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Hidden: true}},
		Action: p.action(1, -1, func(ctx context.Context, c *cli.Context) error {
			found := []api.Container{}
			var failed error
			for _, ref := range c.Args().Slice() {
				item, err := p.client().InspectContainer(ctx, ref)
				if err != nil {
					failed = joinErrors(failed, err)
					continue
				}
				found = append(found, item)
			}
			if err := ui.JSON(p.Term.Stdout(), found); err != nil {
				return err
			}
			return failed
		}),
	}
}
