package cli

import (
	"errors"
	"math"

	cli "github.com/urfave/cli/v2"
)

// telemetryPort is where the daemon is observed, unless it is told otherwise.
const telemetryPort = 5056

func (p *program) daemonCommand() *cli.Command {
	return &cli.Command{
		Name: "daemon", Category: groupOneself,
		Usage: "run the daemon in the foreground (up starts it for you)",
		Description: `
Serves the API on the socket in the run folder until SIGTERM or Ctrl-C, and the
local images as a read-only registry, from which other engines can pull.
Containers go on without it.

EXAMPLES
  sudo sandbox daemon
  sudo sandbox daemon --registry off
  sudo sandbox --state-dir /tmp/lib --run-dir /tmp/run daemon --registry 127.0.0.1:5056`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "registry", Usage: "serve the registry at `IP:PORT`, or off (127.0.0.1:5055)", EnvVars: []string{"SANDBOX_REGISTRY"}},
			&cli.UintFlag{Name: "telemetry-port", Usage: "give metrics to Prometheus and take alerts at port `N` of Docker's network", EnvVars: []string{"SANDBOX_TELEMETRY_PORT"}, Value: telemetryPort},
			&cli.BoolFlag{Name: "registry-upstream", Usage: "let the registry fetch what is not in the local store", EnvVars: []string{"SANDBOX_REGISTRY_UPSTREAM"}, DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			if err := checkArgs(c, 0, 0); err != nil {
				return err
			}
			if !p.host.IsRoot() {
				return &exitError{code: exitNotReady, err: errors.New("the daemon needs root"), hint: "sudo sandbox daemon"}
			}
			port := c.Uint("telemetry-port")
			if port > math.MaxUint16 {
				return usagef("--telemetry-port %d: there is no such port", port)
			}
			return p.host.Serve(c.Context, Serving{
				Registry: c.String("registry"), Upstream: c.Bool("registry-upstream"), TelemetryPort: uint16(port),
			})
		},
	}
}
