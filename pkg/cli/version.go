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

// versionTimeout bounds the wait for a daemon that hangs.
const versionTimeout = 2 * time.Second

func (p *program) versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Category: groupOneself,
		Usage: "print the version of this program and of the daemon",
		Description: `
EXAMPLES
  sandbox version
  sandbox version --json`,
		Flags:  []cli.Flag{jsonFlag()},
		Action: p.action(0, 0, p.version),
	}
}

func (p *program) version(ctx context.Context, c *cli.Context) error {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	both := struct {
		Client api.Version  `json:"client"`
		Daemon *api.Version `json:"daemon"`
	}{Client: p.Version}
	daemon, err := p.client().Version(ctx)
	if err == nil {
		both.Daemon = &daemon
	}
	out := p.Term.Stdout()
	if c.Bool("json") {
		return ui.JSON(out, both)
	}
	fmt.Fprintf(out, "client  %s\n", versionLine(p.Version))
	switch {
	case err == nil:
		fmt.Fprintf(out, "daemon  %s, kernel %s\n", versionLine(daemon), daemon.Kernel)
	case errors.Is(err, client.ErrNotRunning):
		fmt.Fprintln(out, "daemon  not running")
	default:
		fmt.Fprintf(out, "daemon  %s\n", err)
	}
	return nil
}

func versionLine(v api.Version) string {
	s := v.Version
	if v.Commit != "" {
		s += " (" + v.Commit + ")"
	}
	return fmt.Sprintf("%s, %s, %s/%s", s, v.GoVersion, v.OS, v.Arch)
}
