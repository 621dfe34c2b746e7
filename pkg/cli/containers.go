package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	cli "github.com/urfave/cli/v2"
)

// defaultGrace is how long stop waits before it kills, unless the container or
// the command line says otherwise: docker's 10 s.
const defaultGrace = 10 * time.Second

// atOnce is how many containers a command works on at the same time.
const atOnce = 16

// each calls do for every container, up to parallel at a time, prints the
// names of those that went well, in the order given, and reports the others.
func (p *program) each(ctx context.Context, refs []string, parallel int, do func(context.Context, string) error) error {
	errs := make([]error, len(refs))
	done := make([]chan struct{}, len(refs))
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i := range refs {
		done[i] = make(chan struct{})
	}
	wg.Go(func() {
		for i, ref := range refs {
			slots <- struct{}{}
			wg.Go(func() {
				defer close(done[i])
				errs[i] = do(ctx, ref)
				<-slots
			})
		}
	})
	var failed []error
	for i, ref := range refs {
		<-done[i]
		if errs[i] == nil {
			fmt.Fprintln(p.Term.Stdout(), ref)
			continue
		}
		failed = append(failed, errs[i])
	}
	wg.Wait()
	if len(failed) == 1 {
		return failed[0]
	}
	return errors.Join(failed...)
}

func (p *program) stopCommand() *cli.Command {
	return &cli.Command{
		Name: "stop", Category: groupChange,
		Usage:     "end containers: the stop signal first, SIGKILL after a while",
		ArgsUsage: "CONTAINER...",
		Description: `
EXAMPLES
  sandbox stop web
  sandbox stop -t 1 web db
  sandbox stop -s SIGINT web`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "time", Aliases: []string{"t", "timeout"}, Usage: "`SECONDS` to wait before the kill; -1 waits for ever (10)"},
			&cli.StringFlag{Name: "signal", Aliases: []string{"s"}, Usage: "`SIGNAL` to send first, instead of the container's own"},
		},
		Action: p.action(1, -1, func(ctx context.Context, c *cli.Context) error {
			var grace *int
			if s := c.String("time"); s != "" {
				n, err := parseInt(-1, math.MaxInt32)(s)
				if err != nil {
					return usagef("invalid value %q for --time: %v; for example: --time 10", s, err)
				}
				seconds := int(n)
				grace = &seconds
			}
			signal := c.String("signal")
			if signal != "" {
				if _, err := parseSignal(signal); err != nil {
					return usagef("invalid value %q for --signal: %v; for example: --signal SIGTERM", signal, err)
				}
			}
			return p.each(ctx, c.Args().Slice(), atOnce, func(ctx context.Context, ref string) error {
				return p.stop(ctx, ref, grace, signal)
			})
		}),
	}
}

func (p *program) stop(ctx context.Context, ref string, grace *int, signal string) error {
	cl := p.client()
	if grace == nil || signal != "" {
		c, err := cl.InspectContainer(ctx, ref)
		if err != nil {
			return err
		}
		if grace == nil {
			grace = c.Spec.StopTimeout
		}
		if signal != "" && c.Status == api.StatusRunning {
			// A further signal of stop's own comes with it: a process that has
			// understood the first is gone by then, or does not mind.
			if err := cl.KillContainer(ctx, c.ID, signal); err != nil {
				return err
			}
			if gone := p.waitFor(ctx, c.ID, graceOf(grace)); gone {
				return nil
			}
			zero := 0
			grace = &zero
		}
	}
	return cl.StopContainer(ctx, ref, graceOf(grace))
}

// waitFor says whether the container ended in time.
func (p *program) waitFor(ctx context.Context, id string, grace time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	_, err := p.client().WaitContainer(ctx, id)
	return err == nil
}

func graceOf(seconds *int) time.Duration {
	switch {
	case seconds == nil:
		return defaultGrace
	case *seconds < 0:
		return 365 * 24 * time.Hour
	}
	return time.Duration(*seconds) * time.Second
}

func (p *program) killCommand() *cli.Command {
	return &cli.Command{
		Name: "kill", Category: groupChange,
		Usage:     "send a signal to the first process of containers",
		ArgsUsage: "CONTAINER...",
		Description: `
EXAMPLES
  sandbox kill web             SIGKILL: it cannot refuse
  sandbox kill -s HUP web
  sandbox kill -s 10 web db`,
		Flags: []cli.Flag{&cli.StringFlag{Name: "signal", Aliases: []string{"s"}, Usage: "`SIGNAL`, by name or number (KILL)"}},
		Action: p.action(1, -1, func(ctx context.Context, c *cli.Context) error {
			signal := c.String("signal")
			if signal == "" {
				signal = "KILL"
			}
			if _, err := parseSignal(signal); err != nil {
				return usagef("invalid value %q for --signal: %v; for example: --signal HUP", signal, err)
			}
			return p.each(ctx, c.Args().Slice(), atOnce, func(ctx context.Context, ref string) error {
				return p.client().KillContainer(ctx, ref, signal)
			})
		}),
	}
}

func (p *program) pauseCommand() *cli.Command {
	return p.simple("pause", "freeze all processes of containers: cgroup.freeze", func(ctx context.Context, ref string) error {
		return p.client().PauseContainer(ctx, ref)
	}, `
EXAMPLES
  sandbox pause web
  sandbox pause web db`)
}

func (p *program) unpauseCommand() *cli.Command {
	return p.simple("unpause", "thaw them again", func(ctx context.Context, ref string) error {
		return p.client().UnpauseContainer(ctx, ref)
	}, `
EXAMPLES
  sandbox unpause web
  sandbox unpause web db`)
}

func (p *program) simple(name, usage string, do func(context.Context, string) error, description string) *cli.Command {
	return &cli.Command{
		Name: name, Category: groupChange, Usage: usage, ArgsUsage: "CONTAINER...", Description: description,
		Action: p.action(1, -1, func(ctx context.Context, c *cli.Context) error {
			return p.each(ctx, c.Args().Slice(), atOnce, do)
		}),
	}
}

func (p *program) waitCommand() *cli.Command {
	return &cli.Command{
		Name: "wait", Category: groupChange,
		Usage:     "wait until containers have exited and print their exit codes",
		ArgsUsage: "CONTAINER...",
		Description: `
EXAMPLES
  sandbox wait web
  sandbox wait web db`,
		Action: p.action(1, -1, func(ctx context.Context, c *cli.Context) error {
			var errs []error
			for _, ref := range c.Args().Slice() {
				ended, err := p.client().WaitContainer(ctx, ref)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintln(p.Term.Stdout(), ended.Code)
			}
			return errors.Join(errs...)
		}),
	}
}

func (p *program) rmCommand() *cli.Command {
	return &cli.Command{
		Name: "rm", Category: groupChange,
		Usage:     "remove containers, with what they have written",
		ArgsUsage: "CONTAINER...",
		Description: `
EXAMPLES
  sandbox rm web
  sandbox rm -f web db             running ones, too
  sandbox rm $(sandbox ps -aq --filter status=exited)`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill running containers first", DisableDefaultText: true},
			// There are no anonymous volumes to remove; docker's habit is harmless.
			&cli.BoolFlag{Name: "volumes", Aliases: []string{"v"}, Hidden: true},
		},
		Action: p.action(1, -1, func(ctx context.Context, c *cli.Context) error {
			return p.each(ctx, c.Args().Slice(), atOnce, func(ctx context.Context, ref string) error {
				return p.client().RemoveContainer(ctx, ref, c.Bool("force"))
			})
		}),
	}
}
