package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/client"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) downCommand() *cli.Command {
	return &cli.Command{
		Name: "down", Category: groupStack,
		Usage: "stop everything; with --purge, leave nothing behind",
		Description: `
Containers are removed and the network is taken down; images and settings stay.
With --purge they go as well, with the daemon, its unit and its folders, and
what is left after all, if anything, is printed.

EXAMPLES
  sudo sandbox down
  sudo sandbox down --purge`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "purge", Usage: "remove images, state and the daemon as well", DisableDefaultText: true},
			jsonFlag(),
		},
		Action: p.action(0, 0, p.down),
	}
}

func (p *program) down(ctx context.Context, c *cli.Context) error {
	purge := c.Bool("purge")
	if purge {
		if !p.host.IsRoot() {
			return &exitError{code: exitNotReady, err: errors.New("--purge needs root: it removes the daemon's unit and folders"), hint: "sudo sandbox down --purge"}
		}
		// What a crash has left is the daemon's to find and take away, also on a
		// host that could no longer run a container.
		if err := p.ensureDaemon(ctx, nil); err != nil {
			return err
		}
	}
	ref, err := p.client().Down(ctx, api.DownOptions{Purge: purge})
	if errors.Is(err, client.ErrNotRunning) && !purge {
		fmt.Fprintln(p.Term.Stderr(), "the daemon is not running: nothing is up")
		return nil
	}
	if err != nil {
		return err
	}
	change, err := p.follow(ctx, ref)
	if purge && isUnexpectedEOF(err) && change.Status == api.Doing {
		// The daemon ends by itself after a purge, and may do so before it has
		// told us; what is left will show.
		err = nil
		change.Status = api.Done
	}
	if c.Bool("json") {
		if e := ui.JSON(p.Term.Stdout(), change); e != nil {
			return e
		}
	}
	if err := p.changeEnded(ctx, change, err); err != nil || !purge {
		return err
	}
	return p.uninstall(ctx)
}

// uninstall takes away what the daemon could not, and proves that nothing is
// left.
func (p *program) uninstall(ctx context.Context) error {
	if err := p.waitGone(ctx); err != nil {
		return err
	}
	left, err := p.host.Uninstall(ctx)
	// The daemon has closed its socket, and may need a moment more to end.
	for range 20 {
		if len(left) == 0 || ctx.Err() != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
		left, err = p.host.Uninstall(ctx)
	}
	if len(left) > 0 {
		ui.Lines(p.Term.Stderr(), "still there:")
		for _, item := range left {
			ui.Lines(p.Term.Stderr(), "  "+ui.Plain(item))
		}
		return errors.Join(&exitError{code: exitFailure, err: fmt.Errorf("%d things are left", len(left))}, err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(p.Term.Stderr(), "nothing is left: no process, mount, network link, rule, cgroup or file")
	return nil
}

// waitGone waits for the daemon's end.
func (p *program) waitGone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if _, err := p.client().Version(ctx); errors.Is(err, client.ErrNotRunning) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the daemon's end: %w", ctx.Err())
		case <-time.After(startPoll):
		}
	}
}
