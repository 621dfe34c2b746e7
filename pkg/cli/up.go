package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) upCommand() *cli.Command {
	return &cli.Command{
		Name: "up", Category: groupStack,
		Usage: "bring everything up, or repair it",
		Description: `
Starts the daemon where it does not run (a systemd unit, or a process of its
own), then looks at every part and makes what is missing. It may be run at any
time: after a crash, a reboot or a Ctrl-C it repairs. Where one is under way it
joins that one, and shows it. Needs root.

An image that is not in the local store comes from the archive, from upstream's
registry, or from its recipe, in this order.

EXAMPLES
  sudo sandbox up
  sudo sandbox up --only internals
  sudo sandbox up --nodes 3 --port grafana=3002
  sudo sandbox up --offline --archive stack.tar
  sudo sandbox up --json`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "only", Usage: "bring up these `STAGES`, separated by commas, and what they need"},
			&cli.StringSliceFlag{Name: "without", Usage: "leave out these `STAGES`, and what needs them"},
			&cli.IntFlag{Name: "nodes", Usage: "make the cluster of `N` nodes, from now on", Value: 1},
			&cli.StringSliceFlag{Name: "port", Usage: "let a service have another port of this machine: `NAME=PORT`"},
			&cli.StringFlag{Name: "archive", Usage: "take images that are missing from `FILE` first, as image export writes it"},
			&cli.BoolFlag{Name: "offline", Usage: "ask no registry, and build nothing that needs the network", DisableDefaultText: true},
			jsonFlag(),
		},
		Action: p.action(0, 0, p.up),
	}
}

func (p *program) up(ctx context.Context, c *cli.Context) error {
	opts := api.UpOptions{Only: splitList(c.StringSlice("only")), Without: splitList(c.StringSlice("without")), Offline: c.Bool("offline")}
	if c.IsSet("nodes") { // otherwise it is what it was
		if opts.Nodes = c.Int("nodes"); opts.Nodes < 1 {
			return usagef("--nodes %d: a cluster has one node at least", opts.Nodes)
		}
	}
	opts.User = p.host.User()
	var err error
	if opts.Ports, err = movedPorts(splitList(c.StringSlice("port"))); err != nil {
		return err
	}
	if file := c.String("archive"); file != "" {
		if opts.Archive, err = readableArchive(file); err != nil {
			return err
		}
	}
	if err := p.ensureDaemon(ctx, p.preflight); err != nil {
		return err
	}
	ref, err := p.client().Up(ctx, opts)
	if err != nil {
		return notReadyFor(err)
	}
	change, err := p.follow(ctx, ref)
	return joinErrors(p.upEnded(ctx, change, c.Bool("json")), p.changeEnded(ctx, change, err))
}

// upEnded shows what runs now, and where: also when a stage has failed, as far as
// others have not.
func (p *program) upEnded(ctx context.Context, change api.Change, asJSON bool) error {
	report := upReport{Change: change}
	if change.Status == api.Done || change.Status == api.Failed {
		status, err := p.client().Status(ctx)
		if err != nil {
			return err
		}
		report.Stack = &status
	}
	switch {
	case asJSON:
		return ui.JSON(p.Term.Stdout(), report)
	case report.Stack == nil:
		return nil
	case change.Status == api.Failed && !slices.ContainsFunc(report.Stack.Stages, func(s api.StageStatus) bool { return s.Status != "down" }):
		return nil // the error says it all
	}
	return p.printStatus(*report.Stack)
}

// upReport is what `up --json` prints.
type upReport struct {
	api.Change
	Stack *api.StackStatus `json:"stack,omitempty"` // as `status --json` has it
}

// readableArchive looks at an archive before anything is begun, as the user who
// asks: the daemon, being root, could open others. It returns the whole path,
// for the daemon has another working folder.
func readableArchive(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file: --archive wants one that sandbox image export has written", file)
	}
	if err != nil {
		return "", err
	}
	return filepath.Abs(file)
}

// movedPorts reads the values of --port, NAME=PORT.
func movedPorts(values []string) (map[string]uint16, error) {
	var ports map[string]uint16
	for _, v := range values {
		name, number, _ := strings.Cut(v, "=")
		port, err := strconv.ParseUint(number, 10, 16)
		if name == "" || err != nil || port == 0 {
			return nil, usagef("--port %q: want NAME=PORT, as in grafana=3002", v)
		}
		if ports == nil {
			ports = map[string]uint16{}
		}
		ports[name] = uint16(port)
	}
	return ports, nil
}

// splitList takes comma-separated lists apart, and drops what is empty.
func splitList(lists []string) []string {
	var out []string
	for _, list := range lists {
		for item := range strings.SplitSeq(list, ",") {
			if item = strings.TrimSpace(item); item != "" {
				out = append(out, item)
			}
		}
	}
	return out
}
